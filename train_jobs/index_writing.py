"""Vectors + documents -> the next version of an index, tuned on held-out queries, appearing whole or not at all."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_jobs.artefacts import publish, sha256, write_file
from data_jobs.errors import InputError
from train_jobs import fields, index_kinds
from train_jobs.index_kinds import MODALITIES, Kind, Modality, Rows, Vectors
from train_jobs.index_version import (
    CURRENT,
    DOCUMENTS,
    FIELDS,
    FILES,
    FORMAT_VERSION,
    MANIFEST,
    VECTORS,
    Manifest,
    Measured,
)
from train_jobs.spec import ModelSpec

TARGET_RECALL = 0.95
_HITS = (1, 5, 10)
_ROWS_PER_BATCH = 1 << 16  # a batch holds 2 GB of a column's text at most


@dataclass(frozen=True)
class Queries:
    """Held-out queries of one modality, and which documents answer them: those of the query's group (food_id)."""

    about: str  # what they are, or why there are none
    vectors: Vectors  # float32 [Q, D], unit norm
    groups: Sequence[str]  # [Q]
    own: Sequence[int]  # [Q] the document that a query was made of and that is no answer; -1: there is none


def write(
    folder: str | Path,
    vectors: Vectors,
    documents: pa.Table,
    spec: ModelSpec,
    *,
    embedded: str,
    queries: Mapping[Modality, Queries],
    kind: Kind | Literal["auto"] = "auto",
    target_recall: float = TARGET_RECALL,
) -> Manifest:
    """Write `vectors` (float32 [N, D], unit norm; row i of `documents`) as the next version and point to it.

    The settings of a modality are tuned on its `queries`; one with fewer than FEWEST_QUERIES is searched exactly.
    Where the kind that the rule chooses does not reach `target_recall`, the next in index_kinds.INSTEAD_OF is built.
    What CURRENT names stays valid at every moment. Raises InputError: nothing_to_index, too_few_rows,
    recall_below_target (no version is written).
    """
    if not len(vectors) or len(vectors) != documents.num_rows:
        raise InputError(
            "nothing_to_index",
            f"There are {len(vectors)} vectors for {documents.num_rows} documents.",
            "Give a docstore with at least one passage.",
        )
    rows, dimension = vectors.shape
    chosen, reason = index_kinds.choose(rows, dimension, memory=index_kinds.machine_memory())
    candidates = index_kinds.INSTEAD_OF[chosen]
    if kind != "auto":
        candidates, reason = (kind,), f"asked for; the rule says {chosen}: {reason}"
    for chosen in candidates:
        index = index_kinds.build(chosen, vectors)
        try:
            measured: dict[str, Measured] = {
                modality: _measured(
                    index, chosen, vectors, documents, modality, queries[modality], target_recall
                )
                for modality in MODALITIES
            }
            break
        except InputError as error:
            if error.code != index_kinds.BELOW_TARGET or chosen == candidates[-1]:
                raise
            del index
            reason += f"; but {error.message[0].lower()}{error.message[1:]}"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        taken = _versions(folder)
        version = f"v{max(taken, default=0) + 1:03d}"
        with publish(folder / version, marker=MANIFEST) as aside:
            faiss.write_index(index, str(aside / VECTORS))
            _write_documents(documents, aside / DOCUMENTS)
            fields.write(documents, aside / FIELDS)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                version=version,
                kind=chosen,
                factory=index_kinds.factory(chosen, rows, dimension),
                reason=reason,
                rows=rows,
                dimension=dimension,
                model_hash=spec.model_hash,
                text_normalizer=spec.text_normalizer,
                embedded=embedded,
                target_recall=target_recall,
                measured=measured,
                faiss_version=faiss.__version__,
                checksums={name: sha256(aside / name) for name in FILES},
            )
            (aside / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False))
        before = (folder / CURRENT).read_text().strip() if (folder / CURRENT).is_file() else ""
        write_file(folder / CURRENT, version + os.linesep)
        for old in taken.values():
            if old.name != before and (old / MANIFEST).is_file():
                _remove(old)
    return manifest


def _measured(
    index: faiss.Index,
    kind: Kind,
    vectors: Vectors,
    documents: pa.Table,
    modality: Modality,
    queries: Queries,
    target: float,
) -> Measured:
    count = len(queries.vectors)
    if not count:
        return Measured(queries.about, 0, None, None, 0, None)
    settings, recall, about = None, None, queries.about
    if count >= index_kinds.FEWEST_QUERIES:
        settings, recall = index_kinds.tune(
            index, kind, vectors, queries.vectors, modality=modality, target=target
        )
    else:
        about += f"; fewer than {index_kinds.FEWEST_QUERIES}, so that recall was not measured"
    found = index_kinds.search(index, queries.vectors, min(max(_HITS) + 1, len(vectors)), settings)[1]
    answerable, finds = finds_at(found, documents["food_id"], queries.groups, queries.own)
    return Measured(about, count, settings, recall, answerable, finds)


def finds_at(
    found: Rows, document_groups: pa.ChunkedArray, groups: Sequence[str], own: Sequence[int]
) -> tuple[int, dict[str, float] | None]:
    """How many queries have an answer, and the share of those that find one among the best 1, 5 and 10.

    `found` int64 [Q, 11 or all] are documents, best first; `document_groups` strings [N]. An answer is a document of
    the query's group, other than its `own`, which is taken out of what was found.
    """
    asked = document_groups.filter(pc.is_in(document_groups, pa.array(sorted(set(groups)), pa.string())))
    members = {count["values"]: count["counts"] for count in pc.value_counts(asked).to_pylist()}
    names = iter(document_groups.take(pa.array(found.ravel(), pa.int64())).to_pylist())
    ranks = []
    for rows, group, mine in zip(found.tolist(), groups, own, strict=True):
        others = [name for row, name in [(row, next(names)) for row in rows] if row != mine]
        itself = mine >= 0 and document_groups[mine].as_py() == group
        if members.get(group, 0) - itself > 0:
            ranks.append(others.index(group) if group in others else max(_HITS))
    if not ranks:
        return 0, None
    return len(ranks), {str(k): float(np.mean([rank < k for rank in ranks])) for k in _HITS}


def _write_documents(documents: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, documents.schema) as stream:
        stream.write_table(documents, max_chunksize=_ROWS_PER_BATCH)


def _versions(folder: Path) -> dict[int, Path]:
    return {int(path.name[1:]): path for path in folder.glob("v*") if path.name[1:].isdigit()}


def _remove(version: Path) -> None:
    """Delete a version; whoever sees it sees all of it, or nothing."""
    aside = version.with_name(f".{version.name}.removing")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(version, aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time: it numbers, publishes and removes versions. The system frees it with the process."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
