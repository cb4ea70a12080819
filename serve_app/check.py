"""A configuration -> what is wrong with it, in a line and at once. `serve run` would tell among its own, after a while.

    python -m serve_app.check [--config serve_config.yaml] [--ports]

Reads the file and the environment as the service does: settings, keys, hosts, models, indexes and whose they are.
Starts nothing. Exit code 0: sound; 2: it is not.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from data_jobs import command
from data_jobs.errors import InputError
from serve_app.app import build

_IMPORT_PATH = f"{build.__module__}:{build.__name__}"
_HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
"""Ray's variables and defaults: HAProxy takes these as well, and where it cannot, only its log says so."""


@dataclass(frozen=True)
class Check:
    config: Path = Path("serve_config.yaml")
    """What `serve run` or `serve deploy` would be given."""
    ports: bool = False
    """Check that its ports are free as well: before `serve run`, not while a service is there."""


def run(config: Check) -> None:
    """Raises InputError: bad_config, port_in_use, and what serve_app.app.build raises."""
    deploy = _read(config.config)
    for application in deploy.applications:
        if application.import_path == _IMPORT_PATH:
            build(application.args)
    if config.ports:
        asked = {"http_options.port": deploy.http_options.port}
        if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
            asked |= {name: int(os.environ.get(name, port)) for name, port in _HAPROXY_PORTS.items()}
        for name, port in asked.items():
            _require_free(deploy.http_options.host, port, name)
    print(f"{config.config} is sound")


def _read(path: Path) -> ServeDeploySchema:
    try:
        return ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise InputError(
            "bad_config",
            f"{path} is no configuration of Ray Serve: {error}.",
            "Compare it with serve_config.yaml.",
        ) from error


def _require_free(host: str, port: int, name: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: what the last one left behind is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                "port_in_use",
                f"Port {port} of {host} cannot be had ({error.strerror}).",
                f"End what listens there (another `make serve`?), or set another {name}.",
            ) from error


if __name__ == "__main__":
    command.main(Check, run, __doc__)
