"""Progress on stderr: a live bar on a terminal, a line every few seconds in a log."""

import sys
from typing import Any

from tqdm import tqdm


def bar(description: str, unit: str, total: int | None = None, initial: int = 0) -> "tqdm[Any]":
    """A tqdm bar that does not flood logs. `initial` units were done before: they count for no speed."""
    interval = 0.5 if sys.stderr.isatty() else 10
    return tqdm(
        desc=description,
        unit=f" {unit}",
        total=total,
        initial=initial,
        mininterval=interval,
        smoothing=0.1,
    )
