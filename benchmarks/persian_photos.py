"""A Persian text tower for a frozen vision tower: do Persian texts find photos that nothing was trained on?

    python -m benchmarks.persian_photos --vision-model MODEL --output-dir OUT \\
        --json ../shared/data/persian_grocery --photos ../shared/data/grocery/val_matches.csv

Runs the jobs as a user would: ingests the Persian JSON, holds photos out of it (never two that look alike on both
sides), trains a small text tower from scratch beside MODEL's frozen vision tower, and asks evaluate. The photos of
`--photos` are given the Persian text of the record whose photos lie in a folder of the same name; MODEL must not have
seen them. Recall@k of texts is the share of the distinct texts that have one of their photos among the k best.
"""

import csv
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.train import cpu
from data_jobs import csv_pairs
from data_jobs.items import Record
from data_jobs.persian_json import PersianJson
from data_jobs.sources import read


@dataclass(frozen=True)
class PersianPhotos:
    vision_model: str
    """Model directory whose vision tower is taken."""
    output_dir: Path
    """A new folder for data, model and evaluation."""
    json: Path = Path("../shared/data/persian_grocery")
    photos: Path = Path("../shared/data/grocery/val_matches.csv")
    """CSV of photos that the vision model has not seen; its texts are not used."""
    epochs: int = 60
    seed: int = 0


def main(config: PersianPhotos) -> None:
    out = config.output_dir.absolute()
    out.mkdir(parents=True)
    persian, splits, model = out / "persian", out / "splits", out / "model"
    asked = _unseen(config, out / "unseen.csv")
    _job("data_jobs.ingest", "--persian-json", str(config.json), "--output-dir", str(persian))
    _job(
        *("data_jobs.split", "--data", str(persian), "--split", "0.9", "0.05", "--shuffle"),
        *("--links", "image", "near-image", "--output-dir", str(splits)),
    )
    started = time.perf_counter()
    _job(
        *("train_jobs.finetune", "--vision-model", config.vision_model, "--text-model", "scratch:text"),
        *("--freeze", "vision", "--train-data", str(splits / "train"), "--val-data", str(splits / "val")),
        *("--calibration-data", str(splits / "calibration"), "--epochs", str(config.epochs)),
        *(
            "--batch-size",
            "64",
            "--learning-rate",
            "1e-3",
            "--label-smoothing",
            "0.1",
            "--seed",
            str(config.seed),
        ),
        *("--num-workers", "2", "--cpus-per-worker", "1", "--output-dir", str(model)),
    )
    seconds = time.perf_counter() - started
    best, pairs = str(model / "best_model"), str(out / "unseen_pairs.csv")
    _job("data_jobs.make_mismatches", "--csv", str(out / "unseen.csv"), "--output", pairs)
    _job(
        *("train_jobs.evaluate", "--model", best, "--csv", pairs),
        *("--output-dir", str(out / "evaluation")),
    )
    found = json.loads((out / "evaluation" / "metrics.json").read_text())
    print(
        f"\n{cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}; "
        f"{asked} photos that nothing was trained on; the whole training took {seconds:.0f} s"
    )
    print(json.dumps(found["retrieval"], indent=1))
    print(json.dumps(found["zero_shot"], indent=1))


def _job(*command: str) -> None:
    print("\n$ python -m", " ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def _unseen(config: PersianPhotos, path: Path) -> int:
    """Write the photos with Persian texts; how many there are."""
    told = {
        Path(item.image_path).parent.name: item.text
        for item in read(PersianJson.open(str(config.json)))
        if isinstance(item, Record)
    }
    photos = [Path(record.image_path) for record in csv_pairs.records(str(config.photos))]
    rows = [(photo, told[photo.parent.name], 1) for photo in photos if photo.parent.name in told]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["image_path", "text", "label"])
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    main(tyro.cli(PersianPhotos, description=__doc__))
