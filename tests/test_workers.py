"""Workers: alone it is as if there were one; two agree in rank order."""

import pytest
import tiny
import torch

from train_jobs import workers


def _all() -> dict[str, object]:
    rank = workers.rank()
    copied = [torch.full((2,), float(rank)), torch.tensor(7 + rank)]
    workers.copy_from_first(copied)
    return {
        "rank": rank,
        "count": workers.count(),
        "gathered": workers.gathered({"mine": rank}),
        "nothing from one": workers.gathered("here" if rank else None),
        "from first": workers.from_first(f"rank {rank}"),
        "an error": repr(workers.from_first(OSError("full") if rank == 0 else None)),
        "mean": workers.mean([0.1, 0.3][rank]),
        "copied": [tensor.tolist() for tensor in copied],
    }


def test_alone() -> None:
    assert _all() == {
        "rank": 0,
        "count": 1,
        "gathered": [{"mine": 0}],
        "nothing from one": [None],
        "from first": "rank 0",
        "an error": "OSError('full')",
        "mean": 0.1,
        "copied": [[0.0, 0.0], 7],
    }


def test_two() -> None:
    for rank, found in enumerate(tiny.both(_all)):
        assert found.pop("mean") == pytest.approx(0.2, abs=1e-15)  # of float64
        assert found == {
            "rank": rank,
            "count": 2,
            "gathered": [{"mine": 0}, {"mine": 1}],
            "nothing from one": [None, "here"],
            "from first": "rank 0",
            "an error": "OSError('full')",
            "copied": [[0.0, 0.0], 7],
        }
