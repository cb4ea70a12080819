"""Index: FAISS vectors + documents + manifest, in versions that appear whole.

```
DIR/v001/index.faiss         unit vectors, inner product = cosine
DIR/v001/documents.parquet   id, title, passage_text, image_path, metadata; row i is vector i
DIR/v001/manifest.json       model hash, normaliser, rows, checksums
DIR/CURRENT                  the name of the version in use, replaced atomically
```
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs.artefacts import publish, write_file
from data_jobs.errors import InputError
from train_jobs.encoder import Embeddings
from train_jobs.spec import ModelSpec

FORMAT_VERSION = 1
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
_FILES = ("index.faiss", "documents.parquet")


@dataclass(frozen=True)
class Manifest:
    """What one must know to search the vectors of one version."""

    format_version: int
    version: str
    kind: str  # FAISS factory string
    rows: int
    dimension: int
    model_hash: str  # ModelSpec.model_hash of the encoder that made the vectors
    text_normalizer: str
    embedded: str  # which columns the vectors are of
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
            manifest = Manifest(**json.loads((version / MANIFEST).read_text()))
        except (OSError, ValueError, TypeError) as error:  # TypeError: not the fields of Manifest
            raise InputError(
                "not_an_index",
                f"{folder} is no index ({error}).",
                "Build one: python -m train_jobs.build_index --model M --docstore F --output-dir DIR",
            ) from error
        if manifest.format_version != FORMAT_VERSION:
            raise InputError(
                "not_an_index",
                f"{version} has format {manifest.format_version}; this is {FORMAT_VERSION}.",
                "Use the Catalens release that wrote it, or build the index again.",
            )
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

    def search(self, query: Embeddings, top_k: int = 10) -> list[Hit]:
        """The `top_k` documents of highest cosine to `query`, float32 [D] of unit norm, best first.

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
        scores, rows = self._vectors.search(
            np.ascontiguousarray(query[None], np.float32), min(top_k, self.manifest.rows)
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
    folder: str | Path, vectors: Embeddings, documents: pa.Table, spec: ModelSpec, *, embedded: str
) -> Manifest:
    """Write `vectors` (float32 [N, D], unit norm; row i of `documents`) as the next version and point to it."""
    if not len(vectors) or len(vectors) != documents.num_rows:
        raise InputError(
            "nothing_to_index",
            f"There are {len(vectors)} vectors for {documents.num_rows} documents.",
            "Give a docstore with at least one passage.",
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name[1:]) for path in folder.glob("v*") if path.name[1:].isdigit()]
    version = f"v{max(taken, default=0) + 1:03d}"
    kind = "Flat"  # exact; RETRIEVAL.md's rule asks for no other below about 155 000 rows
    index = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(vectors, np.float32))
    with publish(folder / version, marker=MANIFEST) as aside:
        faiss.write_index(index, str(aside / _FILES[0]))
        pq.write_table(documents, aside / _FILES[1], compression="zstd")
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            version=version,
            kind=kind,
            rows=len(vectors),
            dimension=vectors.shape[1],
            model_hash=spec.model_hash,
            text_normalizer=spec.text_normalizer,
            embedded=embedded,
            checksums={name: _sha256(aside / name) for name in _FILES},
        )
        (aside / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2))
    write_file(folder / CURRENT, version + os.linesep)
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
