"""Model and index -> HTTP: the contract, the Ray Serve deployments and the routes."""
