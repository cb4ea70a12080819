"""Index: FAISS vectors + documents + manifest, in versions that appear whole.

```
DIR/v001/index.faiss         unit vectors, inner product = cosine; see index_kinds
DIR/v001/documents.parquet   schema.DOCSTORE: id, food_id, title, passage_text, image_path, metadata; row i is vector i
DIR/v001/manifest.json       model hash, kind and why, settings and recall of each modality, checksums
DIR/CURRENT                  the name of the version in use, replaced atomically
```

Two versions stay: the current one and the one before it. To go back, write its name into CURRENT.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_jobs.artefacts import publish, write_file
from data_jobs.errors import InputError
from train_jobs import index_kinds
from train_jobs.index_kinds import MODALITIES, Kind, Modality, Rows, Vectors
from train_jobs.spec import ModelSpec

FORMAT_VERSION = 2
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
TARGET_RECALL = 0.95
_FILES = ("index.faiss", "documents.parquet")
_HITS = (1, 5, 10)


@dataclass(frozen=True)
class Queries:
    """Held-out queries of one modality, and which documents answer them: those of the query's group (food_id)."""

    about: str  # what they are, or why there are none
    vectors: Vectors  # float32 [Q, D], unit norm
    groups: Sequence[str]  # [Q]
    own: Sequence[int]  # [Q] the document that a query was made of and that is no answer; -1: there is none


@dataclass(frozen=True)
class Measured:
    """How queries of one modality are searched, and what held-out ones found that way."""

    about: str  # what the held-out queries were, or why there are none
    queries: int
    settings: dict[str, int] | None  # see index_kinds.Settings; None: searched exactly
    recall_at_10: float | None  # share of the 10 nearest that is found; None: too few queries
    answerable: int  # queries to which there is a document that answers
    finds_at: dict[str, float] | None  # share of those with an answer among the best "1", "5", "10"


@dataclass(frozen=True)
class Manifest:
    """What one must know to search the vectors of one version."""

    format_version: int
    version: str
    kind: Kind
    factory: str  # FAISS factory string
    reason: str  # why this kind
    rows: int
    dimension: int
    model_hash: str  # ModelSpec.model_hash of the encoder that made the vectors
    text_normalizer: str
    embedded: str  # what the vectors are of
    target_recall: float
    measured: dict[str, Measured]  # by modality
    faiss_version: str
    checksums: dict[str, str]  # file name -> SHA-256


@dataclass(frozen=True)
class Hit:
    """A document and its cosine to the query."""

    score: float
    document: dict[str, Any]


class Index:
    """One opened, read-only version. Searches from several threads are safe."""

    def __init__(self, vectors: faiss.Index, documents: pa.Table, manifest: Manifest) -> None:
        self._vectors = vectors
        self._documents = documents
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, spec: ModelSpec | None = None) -> "Index":
        """Open the current version, check its checksums and, given `spec`, that its model made the vectors.

        Raises InputError: not_an_index, index_damaged, index_of_another_model.
        """
        folder = Path(folder)
        try:
            version = folder / (folder / CURRENT).read_text().strip()
            manifest = _manifest(version)
        except InputError:
            raise
        except (
            OSError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ) as error:  # not a Manifest's fields
            raise InputError(
                "not_an_index",
                f"{folder} is no index ({error}).",
                "Build one: python -m train_jobs.build_index --model M --docstore F --output-dir DIR",
            ) from error
        for name in _FILES:
            whole = (version / name).is_file() and _sha256(version / name) == manifest.checksums.get(name)
            if not whole:
                raise InputError(
                    "index_damaged",
                    f"{version / name} is missing or does not have the checksum of its manifest.",
                    "Copy the index again or rebuild it.",
                )
        index = cls(faiss.read_index(str(version / _FILES[0])), pq.read_table(version / _FILES[1]), manifest)
        if spec is not None:
            index.require(spec.model_hash)
        return index

    def require(self, model_hash: str) -> None:
        """Raise InputError (index_of_another_model) unless the model of that ModelSpec.model_hash made it."""
        if model_hash != self.manifest.model_hash:
            raise InputError(
                "index_of_another_model",
                f"The index holds vectors of model {self.manifest.model_hash}; this is model {model_hash}.",
                "Build the index again with this model, and switch both together.",
            )

    def search(
        self, query: Vectors, top_k: int = 10, *, modality: Modality = "text", exact: bool = False
    ) -> list[Hit]:
        """The `top_k` documents of highest cosine to `query`, float32 [D] of unit norm, best first.

        `modality` says what the query was: each has its own settings, and one that was not measured is searched
        exactly. `exact` compares with every vector whatever the kind, in time that grows with the rows.

        Raises InputError (wrong_dimension, bad_top_k).
        """
        if query.shape != (self.manifest.dimension,):
            raise InputError(
                "wrong_dimension",
                f"The query has shape {query.shape}; the index holds vectors of {self.manifest.dimension}.",
                "Embed the query with the index's model.",
            )
        if top_k < 1:
            raise InputError("bad_top_k", f"top_k is {top_k}.", "Use at least 1.")
        settings = None if exact else self.manifest.measured[modality].settings
        with _one_thread():
            scores, rows = index_kinds.search(
                self._vectors, query[None], min(top_k, self.manifest.rows), settings
            )
        found = self._documents.take(pa.array(rows[0], pa.int64())).to_pylist()
        return [Hit(float(score), document) for score, document in zip(scores[0], found, strict=True)]

    def documents(self) -> list[dict[str, Any]]:
        """All documents, in the order of their vectors."""
        rows: list[dict[str, Any]] = self._documents.to_pylist()
        return rows

    def __len__(self) -> int:
        return self.manifest.rows


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
    if kind != "auto":
        chosen, reason = kind, f"asked for; the rule says {chosen}: {reason}"
    index = index_kinds.build(chosen, vectors)
    measured: dict[str, Measured] = {
        modality: _measured(index, chosen, vectors, documents, modality, queries[modality], target_recall)
        for modality in MODALITIES
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        taken = _versions(folder)
        version = f"v{max(taken, default=0) + 1:03d}"
        with publish(folder / version, marker=MANIFEST) as aside:
            faiss.write_index(index, str(aside / _FILES[0]))
            pq.write_table(documents, aside / _FILES[1], compression="zstd")
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
                checksums={name: _sha256(aside / name) for name in _FILES},
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


def _manifest(version: Path) -> Manifest:
    facts = json.loads((version / MANIFEST).read_text(encoding="utf-8"))
    if (found := facts.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        raise InputError(
            "not_an_index",
            f"{version} has format {found}; this is {FORMAT_VERSION}.",
            "Use the Catalens release that wrote it, or build the index again.",
        )
    manifest = Manifest(**facts)
    measured = {modality: Measured(**manifest.measured[modality]) for modality in MODALITIES}  # type: ignore[arg-type]
    return Manifest(**{**facts, "measured": measured})


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS in this thread on one core: a lone query gains nothing by more, and on busy cores loses much.

    200,000 x 128, Flat, two busy cores: 80 queries/s with one OpenMP thread, 10 with two.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
