"""Small pictures for a report, as `data:` addresses: of pairs from the dataset itself, of rejects from their files.

A picture that cannot be shown has no thumbnail; that is never an error.
"""

import base64
import io
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from data_jobs import files, images
from data_jobs.database import parquet, spilling
from data_jobs.errors import InputError

SIDE = 96
"""Pixels of a thumbnail's longest side: about 3 kB as JPEG."""
QUALITY = 80
MAX_BYTES = 30_000_000
"""Of a rejected file; a larger one is not read."""


@dataclass(frozen=True)
class Thumbnails:
    """`data:` addresses of JPEG pictures: `pairs` by (split, pair_id), `rejects` by (source, image_path)."""

    pairs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    rejects: Mapping[tuple[str, str], str] = field(default_factory=dict)


def collect(numbers: Mapping[str, Any], datasets: Mapping[str, Path]) -> Thumbnails:
    """Thumbnails of all examples in a survey's `numbers`."""
    examples = numbers["examples"]
    kinds = [groups for name, groups in examples.items() if name != "leaks"] + list(
        examples["leaks"].values()
    )
    rows = [row for groups in kinds for group in groups for row in group["rows"]]
    pairs = {}
    for split, folder in datasets.items():
        wanted = {row["pair_id"] for row in rows if row["split"] == split}
        for pair_id, image in stored(folder, wanted):
            if (small := data_uri(image)) is not None:
                pairs[split, pair_id] = small
    rejects = {}
    for case in numbers["rejects"]["examples"]:
        data = _rejected(case["source"], case["image_path"])
        if data and (small := data_uri(data)) is not None:
            rejects[case["source"], case["image_path"]] = small
    return Thumbnails(pairs, rejects)


def stored(folder: Path, pair_ids: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The pictures of some pairs, as (pair_id, JPEG bytes), read by row group so that no others are decompressed."""
    if not pair_ids:
        return
    with spilling() as database:
        places = database.execute(
            f"SELECT filename, file_row_number, pair_id FROM {parquet(folder / 'pairs')}"
            " WHERE pair_id IN (SELECT unnest($1)) ORDER BY ALL",
            [sorted(pair_ids)],
        ).fetchall()
    of_file = defaultdict(list)
    for name, row, pair_id in places:
        of_file[name].append((row, pair_id))
    for name, rows in of_file.items():
        with pq.ParquetFile(name) as part:
            start = 0
            for group in range(part.num_row_groups):
                end = start + part.metadata.row_group(group).num_rows
                chosen = [(row - start, pair_id) for row, pair_id in rows if start <= row < end]
                if chosen:
                    column = part.read_row_group(group, columns=["image"])["image"]
                    yield from ((pair_id, column[row].as_py()) for row, pair_id in chosen)
                start = end


def data_uri(image: bytes) -> str | None:
    """A thumbnail of the picture, or of the part of it that is there; None if nothing is.

    Pictures of more than images.MAX_PIXELS have none either.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, which does not matter here
            small = _thumbnail(image)
    except Exception:  # Pillow's parsers raise many types on damaged files; a report must not fail for one
        return None
    if small is None:
        return None
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def _thumbnail(data: bytes) -> Image.Image | None:
    try:
        picture: Image.Image | None = images.decode(data, target=2 * SIDE)
    except InputError:
        picture = _part(data)
    if picture is not None:
        picture.thumbnail((SIDE, SIDE))
    return picture


def _part(data: bytes) -> Image.Image | None:
    """What is there of a damaged picture, black where it is missing; pictures in formats that ingest refuses."""
    picture = Image.open(io.BytesIO(data))
    if picture.width * picture.height > images.MAX_PIXELS:
        return None
    try:
        picture.load()
    except (OSError, SyntaxError):
        picture.tile = []  # keeps what was decoded before the damage; loading again would raise again
    rgb = picture.convert("RGB")
    return rgb if rgb.getcolors(maxcolors=1) is None else None


def _rejected(source: str, image_path: str) -> bytes | None:
    """The file's bytes. Relative paths, which rejects may have, are tried beside their source."""
    try:
        place = files.join(files.parent(source), image_path)
        if not files.is_file(place):  # no pipe or device, which could block or never end
            return None
        with files.open_binary(place) as stream:
            data = stream.read(MAX_BYTES + 1)
    except Exception:  # what remote file systems raise is open-ended; a report must not fail for a thumbnail
        return None
    return data if len(data) <= MAX_BYTES else None
