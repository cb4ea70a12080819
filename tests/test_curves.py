"""The picture of a training: every number at its epoch, nothing where nothing was measured."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from train_jobs.curves import save_training_curve, training_curve

NAN = float("nan")


def _epoch(epoch: int, loss: float, auroc: float, recall: float, best: bool) -> dict[str, Any]:
    return {
        "epoch": epoch, "train_loss": loss, "val_auroc": auroc, "val_recall": recall, "best": float(best),
    }  # fmt: skip


HISTORY = [
    _epoch(1, 2.5, 0.6, NAN, True),
    _epoch(2, 1.5, 0.9, 0.2, True),
    _epoch(3, 1.25, 0.8, 0.3, False),
]


def _lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))  # type: ignore[arg-type]
        for axes in figure.axes
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def test_every_number_stands_at_its_epoch() -> None:
    figure = training_curve(HISTORY)
    assert _lines(figure) == {
        "training loss": ([1, 2, 3], [2.5, 1.5, 1.25]),
        "validation AUROC": ([1, 2, 3], [0.6, 0.9, 0.8]),
        "validation recall": ([2, 3], [0.2, 0.3]),
        "best: epoch 2": ([2, 2], [0, 1]),  # a vertical line, in shares of the height
    }
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.900", "0.200"]
    assert figure.axes[1].get_ylim()[0] < 0.2


def test_what_was_not_measured_is_not_drawn() -> None:
    no_recall = training_curve([{**epoch, "val_recall": NAN} for epoch in HISTORY])
    assert "validation recall" not in _lines(no_recall)
    assert no_recall.axes[1].get_ylabel() == "validation AUROC"
    nothing = training_curve([{**epoch, "val_auroc": NAN, "val_recall": NAN} for epoch in HISTORY])
    assert set(_lines(nothing)) == {"training loss", "best: epoch 2"}
    assert len(nothing.axes) == 1


def test_one_epoch_has_one_tick() -> None:
    axes = training_curve(HISTORY[:1]).axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_the_file_is_a_picture_with_lines_in_it(tmp_path: Path) -> None:
    save_training_curve(HISTORY, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (960, 540)
        pixels = np.asarray(picture.convert("RGB"))
    for color in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):  # loss, AUROC, recall
        assert (pixels == color).all(-1).sum() > 100
