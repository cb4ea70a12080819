"""The dataset directory: written in parts by any number of workers, finished once, read by everybody.

`write_part` is the unit of work: a worker turns a chunk of source items into one Parquet file each of pairs,
passages and rejects, and enters it in the ledger. Parts are named after their chunks, so a chunk that is done twice,
after a crash or by two workers, is the same part; one that is in the ledger is not done again. `finish` keeps the
parts of the ledger, joins the passages and writes the report.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from data_jobs import artefacts, cautions, docstore, images, page, rows, schema, sources, survey, text
from data_jobs.csv_pairs import CsvPairs
from data_jobs.errors import InputError
from data_jobs.items import Item, Note, Passage, Record, Reject
from data_jobs.sources import Source

FORMAT_VERSION = 2
MARKER, REJECTS = "report.json", "rejects.csv"
_FOLDERS = {"pairs": schema.PAIRS, "passages": schema.DOCSTORE, "rejects": schema.REJECTS}
_LEDGER = "ledger"


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
    name: str,
    items: Iterable[Item],
    folder: Path,
    *,
    image_size: int,
    max_pixels: int = images.MAX_PIXELS,
    threads: int = 1,
) -> Part:
    """Check `items` and write them below `folder` as the part `name`, once.

    A bad item is a reject, never an error. A part that the ledger holds already is answered from there.
    """
    ledger = folder / _LEDGER / f"{name}.json"
    if ledger.exists():
        return Part(**json.loads(ledger.read_text()))
    items = list(items)
    records = [item for item in items if isinstance(item, Record)]
    refused = [item for item in items if isinstance(item, Reject)]
    pairs, rejects = rows.check(records, image_size=image_size, max_pixels=max_pixels, threads=threads)
    passages = [item for item in items if isinstance(item, Passage)]
    missing = {reject.image_path for reject in rejects}
    unique = docstore.unique([rows.passage_row(item, without=missing) for item in passages])
    tables = {
        "pairs": pairs,
        "passages": pa.Table.from_pylist(unique, schema.DOCSTORE),
        "rejects": pa.Table.from_pylist([rows.reject_row(r) for r in refused + rejects], schema.REJECTS),
    }
    for kind, table in tables.items():
        if table.num_rows:
            _write(table, folder / kind / f"part-{name}.parquet")
    notes = [item.code for item in items if isinstance(item, Note)]
    part = Part(
        name=name,
        pairs_read=len(records) + len(refused),
        pairs=pairs.num_rows,
        passages=len(passages),
        rejects=len(refused) + len(rejects),
        matches=pc.sum(pairs["label"]).as_py() or 0,
        codes=dict(Counter([reject.code for reject in refused + rejects] + notes)),
        fingerprint=str(_fingerprint(pairs)),
    )
    ledger.parent.mkdir(exist_ok=True)
    artefacts.write_file(ledger, part.to_json())
    return part


def finish(
    folder: Path,
    *,
    image_size: int,
    inputs: Sequence[str],
    pairs_required: bool = False,
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Make `folder` a dataset of exactly the parts in its ledger: docstore, rejects.csv, report. Returns the report.

    Raises InputError (nothing_usable), unless it `may_be_empty`, when there is neither a pair nor a passage, or,
    with `pairs_required`, no pair: a CSV's texts alone are no dataset, they only say that no picture was found.
    """
    total = _total(folder)
    _keep_parts_of_ledger(folder)
    if not may_be_empty and not total.pairs and (pairs_required or not total.passages):
        raise _nothing_usable(folder, inputs, total)
    unique = docstore.join(folder / "passages", folder / "docstore.parquet")
    report = _report(folder, total, unique, image_size, inputs)
    # In this order, so that a run killed between them and resumed does the parts again instead of missing passages.
    shutil.rmtree(folder / _LEDGER, ignore_errors=True)
    shutil.rmtree(folder / "passages")
    return report


def finish_selection(folder: Path, origin: Path) -> dict[str, Any]:
    """Make `folder`, which holds pairs of the dataset `origin`, a dataset of its own. Returns the report.

    Its passages are those of its matches.
    """
    total = Part("total")
    fingerprint = 0
    for batch in pads.dataset(folder / "pairs", schema=schema.PAIRS).to_batches(columns=_PRINTED):
        total.pairs += batch.num_rows
        total.matches += pc.sum(batch["label"]).as_py() or 0
        fingerprint += _fingerprint(batch)
    total.fingerprint = str(fingerprint % 2**128)
    unique = docstore.select(origin / "docstore.parquet", folder / "pairs", folder / "docstore.parquet")
    total.pairs_read, total.passages = total.pairs, unique
    (folder / "rejects").mkdir()
    _write(schema.REJECTS.empty_table(), folder / "rejects" / "part-empty.parquet")
    before = read_report(origin)
    return _report(folder, total, unique, before["image_size"], before["inputs"])


def from_source(
    source: Source,
    output: str | Path,
    *,
    image_size: int = 256,
    threads: int = 2,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Ingest in this process, without Ray: for `--train-csv` and notebooks. Returns the report."""
    with artefacts.publish(output, marker=MARKER, overwrite=overwrite) as folder:
        for group, members in sources.groups(source.files()):
            for chunk in sources.chunks(source, group, members, 512):
                items = (item for raw in chunk.raws for item in source.items(raw))
                write_part(chunk.name, items, folder, image_size=image_size, threads=threads)
        return finish(folder, image_size=image_size, inputs=[source.name], pairs_required=source.needs_pairs)


def from_csv(
    csv: str | Path,
    output: str | Path,
    *,
    image_base_path: str | Path | None = None,
    image_size: int = 256,
    threads: int = 2,
    overwrite: bool = False,
) -> dict[str, Any]:
    """`from_source` for a CSV of pairs."""
    base = None if image_base_path is None else str(image_base_path)
    source = CsvPairs.open(str(csv), base)
    return from_source(source, output, image_size=image_size, threads=threads, overwrite=overwrite)


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


def counted(report: Mapping[str, Any]) -> str:
    """What a dataset's report counts, in words."""
    pairs, passages = report["pairs"], report["passages"]
    remarks = ", ".join(f"{code} {count}" for code, count in report["codes"].items())
    return (
        f"{pairs['read']} pairs read = {pairs['written']} written + {pairs['rejected']} rejected; "
        f"{passages['unique']} unique passages; {remarks or 'no remarks'}"
    )


def read_report(folder: str | Path) -> dict[str, Any]:
    """The counts of a finished dataset. Raises InputError (not_a_dataset, old_dataset)."""
    path = Path(folder) / MARKER
    if not path.is_file():
        raise InputError(
            "not_a_dataset",
            f"{folder} holds no {MARKER}, so it is not a dataset of ours.",
            "Make one with: python -m data_jobs.ingest --csv FILE --output-dir DIR",
        )
    report: dict[str, Any] = json.loads(path.read_text())
    if report.get("format_version") != FORMAT_VERSION:
        raise InputError(
            "old_dataset",
            f"{folder} has format version {report.get('format_version')}; this is {FORMAT_VERSION}.",
            "Ingest its source again.",
        )
    return report


def summed(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of several datasets as those of one."""
    result = dict(reports[0])
    for report in reports[1:]:
        for name in ("pairs", "labels", "passages", "codes"):
            result[name] = dict(Counter(result[name]) + Counter(report[name]))
    for name in ("pairs", "labels", "passages"):
        result[name] = {key: result[name].get(key, 0) for key in reports[0][name]}
    prints = [int(report["fingerprint"], 16) for report in reports]
    inputs = [name for report in reports for name in report["inputs"]]
    return result | {"inputs": inputs, "fingerprint": f"{sum(prints) % 2**128:032x}"}


def _total(folder: Path) -> Part:
    """The sum of all parts in the ledger."""
    total = Part("total")
    for path in (folder / _LEDGER).glob("*.json"):
        part = Part(**json.loads(path.read_text()))
        for count in ("pairs_read", "pairs", "passages", "rejects", "matches"):
            setattr(total, count, getattr(total, count) + getattr(part, count))
        total.codes = dict(Counter(total.codes) + Counter(part.codes))
        total.fingerprint = str((int(total.fingerprint) + int(part.fingerprint)) % 2**128)
    return total


def _report(folder: Path, total: Part, unique: int, image_size: int, inputs: Sequence[str]) -> dict[str, Any]:
    docstore.export_rejects(folder / "rejects", folder / REJECTS)
    report = {
        "format_version": FORMAT_VERSION,
        "inputs": list(inputs),
        "text_normalizer": text.VERSION,
        "image_size": image_size,
        "pairs": {"read": total.pairs_read, "written": total.pairs, "rejected": total.rejects},
        "labels": {"match": total.matches, "mismatch": total.pairs - total.matches},
        "passages": {"read": total.passages, "unique": unique},
        "codes": dict(sorted(total.codes.items())),
        "fingerprint": f"{int(total.fingerprint):032x}",
        **survey.survey({"all": folder}),
    }
    report["warnings"] += cautions.guesses(total.codes)
    page.write(folder / "report.html", report, {"all": folder})
    artefacts.write_file(folder / MARKER, json.dumps(report, indent=2, ensure_ascii=False))
    return report


def _keep_parts_of_ledger(folder: Path) -> None:
    """Delete what was written by a worker that died before it entered its part, and fill empty folders."""
    for kind, empty in _FOLDERS.items():
        (folder / kind).mkdir(exist_ok=True)
        for path in (folder / kind).iterdir():
            name = path.stem.removeprefix("part-")
            if path.suffix != ".parquet" or not (folder / _LEDGER / f"{name}.json").exists():
                path.unlink()
        if not any((folder / kind).iterdir()):
            pq.write_table(empty.empty_table(), folder / kind / "part-empty.parquet")


def _write(table: pa.Table, path: Path) -> None:
    """Write one part's file atomically."""
    path.parent.mkdir(exist_ok=True)
    stored = schema.STORED if table.schema == schema.PAIRS else {"compression": "zstd"}
    with artefacts.replacing(path) as aside:
        pq.write_table(table, aside, **stored)


def _nothing_usable(folder: Path, inputs: Sequence[str], total: Part) -> InputError:
    """Says what was wrong with the first rows, since the rejects themselves are not published."""
    first = pads.dataset(folder / "rejects", schema=schema.REJECTS).head(3).to_pylist()
    examples = [f"{row['source']}:{row['line']}: {row['message']} {row['suggestion']}" for row in first]
    counts = ", ".join(f"{code} {count}" for code, count in sorted(total.codes.items()))
    if not total.pairs_read:
        message, remedy = "holds no rows.", "Check that it is the right file."
    else:
        message = f"can be used: {counts}. The first:\n    " + "\n    ".join(examples)
        message, remedy = f"None of the {total.pairs_read} rows {message}", "Repair the source and run again."
    return InputError("nothing_usable", f"{', '.join(inputs)}: {message}", remedy)


_PRINTED = ["image_sha256", "text", "label"]


def _fingerprint(pairs: pa.Table | pa.RecordBatch) -> int:
    """Order-free: the sum over rows of a hash of picture, text and label, modulo 2**128."""
    total = 0
    for sha, words, label in zip(*(pairs[name].to_pylist() for name in _PRINTED), strict=True):
        total += int.from_bytes(hashlib.blake2b(f"{sha}\0{words}\0{label}".encode()).digest()[:16])
    return total % 2**128
