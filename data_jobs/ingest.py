"""Raw files -> a checked dataset directory.

    python -m data_jobs.ingest --csv pairs.csv [--image-base-path DIR] --output-dir DATASET
    python -m data_jobs.ingest --persian-json DIR --output-dir DATASET

Streams: files are read, pictures decoded and parts written by Ray tasks; the driver sees only counts.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import TaskPoolStrategy

from data_jobs import command, dataset, images, progress, sources
from data_jobs.artefacts import publish
from data_jobs.dataset import MARKER, Part
from data_jobs.errors import InputError
from data_jobs.session import connected
from data_jobs.sources import Item, Note, Passage, Record, Reject

_KINDS: dict[str, type[Item]] = {kind.__name__: kind for kind in (Record, Passage, Reject, Note)}


@dataclass(frozen=True)
class Ingest:
    output_dir: Path
    """Where the dataset appears, whole, at the end."""
    csv: Path | None = None
    """CSV with the columns image_path,text,label; others are kept as metadata."""
    persian_json: Path | None = None
    """Folder of JSON records with title, response and image_path or folder_path."""
    image_base_path: Path | None = None
    """Folder that relative image paths of the CSV start from (default: the CSV's own)."""
    image_size: int = 256
    """Shortest side, in pixels, that pictures are stored at; never enlarged."""
    max_pixels: int = images.MAX_PIXELS
    """Pictures with more pixels are rejected as decompression bombs."""
    rows_per_part: int = 256
    """Rows that one task checks and writes together."""
    overwrite: bool = False
    """Replace an earlier dataset in the output directory."""


def run(config: Ingest) -> dict[str, Any]:
    """Ingest, print the counts and return the report. Raises InputError."""
    if (config.csv is None) == (config.persian_json is None):
        raise InputError(
            "bad_arguments", "Give either --csv or --persian-json.", "See --help for the formats."
        )
    if config.csv is not None:
        next(sources.read_csv(config.csv, config.image_base_path), None)  # unusable as a whole: now
        files = [config.csv.absolute()]
    else:
        assert config.persian_json is not None
        files = sources.persian_json_files(config.persian_json.absolute())
    for name in ("image_size", "max_pixels", "rows_per_part"):
        command.positive(name, getattr(config, name))
    base = config.image_base_path.absolute() if config.image_base_path else None
    with publish(config.output_dir, marker=MARKER, overwrite=config.overwrite) as folder, connected():
        parts = list(_stream(config, [str(file) for file in files], base, folder))
        report = dataset.finish(
            folder,
            parts,
            image_size=config.image_size,
            inputs=[str(config.csv or config.persian_json)],
            pairs_required=config.csv is not None,
        )
    pairs, passages = report["pairs"], report["passages"]
    print(
        f"{config.output_dir}: {pairs['read']} pairs read = {pairs['written']} written + "
        f"{pairs['rejected']} rejected; {passages['unique']} unique passages; {report['codes'] or 'no remarks'}"
    )
    return report


def _stream(config: Ingest, files: list[str], base: Path | None, folder: Path) -> Iterator[Part]:
    """Run the Ray Data pipeline and yield each part as its task answers, with progress on stderr."""

    def read(batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for file in batch["item"]:
            items = (
                sources.read_csv(file, base) if config.csv is not None else sources.read_persian_json(file)
            )
            for chunk in dataset.chunks(items, config.rows_per_part):
                yield {"item": [_pack(item) for item in chunk]}

    def write(batch: dict[str, Any]) -> dict[str, list[str]]:
        items = [_unpack(item) for item in batch["item"]]
        part = dataset.write_part(items, folder, image_size=config.image_size, max_pixels=config.max_pixels)
        return {"part": [part.to_json()]}

    stream = (
        ray.data.from_items(files, override_num_blocks=min(len(files), 64))
        .map_batches(read, batch_size=1, num_cpus=0.5)
        .repartition(target_num_rows_per_block=config.rows_per_part)
        .map_batches(write, batch_size=config.rows_per_part, compute=TaskPoolStrategy(), num_cpus=1)
    )
    with progress.bar("ingest", "pairs") as bar:
        for row in stream.iter_rows():
            part = Part(**json.loads(row["part"]))
            bar.update(part.pairs_read)
            yield part


def _pack(item: Item) -> str:
    return json.dumps([type(item).__name__, asdict(item)], ensure_ascii=False)


def _unpack(packed: str) -> Item:
    kind, fields = json.loads(packed)
    return _KINDS[kind](**fields)


if __name__ == "__main__":
    command.main(Ingest, run, __doc__)
