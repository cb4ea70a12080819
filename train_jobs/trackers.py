"""A training seen while it runs: a bar on the terminal, TensorBoard always, MLflow where installed and configured.

The trainer tells of itself in `events`; those that come again are shown and recorded once. No tracker ends a training:
what cannot be recorded is told once, on the terminal, and then left out.
"""

import importlib.util
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from data_jobs import progress
from train_jobs.events import finite
from train_jobs.mlflow_log import MLFLOW_RUN_ID, MLflow
from train_jobs.tensorboard_log import TENSORBOARD, TensorBoard


class Trackers:
    """Context manager that shows and records one run in the driver's process.

    Leaving it by an exception marks the MLflow run FAILED, by Ctrl-C KILLED, else FINISHED. `event` and `finish` are
    for one thread at a time.
    """

    def __init__(self, terminal: "_Terminal", tensorboard: TensorBoard, mlflow: MLflow | None) -> None:
        self._terminal, self._tensorboard, self._mlflow = terminal, tensorboard, mlflow

    @classmethod
    def open(cls, folder: Path, flags: Mapping[str, object], *, resume: bool) -> Self:
        """Record into `folder`, which exists; with `resume` after what is recorded there.

        `flags` are the run's resolved flags. MLflow records when MLFLOW_TRACKING_URI is set; that and the rest of its
        own environment (MLFLOW_EXPERIMENT_NAME, credentials) are read now, never at import.
        """
        terminal = _Terminal()
        mlflow = None
        if os.environ.get("MLFLOW_TRACKING_URI"):
            if importlib.util.find_spec("mlflow"):
                mlflow = MLflow(folder / MLFLOW_RUN_ID, flags, resume, terminal.say)
            else:
                terminal.say(
                    "WARNING: MLFLOW_TRACKING_URI is set but mlflow is not installed; pip install mlflow-skinny."
                )
        return cls(terminal, TensorBoard(folder / TENSORBOARD, flags, resume, terminal.say), mlflow)

    def event(self, event: Mapping[str, Any]) -> None:
        """Show and record one event. Raises ValueError for a kind that there is not."""
        kind = event["kind"]
        if kind not in ("start", "step", "epoch", "checkpoint", "message"):
            raise ValueError(f"there is no event of kind {kind!r}")
        self._terminal.event(event)
        self._tensorboard.event(event)
        if self._mlflow and kind in ("step", "epoch"):
            self._mlflow.event(event)

    def finish(self, metrics: Mapping[str, float], artefacts: Sequence[Path] = ()) -> None:
        """Record a successful run's final metrics; MLflow takes the artefacts, files and directories, as well."""
        final = finite({f"final/{name}": value for name, value in metrics.items()})
        self._tensorboard.finish(final)
        if self._mlflow:
            self._mlflow.finish(final, artefacts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal.close()
        self._tensorboard.close()
        if self._mlflow:
            killed = kind is not None and not issubclass(kind, Exception)  # KeyboardInterrupt, SystemExit
            self._mlflow.close("FINISHED" if kind is None else "KILLED" if killed else "FAILED")


class _Terminal:
    """The bar on stderr; lines of epochs and messages on stdout."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._saved = ""

    def say(self, text: str) -> None:
        """Print a line without breaking the bar; any thread may."""
        tqdm.write(text)

    def event(self, event: Mapping[str, Any]) -> None:
        match event["kind"]:
            case "start":
                self._start(event)
            case "step":
                self._step(event)
            case "epoch":
                self.say(_epoch_line(event))
            case "checkpoint":
                self._saved = f", saved {event['step']}"
            case "message":
                self.say(event["text"])

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _start(self, event: Mapping[str, Any]) -> None:
        done, where = event["resumed_step"], f"after step {event['resumed_step']} of {event['steps']}"
        workers = f"{event['workers']} worker{'s' if event['workers'] != 1 else ''}"
        if self._bar is not None:
            self.say(f"started again {where}, with {workers}")
        elif done:
            self.say(f"resumed {where}, with {workers}")
        bar = self._shown(event["steps"], done)
        bar.n = bar.initial = bar.last_print_n = done  # `initial`: what came before counts for no speed
        bar.start_t = bar.last_print_t = time.time()
        bar.refresh()

    def _step(self, event: Mapping[str, Any]) -> None:
        bar = self._shown(event["steps"])
        bar.set_description_str(f"epoch {event['epoch']}/{event['epochs']}", refresh=False)
        bar.set_postfix_str(
            f"loss {event['loss']:.3f}, {event['samples_per_s']:.0f} pairs/s, data-wait {event['data_wait']:.0%}"
            f"{self._saved}",
            refresh=False,
        )
        bar.update(event["step"] - bar.n)  # below zero when steps come again

    def _shown(self, steps: int, done: int = 0) -> "tqdm[Any]":
        if self._bar is None:
            self._bar = progress.bar("train", "steps", steps, initial=done)
            self._bar.bar_format = (
                "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, ETA {remaining}{postfix}"
            )
        self._bar.total = steps
        return self._bar


def _epoch_line(event: Mapping[str, Any]) -> str:
    named = {"validation AUROC": event["val_auroc"], "recall": event["val_recall"]}
    known = [f"{name} {value:.4f}" for name, value in named.items() if math.isfinite(value)]
    best = ["best"] if event["best"] else []
    return "  ".join([f"epoch {event['epoch']:3d}", f"loss {event['train_loss']:.3f}", *known, *best])
