"""What an index is made of and how it is measured: documents, what is embedded of each, and held-out queries.

    from_docstore   passages; asked by their titles and by the photos that they name
    from_pairs      the pictures of a dataset's pairs (or its passages); asked by texts and by pictures of the pairs

No query is a vector of the index: a title is not its passage, a text is not a picture, and where pictures are
asked for with pictures, the query is the middle of one and the answer another picture of its group. Which are taken
depends on the data alone. Pictures are read where they are embedded (`Things.embed`), never all at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_jobs import dataset, files, images, schema
from data_jobs.database import parquet, spilling
from data_jobs.errors import InputError
from train_jobs.arrays import Embeddings
from train_jobs.encoder import Encoder
from train_jobs.index_kinds import Modality

QUERIES = 500
"""Queries of a modality: the standard error of their recall@10 is below half a percent where it is 0.95."""
MIDDLE = 0.8
"""Share of each side that the middle of a picture keeps."""
_DECODED = 64  # pictures in memory at once


@dataclass(frozen=True)
class Texts:
    """Texts to embed."""

    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def embed(self, encoder: Encoder) -> Embeddings:
        """float32 [len(self), D], unit norm."""
        return encoder.texts(self.texts)


@dataclass(frozen=True)
class Photos:
    """Picture files to embed."""

    paths: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def embed(self, encoder: Encoder) -> Embeddings:
        """float32 [len(self), D], unit norm; rows of NaN where a picture cannot be read or decoded."""
        vectors = np.full((len(self), encoder.spec.embedding_dim), np.nan, np.float32)
        for row, path in enumerate(self.paths):
            try:
                picture = images.decode(files.read_bytes(path), target=encoder.spec.image_shortest)
            except (*files.FAILURES, InputError):
                continue
            vectors[row] = encoder.images([picture])[0]
        return vectors


@dataclass(frozen=True)
class Pictures:
    """Rows of one Parquet file of a dataset's pairs whose pictures are to be embedded, ascending."""

    file: str
    rows: list[int]
    middle: bool = False  # only the MIDDLE of each

    def __len__(self) -> int:
        return len(self.rows)

    def embed(self, encoder: Encoder) -> Embeddings:
        """float32 [len(self), D], unit norm."""
        found: list[Embeddings] = []
        batch: list[Image.Image] = []
        for data in self._jpegs():
            picture = images.decode(data)
            batch.append(_middle(picture) if self.middle else picture)
            if len(batch) == _DECODED:
                found.append(encoder.images(batch))
                batch = []
        return np.concatenate([*found, encoder.images(batch)])

    def _jpegs(self) -> Iterable[bytes]:
        wanted, first = np.array(self.rows, np.int64), 0
        with pq.ParquetFile(self.file) as parts:
            for group in range(parts.num_row_groups):
                count = parts.metadata.row_group(group).num_rows
                if ((wanted >= first) & (wanted < first + count)).any():
                    start = first
                    for batch in parts.iter_batches(_DECODED, row_groups=[group], columns=["image"]):
                        here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
                        yield from batch.column("image").take(pa.array(here - start)).to_pylist()
                        start += batch.num_rows
                first += count


Things = Texts | Photos | Pictures


@dataclass(frozen=True)
class Asked:
    """Held-out queries of one modality, to embed; see index.Queries."""

    about: str
    things: Sequence[Things]
    groups: list[str]  # of each query
    own: list[int]


@dataclass(frozen=True)
class Source:
    """An index's content: embedding `things` one after the other gives the vectors of `documents`, row by row."""

    documents: pa.Table  # schema.DOCSTORE
    embedded: str
    things: Sequence[Things]
    queries: dict[Modality, Asked]


def from_docstore(path: str | Path, *, block: int) -> Source:
    """The passages of a dataset's docstore, `block` of them in one of the `things`.

    Raises InputError (not_a_docstore, nothing_to_index).
    """
    path = Path(path)
    documents = _documents(path)
    with spilling() as database:
        photos = database.sql(
            f"SELECT image_path, min(food_id) FROM {parquet(path)} WHERE image_path IS NOT NULL"
            f" GROUP BY 1 ORDER BY md5(image_path) LIMIT {QUERIES}"
        ).fetchall()
    paths, groups = [row[0] for row in photos], [row[1] for row in photos]
    about = f"{len(paths)} photos that the passages name" if paths else "the docstore names no photos"
    asked = Asked(about, [Photos(paths)], groups, [-1] * len(paths))
    return _passages(documents, {"text": _titles(path), "image": asked}, block)


def from_pairs(folder: str | Path, *, embed: Literal["images", "texts"], block: int) -> Source:
    """The distinct pictures of a dataset's pairs, or with "texts" its passages, `block` in one of the `things`.

    Raises InputError (not_a_dataset, not_a_docstore, nothing_to_index).
    """
    folder = Path(folder).absolute()
    dataset.read_report(folder)
    pictures = _pictures(folder)
    if embed == "texts":
        sample = pictures.filter(pictures["matches"]).sort_by("lot").slice(0, QUERIES)
        asked = _ask_pictures(sample, f"{len(sample)} pictures of pairs", middle=False)
        docstore = folder / "docstore.parquet"
        return _passages(_documents(docstore), {"text": _titles(docstore), "image": asked}, block)
    if not len(pictures):
        raise InputError("nothing_to_index", f"{folder} holds no pairs.", "See its rejects for the reasons.")
    row = pa.array(np.arange(len(pictures)), pa.int64())
    sample = pictures.append_column("own", row).sort_by("lot").slice(0, QUERIES)
    about = f"the middle of {len(sample)} of the pictures; an answer is another picture of the group"
    queries: dict[Modality, Asked] = {
        "text": _texts(folder),
        "image": _ask_pictures(sample, about, middle=True),
    }
    documents = pictures.select(schema.DOCSTORE.names).cast(schema.DOCSTORE)
    return Source(documents, "pictures", _things(pictures, block=block), queries)


def text_of(title: str, passage: str) -> str:
    """What is embedded of a document: people search by title, so it leads (benchmarks/title_search.py)."""
    return f"{title}. {passage}" if title else passage


def _passages(documents: pa.Table, queries: dict[Modality, Asked], block: int) -> Source:
    things = []
    for start in range(0, len(documents), block):
        rows = documents.slice(start, block)
        both = zip(rows["title"].to_pylist(), rows["passage_text"].to_pylist(), strict=True)
        things.append(Texts([text_of(title, passage) for title, passage in both]))
    return Source(documents, "title. passage_text", things, queries)


def _documents(path: Path) -> pa.Table:
    try:
        table: Any = pq.read_table(path, schema=schema.DOCSTORE)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            "not_a_docstore", f"{path} is no docstore ({error}).", "Use DATASET/docstore.parquet."
        ) from error
    if not table.num_rows:
        raise InputError("nothing_to_index", f"{path} holds no passages.", "Ingest some first.")
    return table


def _titles(docstore: Path) -> Asked:
    """Titles; of passages without any, as a CSV's texts are, the first half of the words."""
    with spilling() as database:
        found = database.sql(
            f"SELECT title, min(food_id) FROM {parquet(docstore)} WHERE title != ''"
            f" GROUP BY 1 ORDER BY md5(title) LIMIT {QUERIES}"
        ).fetchall()
        about = f"{len(found)} titles"
        if not found:
            passages = database.sql(
                f"SELECT passage_text, food_id FROM {parquet(docstore)} ORDER BY md5(id) LIMIT {QUERIES}"
            ).fetchall()
            found = [(_first_half(passage), group) for passage, group in passages]
            about = f"the first halves of {len(found)} passages, since none has a title"
    return _ask_texts(about, found)


def _first_half(passage: str) -> str:
    words = passage.split()
    return " ".join(words[: (len(words) + 1) // 2])


def _pictures(folder: Path) -> pa.Table:
    """Each distinct picture once, by file and row: the columns of schema.DOCSTORE, file, row, matches, lot.

    Of a picture's rows the first match describes it; one without any has no text. `lot` draws samples.
    """
    with spilling() as database:
        return database.sql(
            "SELECT image_sha256 AS id, coalesce(image_group, image_sha256) AS food_id,"
            " coalesce(metadata ->> '$.title', '') AS title, if(label = 1, text, '') AS passage_text,"
            " image_path, metadata, filename AS file, file_row_number AS row, label = 1 AS matches,"
            " md5(image_sha256) AS lot"
            f" FROM {parquet(folder / 'pairs')}"
            " QUALIFY row_number() OVER (PARTITION BY image_sha256"
            " ORDER BY label DESC, image_group NULLS LAST, pair_id) = 1 ORDER BY file, row"
        ).to_arrow_table()


def _texts(folder: Path) -> Asked:
    with spilling() as database:
        found = database.sql(
            f"SELECT arg_min(text, pair_id), arg_min(text_group, pair_id) FROM {parquet(folder / 'pairs')}"
            f" WHERE label = 1 GROUP BY text_key ORDER BY md5(text_key) LIMIT {QUERIES}"
        ).fetchall()
    return _ask_texts(f"{len(found)} texts of matching pairs" if found else "no pair is a match", found)


def _ask_texts(about: str, found: Sequence[tuple[str, str]]) -> Asked:
    """Of (text, group)."""
    texts, groups = [text for text, _ in found], [group for _, group in found]
    return Asked(about, [Texts(texts)], groups, [-1] * len(found))


def _ask_pictures(sample: pa.Table, about: str, *, middle: bool) -> Asked:
    sample = sample.sort_by([("file", "ascending"), ("row", "ascending")])
    own = sample["own"].to_pylist() if middle else [-1] * len(sample)
    return Asked(about, _things(sample, block=QUERIES, middle=middle), sample["food_id"].to_pylist(), own)


def _things(pictures: pa.Table, *, block: int, middle: bool = False) -> list[Pictures]:
    """`pictures`, ordered by file and row, `block` of one file together."""
    things: list[Pictures] = []
    for file, row in zip(pictures["file"].to_pylist(), pictures["row"].to_pylist(), strict=True):
        if not things or things[-1].file != file or len(things[-1]) == block:
            things.append(Pictures(file, [], middle))
        things[-1].rows.append(row)
    return things


def _middle(picture: Image.Image) -> Image.Image:
    across, down = (round(side * (1 - MIDDLE) / 2) for side in picture.size)
    return picture.crop((across, down, picture.width - across, picture.height - down))
