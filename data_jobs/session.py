"""How a job reaches Ray. Only verbs import this module; it is the one library here that knows Ray.

`RAY_ADDRESS` (set by `ray job submit`) names the cluster; without it a job starts a private one on this
machine and stops it at its end.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_jobs.errors import InputError

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset it warns on machines without GPU
}


def may_grow() -> bool:
    """Whether the cluster is one that was joined, where a node may yet appear; a machine of our own stays as it is."""
    return "RAY_ADDRESS" in os.environ


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
    if may_grow():
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the dashboard's Train tab
    else:  # where there is no dashboard, tracking waits a minute for it at the end of every training
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
    context.raise_original_map_exception = True  # an InputError of a task is one here as well
    try:
        yield
    finally:
        ray.shutdown()


def placed(device: str) -> tuple[str, int]:
    """The device and the number of GPUs that a task shall have for `device`: auto, cpu, cuda, cuda:1 or mps.

    auto takes a GPU each where the connected cluster has any. Raises InputError (no_such_device) for cuda on a machine
    of our own without GPU; a cluster that was joined may still start a node with one.
    """
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if device == "auto":
        return ("cuda", 1) if gpus else ("auto", 0)
    if not device.startswith("cuda"):
        return device, 0
    if not gpus:
        if not may_grow():
            raise InputError(
                "no_such_device",
                f"The device is {device!r}, and this machine has no GPU.",
                "Use --device cpu.",
            )
        print("No node with a GPU is there yet: waiting until the cluster has one.", flush=True)
    return "cuda", 1
