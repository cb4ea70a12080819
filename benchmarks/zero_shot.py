"""Zero-shot top-1 and top-5: does a photo find its own class text among all of them?

    python -m benchmarks.zero_shot --model demo_output_photos/model/best_model \
        --matches ../shared/data/grocery/val_matches.csv --texts ../shared/data/grocery/train_matches.csv

The candidates are the distinct texts of --texts; a photo that cannot be read is a failure and counted.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from data_jobs import csv_pairs, images
from data_jobs.errors import InputError
from data_jobs.items import Record
from train_jobs.encoder import Encoder
from train_jobs.metrics import recall_at_k


@dataclass(frozen=True)
class ZeroShot:
    model: str
    """Model directory."""
    matches: Path
    """CSV of matching pairs whose photos are asked about."""
    texts: Path
    """CSV whose distinct texts are the classes."""


def matching(path: Path) -> list[Record]:
    return [record for record in csv_pairs.records(str(path)) if record.label == 1]


def main(config: ZeroShot) -> None:
    encoder = Encoder.load(config.model)
    classes = list(dict.fromkeys(record.text for record in matching(config.texts)))
    rows, asked, failures = [], [], 0
    for record in matching(config.matches):
        try:
            image = images.decode(Path(record.image_path).read_bytes(), target=encoder.spec.image_size)
        except (InputError, OSError):
            failures += 1
            continue
        rows.append(encoder.images([image])[0])
        asked.append(record.text)
    similarity = np.stack(rows) @ encoder.texts(classes).T
    relevant = np.array(asked)[:, None] == np.array(classes)[None]
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{len(asked)} photos, {failures} failures, {len(classes)} classes")
    for k in (1, 5):
        print(f"zero-shot top-{k}: {recall_at_k(similarity, relevant, k):.3f}")


if __name__ == "__main__":
    main(tyro.cli(ZeroShot, description=__doc__))
