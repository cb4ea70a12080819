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
SHARES = {"train": 0.97, "val": 0.03}
"""Few photos to choose the epoch by: every photo held out is one less to learn from."""
HALVES = {"calibration": 0.5, "test": 0.5}
"""Of the pairs of val_pairs.csv: photos unlike the training ones are what a threshold is for."""


@dataclass(frozen=True)
class DemoData:
    """The CSV files of one demo run."""

    train: Path
    val: Path
    calibration: Path
    test: Path
    classes: Path | None = None
    """Whose texts are the classes of the zero-shot test (None: the test's own)."""


def from_photos(folder: Path, out: Path) -> DemoData:
    """Split `folder`'s matches, and the pairs of val_pairs.csv, by photo; writes CSVs below `out`.

    Held-out matches choose the epoch, and are given mismatches for it. Half of val_pairs.csv calibrates, the other half
    is the test; `out`/val_pairs.csv holds both. A mismatch is "same category" if the photo and the photos of the text
    are below the same top folder, else "other category". Raises InputError (missing_source, too_few_photos).
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
        if record.label == 0:
            continue
        by_split[split_of(_within(record), SHARES)].append(record)
    pairs = _records(folder / PAIRS)
    category_of = _Categories([*matches, *(record for record in pairs if record.label == 1)])
    described = {record.text_group for record in by_split["train"]}
    classes = out / "train.csv" if all(r.text_group in described for r in pairs if r.label == 1) else None
    train, val, calibration, test = (out / f"{name}.csv" for name in ("train", "val", "calibration", "test"))
    data = DemoData(train, val, calibration, test, classes)
    _write(data.train, [(r, r.text, 1, "") for r in by_split["train"]])
    held_out = by_split["val"]
    if len({record.text_group for record in held_out}) < 2:
        raise InputError(
            "too_few_photos",
            f"Of the {len(matches)} rows of {MATCHES} {len(held_out)} were held out, which do not show two things.",
            "Give at least some hundred photos of different things.",
        )
    wrong = mismatched(
        [record.text_group for record in held_out],
        categories=[category_of.photo(record) for record in held_out],
    )
    _write(
        data.val,
        [(r, r.text, 1, "") for r in held_out]
        + [(held_out[i], held_out[j].text, 0, kind) for i, j, kind in wrong],
    )
    annotated = [(r, r.text, r.label, category_of.mismatch_kind(r)) for r in pairs]
    _write(out / PAIRS, annotated)
    for path, half in ((data.calibration, "calibration"), (data.test, "test")):
        _write(path, [row for row in annotated if split_of(_within(row[0]), HALVES) == half])
    return data


class _Categories:
    """Top folders of photos below what all have in common, and of the texts that describe them."""

    def __init__(self, matches: Sequence[Record]) -> None:
        self._of_text = {record.text_group: self.photo(record) for record in matches}

    def photo(self, record: Record) -> str:
        """`images/val/Fruit/Apple/x.jpg` -> `Fruit`: the third folder from the CSV's, else the first there is."""
        parts = Path(_within(record)).parts[:-1]
        return parts[min(2, len(parts) - 1)] if parts else ""

    def mismatch_kind(self, record: Record) -> str:
        if record.label == 1:
            return ""
        same = self._of_text.get(record.text_group) == self.photo(record)
        return "same category" if same else "other category"


def _within(record: Record) -> str:
    """The picture's path from its CSV's folder, so that the splits do not depend on where the data lies."""
    return os.path.relpath(record.image_path, Path(record.source).parent)


def _records(path: Path) -> list[Record]:
    return csv_pairs.records(str(path))


def _write(path: Path, rows: Iterable[tuple[Record, str, int, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_path", "text", "label", "mismatch_kind"])
        writer.writerows(
            (str(Path(r.image_path).absolute()), text, label, kind) for r, text, label, kind in rows
        )
