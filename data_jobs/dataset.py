"""The dataset directory: written in parts by any number of workers, finished once, read by everybody.

`write_part` is the unit of work: a worker turns a chunk of source items into one Parquet file each of pairs,
passages and rejects, and answers with what it wrote. `finish` keeps only the parts that were answered for (a
part written by a worker that died before answering is deleted), joins the passages and writes the report.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from data_jobs import images, rows, schema, sources, text
from data_jobs.artefacts import publish
from data_jobs.errors import InputError
from data_jobs.sources import Item, Note, Passage, Record, Reject

FORMAT_VERSION = 1
MARKER = "report.json"
_FOLDERS = {"pairs": schema.PAIRS, "passages": schema.DOCSTORE, "rejects": schema.REJECTS}


@dataclass
class Part:
    """What one worker wrote: its file name, its counts and its share of the fingerprint."""

    name: str
    pairs_read: int = 0
    pairs: int = 0
    passages: int = 0
    rejects: int = 0
    matches: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    fingerprint: str = "0"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def write_part(
    items: Sequence[Item],
    folder: Path,
    *,
    image_size: int,
    max_pixels: int = images.MAX_PIXELS,
    threads: int = 1,
) -> Part:
    """Check `items` and write them below `folder` as one part. A bad item is a reject, never an error."""
    part = Part(name=f"part-{uuid.uuid4().hex}.parquet")
    records = [item for item in items if isinstance(item, Record)]
    pairs, rejects = rows.check(records, image_size=image_size, max_pixels=max_pixels, threads=threads)
    rejects += [item for item in items if isinstance(item, Reject)]
    passages = [rows.passage_row(item) for item in items if isinstance(item, Passage)]
    tables = {
        "pairs": pairs,
        "passages": pa.Table.from_pylist(passages, schema.DOCSTORE),
        "rejects": pa.Table.from_pylist([rows.reject_row(r) for r in rejects], schema.REJECTS),
    }
    for name, table in tables.items():
        if table.num_rows:
            (folder / name).mkdir(exist_ok=True)
            pq.write_table(table, folder / name / part.name, compression="zstd")
    part.pairs_read = len(records) + sum(isinstance(item, Reject) for item in items)
    part.pairs, part.passages, part.rejects = pairs.num_rows, len(passages), len(rejects)
    part.matches = pc.sum(pairs["label"]).as_py() or 0
    notes = [item.code for item in items if isinstance(item, Note)]
    part.codes = dict(Counter([reject.code for reject in rejects] + notes))
    part.fingerprint = str(_fingerprint(pairs))
    return part


def finish(
    folder: Path,
    parts: Iterable[Part],
    *,
    image_size: int,
    inputs: Sequence[str],
    pairs_required: bool = False,
) -> dict[str, Any]:
    """Make `folder` a dataset of exactly `parts`: docstore of unique passages, report. Returns the report.

    Raises InputError (nothing_usable) when there is neither a pair nor a passage, or, with `pairs_required`, no
    pair: a CSV's texts alone are no dataset, they only say that no picture was found.
    """
    parts = list(parts)
    names = {part.name for part in parts}
    for orphan in folder.glob("*/part-*.parquet"):
        if orphan.name not in names:
            orphan.unlink()
    for name, empty in _FOLDERS.items():
        (folder / name).mkdir(exist_ok=True)
        if not any((folder / name).iterdir()) and name != "passages":
            pq.write_table(empty.empty_table(), folder / name / "part-empty.parquet")
    unique = _write_docstore(folder)
    read = sum(part.pairs_read for part in parts)
    written = sum(part.pairs for part in parts)
    passages = sum(part.passages for part in parts)
    if not written and (pairs_required or not passages):
        codes = dict(sum((Counter(part.codes) for part in parts), Counter()))
        raise InputError(
            "nothing_usable",
            f"None of the {read} rows of {', '.join(inputs)} can be used: {codes}.",
            "Check --image-base-path and the files named in the source.",
        )
    matches = sum(part.matches for part in parts)
    report = {
        "format_version": FORMAT_VERSION,
        "inputs": list(inputs),
        "text_normalizer": text.VERSION,
        "image_size": image_size,
        "pairs": {"read": read, "written": written, "rejected": sum(p.rejects for p in parts)},
        "labels": {"match": matches, "mismatch": written - matches},
        "passages": {"read": passages, "unique": unique},
        "codes": dict(sum((Counter(part.codes) for part in parts), Counter())),
        "fingerprint": f"{sum(int(part.fingerprint) for part in parts) % 2**128:032x}",
    }
    (folder / MARKER).write_text(json.dumps(report, indent=2, ensure_ascii=False))
    return report


def from_csv(
    csv: str | Path,
    output: str | Path,
    *,
    image_base_path: str | Path | None = None,
    image_size: int = 256,
    threads: int = 2,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Ingest a CSV in this process, without Ray: for `--train-csv` and notebooks. Returns the report."""
    with publish(output, marker=MARKER, overwrite=overwrite) as folder:
        parts = [
            write_part(chunk, folder, image_size=image_size, threads=threads)
            for chunk in chunks(sources.read_csv(csv, image_base_path), 512)
        ]
        return finish(folder, parts, image_size=image_size, inputs=[str(csv)], pairs_required=True)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def read_pairs(folder: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All pairs of a dataset, ordered by `pair_id` so that every reader sees the same order.

    The pictures come as large_binary, since Arrow cannot sort more than 2 GiB of plain binary.

    Raises InputError (not_a_dataset).
    """
    read_report(folder)
    wanted = None if columns is None else sorted({*columns, "pair_id"})
    image = schema.PAIRS.get_field_index("image")
    large = schema.PAIRS.set(image, schema.PAIRS.field(image).with_type(pa.large_binary()))
    table = pads.dataset(Path(folder) / "pairs", schema=large).to_table(columns=wanted)
    return table.sort_by("pair_id")


def read_report(folder: str | Path) -> dict[str, Any]:
    """The counts of a finished dataset. Raises InputError (not_a_dataset)."""
    path = Path(folder) / MARKER
    if not path.is_file():
        raise InputError(
            "not_a_dataset",
            f"{folder} holds no {MARKER}, so it is not a dataset of ours.",
            "Make one with: python -m data_jobs.ingest --csv FILE --output-dir DIR",
        )
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def _write_docstore(folder: Path) -> int:
    """Join the passage parts to `docstore.parquet`; the number of unique passages.

    Of several with one id the same is kept whatever order the parts were written in: the first by group, title
    and photo, where a missing photo comes last.
    """
    parts = folder / "passages"
    table = (
        pads.dataset(parts, schema=schema.DOCSTORE).to_table()
        if any(parts.iterdir())
        else schema.DOCSTORE.empty_table()
    )
    table = table.sort_by(
        [(name, "ascending") for name in ("id", "food_id", "title", "image_path", "passage_text", "metadata")]
    )
    first: dict[str, int] = {}
    for row, identity in enumerate(table["id"].to_pylist()):
        first.setdefault(identity, row)
    kept = table.take(pa.array(first.values(), pa.int64()))
    pq.write_table(kept, folder / "docstore.parquet", compression="zstd")
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()
    return kept.num_rows


def _fingerprint(pairs: pa.Table) -> int:
    """Order-free: the sum over rows of a hash of picture, text and label, modulo 2**128."""
    total = 0
    for sha, words, label in zip(
        pairs["image_sha256"].to_pylist(), pairs["text"].to_pylist(), pairs["label"].to_pylist(), strict=True
    ):  # fmt: skip
        total += int.from_bytes(hashlib.blake2b(f"{sha}\0{words}\0{label}".encode()).digest()[:16])
    return total % 2**128
