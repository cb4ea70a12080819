"""Which device a model runs on."""

import torch

from data_jobs.errors import InputError


def choose_device(device: str = "auto") -> str:
    """auto -> cuda, mps or cpu, whatever is there. Raises InputError (no_such_device) for one that is not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device.split(":")[0], False):
        raise InputError(
            "no_such_device",
            f"The device {device!r} is not on this machine; there are {[d for d, ok in there.items() if ok]}.",
            "Use auto.",
        )
    return device
