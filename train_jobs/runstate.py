"""RunState: all that a training needs to go on at the step where it was stopped, on disk whole or not at all.

```
FOLDER/step_00000120/state.pt    weights, moving average, optimisers, history
```
There are no random states in it: every random number of a step follows from the seed and the step's number.
"""

import contextlib
import pickle
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_jobs.artefacts import publish

_FILE = "state.pt"
_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError)
KEPT = 2
"""How many states stay on disk: one more than needed, for the case that the newest cannot be read."""


@dataclass
class RunState:
    """Where a run stands after `step` steps."""

    step: int
    model: dict[str, torch.Tensor]  # towers: parameters and buffers
    average: dict[str, torch.Tensor] | None  # of the moving average, where there is one
    optimisers: list[dict[str, Any]]
    history: list[dict[str, float]] = field(default_factory=list)
    running: list[dict[str, float]] = field(default_factory=list)  # by worker: sums of the epoch under way

    def save(self, folder: Path) -> Path:
        """Write the state beside the earlier ones, then remove all but the newest KEPT. Raises OSError (no room)."""
        final = folder / f"step_{self.step:08d}"
        with publish(final, marker=_FILE, overwrite=True) as aside:
            try:
                with (aside / _FILE).open("wb") as file:
                    torch.save(vars(self), file)
            except RuntimeError as error:  # torch's archive hides the OSError behind an error of its own
                raise OSError(f"{final} could not be written: {error.__context__ or error}") from error
        for old in _all(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    @classmethod
    def latest(cls, folder: Path) -> "RunState | None":
        """The newest state in `folder` that can be read, on the CPU; None if there is none."""
        for path in reversed(_all(folder)):
            with contextlib.suppress(*_DAMAGED):  # the one before it holds
                with zipfile.ZipFile(path / _FILE) as archive:
                    sound = archive.testzip() is None  # torch does not look at the checksums that it writes
                if sound:
                    return cls(**torch.load(path / _FILE, map_location="cpu", weights_only=True))
        return None


def _all(folder: Path) -> list[Path]:
    """The states in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / _FILE).is_file())
