"""Pictures of numbers, drawn without a display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_MEASURES = {"val_auroc": ("C1", "validation AUROC"), "val_recall": ("C2", "validation recall")}


def save_training_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `training_curve` to `path`, as the format that its suffix names."""
    training_curve(history).savefig(path, dpi=120)


def training_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss and what was measured on validation data, by epoch, with the best epoch marked.

    `history` is the epoch `events`, in order; a measure that is NaN in an epoch is left out there.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    loss = figure.add_subplot()
    loss.plot(*_points(history, "train_loss"), "C0.-", label="training loss")
    best = next((epoch for epoch in reversed(history) if epoch["best"]), None)
    if best is not None:
        loss.axvline(best["epoch"], color="0.6", linestyle="--", label=f"best: epoch {best['epoch']}")
    measured = [name for name in _MEASURES if _points(history, name)[0]]
    if measured:
        quality = loss.twinx()
        for name in measured:
            color, label = _MEASURES[name]
            quality.plot(*_points(history, name), f"{color}.-", label=label)
            if best is not None and math.isfinite(best[name]):
                quality.plot(best["epoch"], best[name], f"{color}o")
                quality.annotate(
                    f"{best[name]:.3f}", (best["epoch"], best[name]), (5, -14), textcoords="offset points",
                    color=color,
                )  # fmt: skip
        lowest = min(min(_points(history, name)[1]) for name in measured)
        quality.set(ylabel=" and ".join(_MEASURES[name][1] for name in measured))
        quality.set(ylim=(min(0.5, lowest) - 0.05, 1.005))
    loss.set(xlabel="epoch", ylabel="training loss")
    loss.set(xlim=(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5))
    loss.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    loss.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _points(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    known = [epoch for epoch in history if math.isfinite(epoch[name])]
    return [epoch["epoch"] for epoch in known], [epoch[name] for epoch in known]
