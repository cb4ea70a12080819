"""Pictures of numbers, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def save_training_curve(history: Sequence[dict[str, float]], path: Path) -> None:
    """Training loss and validation AUROC by epoch, as a PNG."""
    epochs = [epoch["epoch"] for epoch in history]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    loss = figure.add_subplot()
    quality = loss.twinx()
    left = loss.plot(epochs, [e["train_loss"] for e in history], "C0", label="training loss")
    right = quality.plot(epochs, [e["val_auroc"] for e in history], "C1", label="validation AUROC")
    best = max(history, key=lambda e: e["val_auroc"])
    quality.plot(best["epoch"], best["val_auroc"], "C1o")
    quality.annotate(
        f"{best['val_auroc']:.3f}", (best["epoch"], best["val_auroc"]), (0, -16), textcoords="offset points",
        ha="center",
    )  # fmt: skip
    loss.set(xlabel="epoch", ylabel="loss")
    quality.set(ylabel="AUROC", ylim=(min(0.5, *(e["val_auroc"] for e in history)), 1.005))
    loss.legend(handles=[*left, *right], loc="center right")
    loss.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
