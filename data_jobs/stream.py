"""A source through Ray Data: read in one place, checked and written by every CPU of the cluster, resumable.

The verbs that read raw files share this module; like `session` it is a library that knows Ray. What travels between
tasks is a chunk of unparsed rows and, back, a part's counts: pictures never pass through the object store, and
no process holds more than a few chunks.
"""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext, TaskPoolStrategy

from data_jobs import dataset, images, progress, sources
from data_jobs.csv_pairs import CsvPairs
from data_jobs.dataset import Part
from data_jobs.sources import Source

ROWS_PER_PART = 2048
READERS, READ_CPUS, WRITE_CPUS = 4, 0.05, 0.9
"""A reader is idle nearly always, so that on two CPUs one reader and two writers run side by side."""


def ingest(
    source: Source, folder: Path, *, image_size: int, max_pixels: int, rows_per_part: int = ROWS_PER_PART
) -> None:
    """Write every chunk of `source` as a part below `folder`, with progress on stderr.

    Chunks and parts depend on the source and `rows_per_part` alone, not on the number of workers, so a task that is
    run again after the loss of a worker or a node writes the same part, and a part in the ledger is left alone.
    Needs a connected Ray.
    """
    with progress.bar("ingest", "pairs") as bar:
        for part in _parts(source, folder, image_size, max_pixels, rows_per_part):
            bar.update(part.pairs_read)


def pairs_of_csv(
    csv: str, folder: Path, *, image_base_path: str | None = None, image_size: int = 256
) -> dict[str, Any]:
    """A CSV of pairs as a dataset in `folder`; its report. How jobs that train and measure read a CSV.

    `folder` is on storage that every node sees. What an earlier, killed call has written there is taken up.
    """
    source = CsvPairs.open(csv, image_base_path)
    folder.mkdir(parents=True, exist_ok=True)
    ingest(source, folder, image_size=image_size, max_pixels=images.MAX_PIXELS)
    return dataset.finish(folder, image_size=image_size, inputs=[source.name], pairs_required=True)


def _parts(
    source: Source, folder: Path, image_size: int, max_pixels: int, rows_per_part: int
) -> Iterator[Part]:
    def read(batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for packed in batch["group"]:
            group, members = json.loads(packed)
            for chunk in sources.chunks(source, group, members, rows_per_part):
                yield {"name": [chunk.name], "raws": [pickle.dumps(chunk.raws)]}

    def write(batch: dict[str, Any]) -> dict[str, list[str]]:
        parts = []
        for name, raws in zip(batch["name"], batch["raws"], strict=True):
            items = (item for raw in pickle.loads(raws) for item in source.items(raw))
            part = dataset.write_part(str(name), items, folder, image_size=image_size, max_pixels=max_pixels)
            parts.append(part.to_json())
        return {"part": parts}

    groups = [json.dumps(group) for group in sources.groups(source.files())]
    with _one_row_a_block():
        stream = (
            ray.data.from_items([{"group": group} for group in groups], override_num_blocks=len(groups))
            .map_batches(
                read,
                batch_size=1,
                compute=TaskPoolStrategy(size=min(READERS, len(groups))),
                num_cpus=READ_CPUS,
            )
            .map_batches(write, batch_size=1, compute=TaskPoolStrategy(), num_cpus=WRITE_CPUS)
        )
    for row in stream.iter_rows():
        yield Part(**json.loads(row["part"]))


@contextmanager
def _one_row_a_block() -> Iterator[None]:
    """Datasets made in the block pass every row on at once: a row is a chunk here, and a task's worth of work."""
    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 1
    try:
        yield
    finally:
        context.target_max_block_size = before
