"""What the demo trains and tests on: the drawn catalogue's files as they are, or a folder of photos made ready."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_jobs import csv_pairs
from data_jobs.errors import InputError
from data_jobs.items import Record
from data_jobs.mismatches import mismatched
from data_jobs.splits import split_of

MATCHES, PAIRS = "train_matches.csv", "val_pairs.csv"
SHARES = {"train": 0.9, "val": 0.05, "calibration": 0.05}
"""Few photos to choose the epoch and the threshold by: every photo held out is one less to learn from."""


@dataclass(frozen=True)
class DemoData:
    """The CSV files of one demo run."""

    train: Path
    val: Path
    calibration: Path
    test: Path


def from_photos(folder: Path, out: Path) -> DemoData:
    """Split `folder`'s matches by photo and give the held-out ones mismatches; writes CSVs below `out`.

    The pairs of val_pairs.csv are the test and are only annotated: a mismatch is "same category" if the photo and
    the photos of the text are below the same top folder, else "other category". Raises InputError (missing_source).
    """
    for name in (MATCHES, PAIRS):
        if not (folder / name).is_file():
            raise InputError(
                "missing_source",
                f"{folder} holds no {name}.",
                f"A demo folder needs {MATCHES} and {PAIRS} with image_path,text,label.",
            )
    out.mkdir(parents=True, exist_ok=True)
    matches = _records(folder / MATCHES)
    by_split: dict[str, list[Record]] = {name: [] for name in SHARES}
    for record in matches:
        by_split[split_of(record.image_path, SHARES)].append(record)
    test = _records(folder / PAIRS)
    category_of = _Categories([*matches, *(record for record in test if record.label == 1)])
    data = DemoData(*(out / f"{name}.csv" for name in ("train", "val", "calibration", "test")))
    _write(data.train, [(r, r.text, 1, "") for r in by_split["train"]])
    for path, name in ((data.val, "val"), (data.calibration, "calibration")):
        held_out = by_split[name]
        wrong = mismatched(
            [record.text_group for record in held_out],
            categories=[category_of.photo(record) for record in held_out],
        )
        _write(
            path,
            [(r, r.text, 1, "") for r in held_out]
            + [(held_out[i], held_out[j].text, 0, k) for i, j, k in wrong],
        )
    _write(data.test, [(r, r.text, r.label, category_of.mismatch_kind(r)) for r in test])
    return data


class _Categories:
    """Top folders of photos below what all have in common, and of the texts that describe them."""

    def __init__(self, matches: Sequence[Record]) -> None:
        self._of_text = {record.text_group: self.photo(record) for record in matches}

    def photo(self, record: Record) -> str:
        """`images/val/Fruit/Apple/x.jpg` -> `Fruit`: the third folder from the CSV's, else the first there is."""
        parts = Path(os.path.relpath(record.image_path, Path(record.source).parent)).parts[:-1]
        return parts[min(2, len(parts) - 1)] if parts else ""

    def mismatch_kind(self, record: Record) -> str:
        if record.label == 1:
            return ""
        same = self._of_text.get(record.text_group) == self.photo(record)
        return "same category" if same else "other category"


def _records(path: Path) -> list[Record]:
    return csv_pairs.records(str(path))


def _write(path: Path, rows: Iterable[tuple[Record, str, int, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_path", "text", "label", "mismatch_kind"])
        writer.writerows(
            (str(Path(r.image_path).absolute()), text, label, kind) for r, text, label, kind in rows
        )
