"""Split a CSV or a dataset so that nothing leaks from one split to another.

    python -m data_jobs.split --csv F --split 0.8 --shuffle --seed 0 --output-dir D
    python -m data_jobs.split --data DATASET --split 0.8 0.1 0.1 --shuffle --output-dir D

Rows that show or say the same stay together: connected components over product (group_id), picture bytes,
near-duplicate picture and normalised text. Two numbers make train and val, three train, val and calibration. Writes

    D/train/ D/val/ ...          datasets, for --train-data and --val-data
    D/train.csv D/val.csv ...    the same rows as image_path,text,label and the source's other columns
    D/split.json                 components, shares asked and got; D/rejects.csv what could not be used
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from data_jobs import command, dataset, duplicates, files, formats, images, partition, session, stream
from data_jobs.artefacts import publish
from data_jobs.errors import InputError

MARKER = "split.json"
NAMES = ("train", "val", "calibration")
Link = Literal["product", "image", "near-image", "text"]


@dataclass(frozen=True)
class Split:
    output_dir: Path
    """Where the splits appear, whole, at the end."""
    csv: str | None = None
    """CSV with the columns image_path,text,label."""
    data: Path | None = None
    """Dataset directory of data_jobs.ingest, instead of a CSV."""
    image_base_path: str | None = None
    """Folder that relative image paths of the CSV start from; the CSVs written keep paths relative to it."""
    split: tuple[float, ...] = (0.8,)
    """Share of train, and of val, and of calibration; what is missing to 1 makes the next."""
    shuffle: bool = False
    """Assign by the seed; else the first rows go to train, the next to val, in the order of the file."""
    seed: int = 0
    """Another seed, another split; the same seed gives the same on any number of workers."""
    links: tuple[Link, ...] = ("product", "image", "near-image", "text")
    """What ties rows together."""
    image_size: int = 256
    """Shortest side, in pixels, that a CSV's pictures are stored at."""
    overwrite: bool = False
    """Replace an earlier split in the output directory."""


def run(config: Split) -> dict[str, Any]:
    """Split, print the shares and return what split.json holds. Raises InputError."""
    if (config.csv is None) == (config.data is None):
        raise InputError("bad_arguments", "Give either --csv or --data.", "See --help.")
    command.positive("image_size", config.image_size)
    plan = partition.Plan(shares(config.split), config.links, config.shuffle, config.seed)
    base = None if config.image_base_path is None else files.absolute(config.image_base_path)
    with (
        publish(config.output_dir, marker=MARKER, overwrite=config.overwrite) as folder,
        session.connected(),
        _dataset(config, folder) as source,
    ):
        # In a task, so that on a cluster the head is spared; the tables are DuckDB's and spill.
        report: dict[str, Any] = ray.get(_carry_out.remote(source, folder, plan, base))
    for name, got in report["splits"].items():
        print(
            f"{config.output_dir / name}: {got['rows']} rows ({got['got']:.1%}, asked {got['asked']:.0%}), "
            f"{got['match']} match, {got['mismatch']} mismatch"
        )
    for warning in report["warnings"]:
        print(f"warning (giant_component): {warning}")
    return report


def shares(given: tuple[float, ...]) -> dict[str, float]:
    """(0.8,) -> train 0.8 and val 0.2. Raises InputError (bad_arguments)."""
    values = list(given)
    rest = 1 - sum(values)
    if rest > 1e-9:
        values.append(rest)
    if not 2 <= len(values) <= len(NAMES) or any(not 0 < value < 1 for value in values) or rest < -1e-9:
        raise InputError(
            "bad_arguments",
            f"--split {' '.join(map(str, given))} does not make two or three shares between 0 and 1.",
            "Give --split 0.8 for train and val, or --split 0.8 0.1 0.1 for calibration too.",
        )
    return dict(zip(NAMES, values, strict=False))


@contextmanager
def _dataset(config: Split, folder: Path) -> Iterator[Path]:
    """The dataset to split: the given one, or the CSV ingested beside the output."""
    if config.data is not None:
        dataset.read_report(config.data)
        yield config.data.absolute()
        return
    source = formats.source_of(csv=config.csv, image_base_path=config.image_base_path)
    with tempfile.TemporaryDirectory(prefix=".split-", dir=folder) as scratch:
        stream.ingest(source, Path(scratch), image_size=config.image_size, max_pixels=images.MAX_PIXELS)
        report = dataset.finish(
            Path(scratch), image_size=config.image_size, inputs=[source.name], pairs_required=True
        )
        shutil.copy(Path(scratch) / "rejects.csv", folder)
        pairs = report["pairs"]
        print(
            f"{config.csv}: {pairs['read']} rows read = {pairs['written']} to split + {pairs['rejected']} rejected"
        )
        yield Path(scratch)


@ray.remote(num_cpus=1, max_retries=0)
def _carry_out(source: Path, folder: Path, plan: partition.Plan, base: str | None) -> dict[str, Any]:
    targets: Mapping[str, Path] = {name: folder / name for name in plan.shares}
    with tempfile.TemporaryDirectory() as scratch, duplicates.opened({"all": source}) as database:
        report = partition.assign(database, plan, Path(scratch))
        partition.write_datasets(database, source, targets)
        partition.write_csvs(database, {name: folder / f"{name}.csv" for name in targets}, base)
    for target in targets.values():
        dataset.finish_selection(target, source)
    (folder / MARKER).write_text(json.dumps(report, indent=2, ensure_ascii=False))
    return report


if __name__ == "__main__":
    command.main(Split, run, __doc__)
