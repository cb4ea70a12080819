"""Which FAISS structure holds the vectors, how it is searched, and what a search of it finds.

    kind     structure                                     RAM a row of D dimensions
    flat     Flat: every search is exact                   4 D bytes
    hnsw     HNSW32: a graph                               4 D + 256
    ivf-pq   IVF, PQ(D/2)x4fs, fp16 refine: cells, codes   2 D + D / 4

All vectors are float32 of unit norm; inner product is cosine. Every kind can be searched exactly too, from what it
holds anyway: hnsw from the vectors below its graph, ivf-pq from those of its refinement, which are rounded to fp16
(cosines to about 0.001). Raises InputError (too_few_rows, recall_below_target).

Threads: FAISS uses OpenMP, and its waiting threads take the cores of others. Index searches with one thread, and a
server runs several searches at once; a batch of queries goes through BLAS, see set_up_batches. What the environment
says about threads is read when FAISS is first imported, so it belongs to whoever starts the process: OMP_WAIT_POLICY=
PASSIVE and OPENBLAS_NUM_THREADS=1 (docs/RETRIEVAL.md: 28 -> 97 batches of 64 a second, of 2 threads on busy cores).
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from data_jobs.errors import InputError

Kind = Literal["flat", "hnsw", "ivf-pq"]
Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Settings = Mapping[str, int]
"""efSearch of hnsw; nprobe and k_factor of ivf-pq. None where settings may be given: search exactly."""

BANDWIDTH = 31.7e9
"""Bytes/s that a Flat scan reads on one thread (docs/RETRIEVAL.md: 92 % of 34.4 GB/s). A constant, since a machine
that is busy while it builds would choose another kind for the same data, and is not the one that serves."""
FLAT_MS = 10.0
"""The longest exact scan that no approximation is wanted for."""
HNSW_ROWS = 2_000_000
MEMORY_SHARE = 0.5
"""Of the machine's memory, what the graph may take: the vectors that it is built from stand beside it."""
MANY_CELLS_ROWS = 10_000_000
ROWS_PER_CELL = 39
"""FAISS asks for as many vectors to train each cell of k-means."""

INSTEAD_OF: Mapping[Kind, tuple[Kind, ...]] = {
    "flat": ("flat",), "hnsw": ("hnsw", "ivf-pq", "flat"), "ivf-pq": ("ivf-pq",),
}  # fmt: skip
"""What is tried, in this order, for a kind that `choose` says. Where ivf-pq is its choice, others may not fit."""
BELOW_TARGET = "recall_below_target"
"""Code of the error for a kind that finds too little, however far it searches."""

AT = 10
"""Recall is of the 10 best."""
FEWEST_QUERIES = 50
"""With fewer, recall would be a guess."""
TIE = 1e-5
"""Cosines this near are one: of documents with the same, as duplicates have, any is right."""
FEW = 0.05
"""Of a filter that passes a smaller share, the rows are compared one by one. An index wades through the others."""
BLAS_QUERIES = 4
"""With as many or more at once, matrix products are faster than reading the vectors for each."""
EF_CONSTRUCTION = 100
"""How widely a graph's neighbours are looked for when it is built. FAISS's own 40 builds 2.5 times as fast, and then
takes twice the efSearch for texts: of 200,000 x 512, drawn as in benchmarks/clusters.py but with spreads of 0.55 and
0.9, recall .96 at 1076 queries/s, here 1534. With 200, which takes 1.5 times as long again, about 2400."""
_EF = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_K_FACTORS = (10, 30)
_FILTERED = 2.0
"""How much further than for as many hits one must search when they are filtered. Of 60,000 x 64 and text queries, with
filters that pass 5, 10 and 30 %: hnsw finds .99, .97, .98 and ivf-pq .92, .87, .93 without it; ivf-pq .98, .94, .96
with it. Searching no further for being filtered, they find .46, .60, .91 and .42, .55, .88."""
_CHANGES = ("add", "add_with_ids", "add_sa_codes", "train", "remove_ids", "reset", "merge_from")


@dataclass(frozen=True, eq=False)
class Selection:
    """The rows that a filter passes."""

    rows: int
    share: float  # of all rows
    bits: NDArray[np.uint8]  # [N / 8 rounded up] row i is bit i % 8 of byte i // 8
    few: Rows | None  # [rows] their numbers, where they are less than FEW of all

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Selection":
        """What [N] `mask` lets through."""
        rows = int(np.count_nonzero(mask))
        share = rows / len(mask)
        few = np.flatnonzero(mask) if share < FEW else None
        return cls(rows, share, np.packbits(mask, bitorder="little"), few)

    def size(self) -> int:
        """Bytes."""
        return self.bits.nbytes + (0 if self.few is None else self.few.nbytes)


def choose(rows: int, dimension: int, *, memory: float) -> tuple[Kind, str]:
    """The kind for so many vectors and `memory` bytes of RAM, by the rule of docs/RETRIEVAL.md, and why.

    >>> choose(1389, 512, memory=8e9)
    ('flat', 'an exact scan of 1389 x 512 float32 takes about 0.1 ms; up to 10 ms need no approximation')
    """
    scan = rows * dimension * 4 / BANDWIDTH * 1000
    reason = f"an exact scan of {rows} x {dimension} float32 takes about {scan:.1f} ms"
    if scan <= FLAT_MS:
        return "flat", f"{reason}; up to {FLAT_MS:.0f} ms need no approximation"
    graph = rows * (4 * dimension + 256)
    takes = f"a graph takes {graph / 1e9:.1f} GB"
    if rows > HNSW_ROWS:
        return "ivf-pq", f"{reason}; {rows} rows are more than the {HNSW_ROWS} of a graph"
    if graph > MEMORY_SHARE * memory:
        return "ivf-pq", f"{reason}; {takes}, more than half of {memory / 1e9:.1f} GB"
    return "hnsw", f"{reason}; {takes} of {memory / 1e9:.1f} GB"


def machine_memory() -> float:
    """Bytes of RAM that this process may use: the machine's, or less where its container is limited."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    words = limit.read_text().strip() if limit.is_file() else "max"
    return total if words == "max" else min(total, float(words))


def factory(kind: Kind, rows: int, dimension: int) -> str:
    """FAISS's own name of the structure. Raises InputError (too_few_rows) where its cells could not be trained.

    >>> factory("ivf-pq", 1_000_000, 512)
    'IVF4096,PQ256x4fs,Refine(SQfp16)'
    """
    if kind == "flat":
        return "Flat"
    if kind == "hnsw":
        return "HNSW32"
    most = rows // ROWS_PER_CELL
    if most < 16:  # 4-bit codes
        raise InputError(
            "too_few_rows",
            f"{rows} vectors are too few for ivf-pq, which is trained with {16 * ROWS_PER_CELL} at least.",
            "Use --kind flat.",
        )
    codes = f"PQ{dimension // 2 if dimension % 2 == 0 else dimension}x4fs,Refine(SQfp16)"
    if rows > MANY_CELLS_ROWS:
        return f"IVF65536_HNSW32,{codes}"
    return f"IVF{min(2 ** math.ceil(math.log2(4 * math.sqrt(rows))), most)},{codes}"


def build(kind: Kind, vectors: Vectors) -> faiss.Index:
    """The structure with `vectors` float32 [N, D] in it; row i has the number i."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    index = faiss.index_factory(vectors.shape[1], factory(kind, *vectors.shape), faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efConstruction = EF_CONSTRUCTION
    index.train(vectors)
    index.add(vectors)
    return index


def open_mapped(path: Path) -> faiss.Index:
    """The structure in a file, mapped: processes share one copy, and a page is read when it is first needed.

    It is read-only: FAISS would abort the process that adds to it.
    """
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise TypeError(f"{path} is mapped and cannot be changed; write a new version")

    for change in _CHANGES:
        setattr(index, change, refuse)
    return index


def set_up_batches(dimension: int) -> None:
    """Once in a process that serves vectors of `dimension`: let FAISS search BLAS_QUERIES or more by matrix products.

    By itself it does so from 128,000 numbers a batch on, 250 queries of 512 (docs/RETRIEVAL.md: 14 -> 75 queries/s in
    batches of 64). The setting is the process's.
    """
    faiss.cvar.distance_compute_blas_threshold = BLAS_QUERIES * dimension


def search(
    index: faiss.Index,
    queries: Vectors,
    top_k: int,
    settings: Settings | None,
    selection: Selection | None = None,
) -> tuple[Vectors, Rows]:
    """Cosines [Q, top_k] falling and rows [Q, top_k]; `top_k` is at most the number of rows, or of those selected.

    `settings` hold for up to AT hits and grow with `top_k` beyond it, and with the share of rows that `selection`
    keeps out. They are the call's own: threads with different ones do not disturb each other. A query that finds
    fewer than `top_k` so is searched for exactly, and so is any where `selection` has few rows.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    if settings is None or (selection is not None and selection.few is not None):
        return _search_exactly(index, queries, top_k, selection)
    scores, rows = index.search(queries, top_k, params=_parameters(index, settings, top_k, selection))
    few = (rows < 0).any(axis=1)
    if few.any():
        scores[few], rows[few] = _search_exactly(index, queries[few], top_k, selection)
    return scores, rows


def _search_exactly(
    index: faiss.Index, queries: Vectors, top_k: int, selection: Selection | None
) -> tuple[Vectors, Rows]:
    part = _exact_part(index)
    if selection is None:
        return part.search(queries, top_k)
    if selection.few is not None and isinstance(part, faiss.IndexFlat):
        # only Flat goes through such a list; other structures look it up for every row
        chosen: faiss.IDSelector = faiss.IDSelectorArray(selection.few)
    else:
        chosen = _selector(selection)
    return part.search(queries, top_k, params=faiss.SearchParameters(sel=chosen))  # type: ignore[call-arg]


def _selector(selection: Selection) -> faiss.IDSelector:
    return faiss.IDSelectorBitmap(selection.bits)  # type: ignore[call-arg, arg-type]


def exact(vectors: Vectors, queries: Vectors, top_k: int) -> tuple[Vectors, Rows]:
    """The truth: cosines [Q, k] falling and rows [Q, k] of the k = min(top_k, N) best of float32 `vectors`."""
    best: tuple[Vectors, Rows] = faiss.knn(
        np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(vectors, np.float32),
        min(top_k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT,
    )  # fmt: skip
    return best


def tune(
    index: faiss.Index, kind: Kind, vectors: Vectors, queries: Vectors, *, modality: Modality, target: float
) -> tuple[dict[str, int] | None, float]:
    """The cheapest settings that reach a recall@10 of `target` on held-out `queries` [Q, D], and that recall.

    What is chosen for these queries must hold for others, so two standard errors are to spare, where the largest
    settings give as much. flat has nothing to set. Raises InputError (recall_below_target).
    """
    truth = exact(vectors, queries, AT)[0]
    recall, chosen = 0.0, None
    for chosen in _ladder(index, kind):
        found = search(index, queries, truth.shape[1], chosen)[1]
        each = _recalls(vectors, queries, truth, found)
        recall = float(each.mean())
        if recall - 2 * each.std() / math.sqrt(len(each)) >= target:
            break
    if recall < target:
        raise InputError(
            BELOW_TARGET,
            f"Of the {AT} nearest, the kind {kind} finds {recall:.3f} for {modality} queries even with "
            f"{chosen}; the target is {target}.",
            "Use --kind flat, which is exact, or another kind, or a lower --target-recall.",
        )
    return chosen, recall


def _recalls(vectors: Vectors, queries: Vectors, truth: Vectors, found: Rows) -> NDArray[np.float64]:
    """For each query the share of what was `found` [Q, K] that is as near as the K-th of the `truth` [Q, K]."""
    cosines = np.stack([vectors[rows] @ query for rows, query in zip(found, queries, strict=True)])
    return (cosines >= truth[:, -1:] - TIE).mean(axis=1)


def _ladder(index: faiss.Index, kind: Kind) -> list[dict[str, int] | None]:
    """Settings from the cheapest to the most thorough."""
    if kind == "flat":
        return [None]
    if kind == "hnsw":
        return [{"efSearch": ef} for ef in _EF]
    cells = _cells(index)
    probes = [2**power for power in range(2, cells.bit_length()) if 2**power < cells] + [cells]
    return [{"nprobe": probe, "k_factor": factor} for probe in probes for factor in _K_FACTORS]


def _parameters(
    index: faiss.Index, settings: Settings, top_k: int, selection: Selection | None = None
) -> faiss.SearchParameters:
    """What FAISS takes. `bounded_queue` of a graph stays true: without it, filtered searches find what is kept out."""
    reach = max(1.0, top_k / AT)
    filtered: dict[str, Any] = {}
    if selection is not None:
        reach *= _FILTERED / selection.share
        filtered["sel"] = _selector(selection)
    if "efSearch" in settings:
        effort = min(math.ceil(settings["efSearch"] * reach), max(index.ntotal, 1))
        return faiss.SearchParametersHNSW(efSearch=effort, **filtered)  # type: ignore[attr-defined]
    probes = min(math.ceil(settings["nprobe"] * reach), _cells(index))
    inner = faiss.SearchParametersIVF(nprobe=probes, **filtered)  # type: ignore[call-arg]
    factor = settings["k_factor"]  # counts in hits already
    return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)  # type: ignore[call-arg]


def _cells(index: Any) -> int:
    return int(faiss.downcast_index(index.base_index).nlist)  # type: ignore[attr-defined]


def _exact_part(index: faiss.Index) -> faiss.Index:
    """The part of the structure that compares with every vector."""
    if isinstance(index, faiss.IndexHNSW):
        return faiss.downcast_index(index.storage)
    return faiss.downcast_index(index.refine_index) if isinstance(index, faiss.IndexRefine) else index
