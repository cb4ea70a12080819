"""Progress on stderr: a live bar on a terminal, a line every few seconds in a log."""

import sys
from typing import Any

from tqdm import tqdm


def bar(description: str, unit: str, total: int | None = None) -> "tqdm[Any]":
    """A tqdm bar that does not flood logs."""
    interval = 0.5 if sys.stderr.isatty() else 10
    return tqdm(desc=description, unit=f" {unit}", total=total, mininterval=interval, smoothing=0.1)
