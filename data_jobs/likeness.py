"""Which texts are nearest to a text or a picture, leaving out those of the same thing.

By spelling (`spelling`: character n-grams, any language) or by given embeddings. Up to EXACT texts every one is
compared; beyond, a FAISS index over cells is searched, whose answers are near but not always the nearest.
"""

from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize as to_unit

from data_jobs.text import normalize

EXACT = 10_000
"""Texts up to which all pairs are compared: 100 million cosines, seconds."""
_BLOCK = 1 << 24  # cosines held in memory at once: 64 MB
_DIMENSIONS = (
    128  # of spellings beyond EXACT; latent semantic indexing uses 100 to 300 (Deerwester et al. 1990)
)
_PROBES = 16  # cells of the index that a query looks into
_SPARE = 30  # more neighbours than asked, since some are of the same thing

Vectors = Any
"""[N, D], unit rows: float32 array or SciPy sparse matrix."""


def spelling(texts: list[str]) -> Vectors:
    """Unit TF-IDF vectors of the 3- to 5-letter pieces of the normalised, case-folded words.

    Sparse [N, pieces] up to EXACT texts; beyond, float32 [N, 128] by a truncated SVD, so that they can be indexed.
    """
    many = len(texts) > EXACT
    vectorizer = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(3, 5),
        min_df=2 if many else 1,  # a piece that one text alone has makes nothing near
        sublinear_tf=True,
        lowercase=False,
        dtype=np.float32,
    )
    pieces = vectorizer.fit_transform([normalize(text).casefold() for text in texts])
    if not many:
        return pieces
    dimensions = min(_DIMENSIONS, pieces.shape[1] - 1)
    reduced = TruncatedSVD(dimensions, n_iter=2, random_state=0).fit_transform(pieces)
    return to_unit(reduced).astype(np.float32)


def nearest(
    queries: Vectors,
    query_things: NDArray[np.int64],
    texts: Vectors,
    text_things: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """For each query the `count` texts of highest cosine among those of other things.

    `queries` [Q, D] and `texts` [T, D] as unit rows of one space, with the number of the thing of each. Returns rows
    of `texts`, int64 [Q, count], nearest first; -1 where there is none.
    """
    if texts.shape[0] <= EXACT:
        return _exact(queries, query_things, texts, text_things, count)
    return _indexed(queries, query_things, texts, text_things, count)


def _exact(
    queries: Vectors,
    query_things: NDArray[np.int64],
    texts: Vectors,
    text_things: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    size = max(1, _BLOCK // max(1, texts.shape[0]))
    found = np.full((queries.shape[0], count), -1, np.int64)
    width = min(count, texts.shape[0])
    for start in range(0, queries.shape[0], size):
        cosines = queries[start : start + size] @ texts.T
        cosines = np.asarray(cosines if isinstance(cosines, np.ndarray) else cosines.toarray())
        cosines[query_things[start : start + size, None] == text_things] = -np.inf
        some = np.argpartition(-cosines, width - 1, axis=1)[:, :width]
        order = np.take_along_axis(
            some, np.argsort(-np.take_along_axis(cosines, some, axis=1), axis=1, kind="stable"), axis=1
        )
        absent = np.isneginf(np.take_along_axis(cosines, order, axis=1))
        found[start : start + size, :width] = np.where(absent, -1, order)
    return found


def _indexed(
    queries: NDArray[np.float32],
    query_things: NDArray[np.int64],
    texts: NDArray[np.float32],
    text_things: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    cells = max(
        1, min(int(4 * len(texts) ** 0.5), len(texts) // 39)
    )  # FAISS's guidelines: cells, and vectors in each
    index = faiss.index_factory(texts.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(texts)
    index.add(texts)
    near = faiss.SearchParametersIVF()
    near.nprobe = min(_PROBES, cells)
    wide = index.search(queries, count + _SPARE, params=near)[1]
    found = np.full((len(queries), count), -1, np.int64)
    for row, neighbours in enumerate(wide):
        kept = neighbours[(neighbours >= 0) & (text_things[neighbours] != query_things[row])][:count]
        found[row, : len(kept)] = kept
    short = np.flatnonzero(
        found[:, -1] < 0
    )  # near ones are all of the same thing: search everything but that
    for thing in np.unique(query_things[short]):
        rows = short[query_things[short] == thing]
        own = faiss.IDSelectorBatch(np.flatnonzero(text_things == thing))
        others = faiss.IDSelectorNot(own)
        everywhere = faiss.SearchParametersIVF()
        everywhere.nprobe, everywhere.sel = cells, others
        found[rows] = index.search(queries[rows], count, params=everywhere)[1]
    return cast(NDArray[np.int64], found)
