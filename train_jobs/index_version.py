"""A version of an index on disk: its files, its manifest, and which version is current.

```
DIR/v001/index.faiss       unit vectors, inner product = cosine; see index_kinds
DIR/v001/documents.arrow   schema.DOCSTORE: id, food_id, title, passage_text, image_path, metadata; row i is vector i
DIR/v001/fields.arrow      what documents are filtered by; see fields
DIR/v001/manifest.json     model hash, kind and why, settings and recall of each modality, checksums
DIR/CURRENT                the name of the version in use, replaced atomically
```

Two versions stay: the current one and the one before it. To go back, write its name into CURRENT. The files are
mapped by every process that searches them, so that they share one copy in the page cache: a version may be deleted at
any time, but never write into its files, since whoever has them mapped would crash. The Arrow files are not
compressed, or each process would have to unpack a copy of its own.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_jobs.artefacts import sha256
from data_jobs.errors import InputError
from train_jobs.index_kinds import MODALITIES, Kind

FORMAT_VERSION = 3
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
VECTORS = "index.faiss"
DOCUMENTS = "documents.arrow"
FIELDS = "fields.arrow"
FILES = (VECTORS, DOCUMENTS, FIELDS)


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

    def require(self, model_hash: str) -> None:
        """Raise InputError (index_of_another_model) unless the model of that ModelSpec.model_hash made it."""
        if model_hash != self.model_hash:
            raise InputError(
                "index_of_another_model",
                f"The index holds vectors of model {self.model_hash}; this is model {model_hash}.",
                "Build the index again with this model, and switch both together.",
            )


def current(folder: Path) -> tuple[Path, Manifest]:
    """The version that CURRENT names and its manifest; its files are not looked at.

    Raises InputError (not_an_index).
    """
    try:
        version = folder / (folder / CURRENT).read_text().strip()
        return version, _manifest(version)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:  # not a Manifest's fields
        raise InputError(
            "not_an_index",
            f"{folder} is no index ({error}).",
            "Build one: python -m train_jobs.build_index --model M --docstore F --output-dir DIR",
        ) from error


def verify(version: Path, manifest: Manifest) -> None:
    """Read all files and compare checksums, letting other threads run. Raises InputError (index_damaged)."""
    for name in FILES:
        whole = (version / name).is_file() and sha256(version / name) == manifest.checksums.get(name)
        if not whole:
            raise InputError(
                "index_damaged",
                f"{version / name} is missing or does not have the checksum of its manifest.",
                "Copy the index again or rebuild it.",
            )


def mapped(path: Path) -> pa.Table:
    """An Arrow file as a table whose memory is the file's."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


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
