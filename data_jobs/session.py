"""How a job reaches Ray. Only verbs import this module; it is the one library here that knows Ray.

`RAY_ADDRESS` (set by `ray job submit`) names the cluster; without it a job starts a private one on this
machine and stops it at its end.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset it warns on machines without GPU
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's Train tab
}


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS or an already connected one, else start a local one for the block.

    Authentication: a local cluster is private to this process tree and listens on loopback only, so it runs
    without tokens unless RAY_AUTH_MODE says otherwise (unset, every Ray command guesses differently).
    """
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    root = str(Path(__file__).parent.parent)
    # Workers must find the three packages also when the job is not run from the checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    address = os.environ.get("RAY_ADDRESS") or "local"  # never a cluster that happens to run on this machine
    ray.init(address, log_to_driver=False, logging_level="warning")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # jobs print their own
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()
