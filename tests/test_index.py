"""Index: the answers it promises, versions that appear whole, and vectors of one model only."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from conftest import REPO_ROOT
from small_index import (
    NOBODY,
    ROWS,
    UNASKED,
    VECTORS,
    WIDTH,
    make_documents,
    make_queries,
    spec,
    units,
    write,
)

from data_jobs import text
from data_jobs.errors import InputError
from train_jobs import filters, index
from train_jobs.index import CURRENT, MANIFEST, Index, Measured, Queries, finds_at, mixed_query
from train_jobs.index_kinds import Modality


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    index.write(folder, VECTORS, make_documents(ROWS), spec(), embedded="passage_text", queries=UNASKED)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """One to break."""
    return shutil.copytree(written, tmp_path / "index")


@pytest.mark.parametrize("top_k", [1, 7, ROWS])
def test_search_equals_brute_force(written: Path, top_k: int) -> None:
    opened = Index.open(written, spec())
    for query in units(10, seed=1):
        cosines = VECTORS @ query
        best = np.argsort(-cosines)[:top_k]
        hits = opened.search(query, top_k)
        assert [hit.document["id"] for hit in hits] == [f"d{row}" for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], cosines[best], atol=1e-6)


def test_a_hit_is_the_whole_document(written: Path) -> None:
    hit = Index.open(written).search(VECTORS[3], 1)[0]
    assert hit.document == make_documents(ROWS).slice(3, 1).to_pylist()[0]
    assert hit.score == pytest.approx(1)
    assert type(hit.score) is float


def test_a_hit_is_its_own_document_wherever_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_jobs.index_writing._ROWS_PER_BATCH", 7)
    index.write(
        tmp_path / "index", VECTORS, make_documents(ROWS), spec(), embedded="passage_text", queries=UNASKED
    )
    opened = Index.open(tmp_path / "index")
    for row in range(ROWS):
        hit = opened.search(VECTORS[row], 1)[0]
        assert hit.document == make_documents(ROWS).slice(row, 1).to_pylist()[0]


def test_top_k_beyond_the_rows_gives_all_rows(written: Path) -> None:
    opened = Index.open(written)
    assert len(opened) == ROWS
    ids = [hit.document["id"] for hit in opened.search(VECTORS[0], 10 * ROWS)]
    assert len(ids) == len(set(ids)) == ROWS


def test_ten_hits_unless_told(written: Path) -> None:
    assert len(Index.open(written).search(VECTORS[0])) == 10


def test_threads_may_search_one_index(written: Path) -> None:
    opened = Index.open(written)
    queries = units(400, seed=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: opened.search(query, 3)[0].document["id"], queries))
    assert found == [f"d{row}" for row in (VECTORS @ queries.T).argmax(0)]


def test_the_manifest_tells_what_the_vectors_are(written: Path) -> None:
    manifest = Index.open(written).manifest
    facts = json.loads((written / "v001" / MANIFEST).read_text())
    assert facts == asdict(manifest)
    assert (manifest.version, manifest.rows, manifest.dimension) == ("v001", ROWS, WIDTH)
    assert manifest.model_hash == spec().model_hash
    assert (manifest.text_normalizer, manifest.embedded) == (text.VERSION, "passage_text")
    assert sorted(manifest.checksums) == ["documents.arrow", "fields.arrow", "index.faiss"]
    assert (manifest.kind, manifest.factory, manifest.faiss_version) == ("flat", "Flat", faiss.__version__)
    assert manifest.reason.startswith(f"an exact scan of {ROWS} x {WIDTH}")
    assert manifest.measured["text"] == Measured("nobody asked", 0, None, None, 0, None)


def test_versions_count_up_and_current_names_the_last(tmp_path: Path) -> None:
    for version, rows in (("v001", 3), ("v002", 4), ("v003", 5)):
        assert write(tmp_path, rows).version == version
        assert (tmp_path / CURRENT).read_text().strip() == version
        assert len(Index.open(tmp_path)) == rows


def test_the_version_before_stays_and_older_ones_go(tmp_path: Path) -> None:
    for rows in (3, 4, 5):
        write(tmp_path, rows)
    (tmp_path / "v000").mkdir()
    (tmp_path / "v000" / "notes.txt").write_text("no version of ours")
    assert sorted(os.listdir(tmp_path)) == [".lock", CURRENT, "v000", "v002", "v003"]
    (tmp_path / CURRENT).write_text("v002\n")  # how one goes back
    assert len(Index.open(tmp_path)) == 4
    assert write(tmp_path, 6).version == "v004"
    assert sorted(os.listdir(tmp_path)) == [".lock", CURRENT, "v000", "v002", "v004"]
    shutil.rmtree(tmp_path / "v002")
    assert write(tmp_path, 2).version == "v005"


def test_an_open_version_outlives_the_next_two(tmp_path: Path) -> None:
    write(tmp_path, 3)
    opened = Index.open(tmp_path)
    for seed in (5, 6):
        write(tmp_path, 1, seed)
    assert not (tmp_path / "v001").exists()
    assert [hit.document["id"] for hit in opened.search(units(3)[2], 1)] == ["d2"]


def test_two_writers_at_once_give_two_versions(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda rows: write(tmp_path, rows), range(1, 9)))
    assert sorted(manifest.version for manifest in written) == [f"v{n:03d}" for n in range(1, 9)]
    assert Index.open(tmp_path).manifest.version == "v008"


KILLED = """
import os, pickle, signal, sys, time
from train_jobs import index
folder = sys.argv[1]
vectors, documents, spec, queries = pickle.load(sys.stdin.buffer)
index.write(folder, vectors, documents, spec, embedded="x", queries=queries)
for attempt in range(20):
    child = os.fork()
    if not child:
        while True:
            index.write(folder, vectors, documents, spec, embedded="x", queries=queries)
    time.sleep(0.005 + 0.012 * attempt)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    opened = index.Index.open(folder)
    assert len(opened.search(vectors[0], 5)) == 5
print(opened.manifest.version)
"""


def test_kill_9_at_any_moment_leaves_a_version_that_opens(tmp_path: Path) -> None:
    given = (VECTORS, make_documents(ROWS), spec(), UNASKED)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPO_ROOT, input=pickle.dumps(given),
        capture_output=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout.strip()[1:]) > 5  # many were written, and some killed in the middle:
    assert [path for path in tmp_path.iterdir() if ".writing-" in path.name or ".CURRENT." in path.name]


def test_a_kind_below_target_is_not_published(tmp_path: Path) -> None:
    before = write(tmp_path, 3).version
    rows = 3000
    with pytest.raises(InputError, match="the kind ivf-pq finds 0.9") as refusal:
        index.write(
            tmp_path, units(rows), make_documents(rows), spec(), embedded="x", kind="ivf-pq", target_recall=1.0,
            queries={"text": NOBODY, "image": make_queries(units(300, seed=1))},
        )  # fmt: skip
    assert refusal.value.code == "recall_below_target"
    assert (tmp_path / CURRENT).read_text().strip() == before
    assert [path.name for path in tmp_path.glob("v*")] == [before]
    assert len(Index.open(tmp_path)) == 3


def test_where_the_chosen_kind_is_below_target_the_next_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_jobs.index_kinds.choose", lambda *_, **__: ("hnsw", "because"))
    monkeypatch.setattr("train_jobs.index_kinds._EF", (1,))
    rows = 3000
    manifest = index.write(
        tmp_path, units(rows), make_documents(rows), spec(), embedded="x", target_recall=1.0,
        queries={"text": NOBODY, "image": make_queries(units(300, seed=1))},
    )  # fmt: skip
    assert manifest.kind == "flat"
    assert manifest.reason.startswith("because; but of the 10 nearest, the kind hnsw finds 0.")
    assert "; but of the 10 nearest, the kind ivf-pq finds 0.9" in manifest.reason
    assert manifest.measured["image"].recall_at_10 == 1


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of 5000 vectors, tuned for pictures alone."""
    folder = tmp_path_factory.mktemp("graph") / "index"
    queries: dict[Modality, Queries] = {"text": NOBODY, "image": make_queries(units(100, seed=1))}
    index.write(folder, units(5000), make_documents(5000), spec(), embedded="x", queries=queries, kind="hnsw")
    return folder


def test_the_manifest_tells_how_well_each_modality_is_found(graph: Path) -> None:
    manifest = Index.open(graph).manifest
    assert (manifest.kind, manifest.factory, manifest.target_recall) == ("hnsw", "HNSW32", 0.95)
    assert manifest.reason.startswith("asked for; the rule says flat: an exact scan of 5000 x 16")
    assert manifest.measured["text"] == Measured("nobody asked", 0, None, None, 0, None)
    image = manifest.measured["image"]
    assert (image.about, image.queries, image.answerable) == ("some", 100, 100)
    assert image.settings is not None and image.settings["efSearch"] >= 16
    assert image.recall_at_10 is not None and 0.95 <= image.recall_at_10 <= 1
    assert image.finds_at is not None and image.finds_at["10"] < 0.1  # g0 is 2 of 5000


def test_what_was_not_measured_is_searched_exactly(graph: Path) -> None:
    opened, vectors = Index.open(graph), units(5000)
    for query in units(50, seed=7):
        best = [f"d{row}" for row in np.argsort(-(vectors @ query))[:10]]
        assert [hit.document["id"] for hit in opened.search(query)] == best
        assert [hit.document["id"] for hit in opened.search(query, modality="image", exact=True)] == best


def test_what_was_measured_is_searched_with_its_settings(graph: Path) -> None:
    opened, vectors = Index.open(graph), units(5000)
    queries = units(200, seed=8)
    best = [{f"d{row}" for row in np.argsort(-(vectors @ query))[:10]} for query in queries]
    found = [{hit.document["id"] for hit in opened.search(query, modality="image")} for query in queries]
    recall = np.mean([len(a & b) / 10 for a, b in zip(found, best, strict=True)])
    assert 0.94 <= recall < 1


def test_few_queries_measure_no_recall(tmp_path: Path) -> None:
    few: dict[Modality, Queries] = {"text": make_queries(units(49, seed=1)), "image": NOBODY}
    manifest = index.write(
        tmp_path, units(700), make_documents(700), spec(), embedded="x", queries=few, kind="hnsw"
    )
    text = manifest.measured["text"]
    assert (text.queries, text.settings, text.recall_at_10) == (49, None, None)
    assert "fewer than 50" in text.about
    assert text.finds_at is not None


def test_flat_finds_all_of_every_modality(tmp_path: Path) -> None:
    asked = {"text": make_queries(units(60, seed=1)), "image": make_queries(units(50, seed=2))}
    manifest = index.write(
        tmp_path,
        VECTORS,
        make_documents(ROWS),
        spec(),
        embedded="x",
        queries=asked,  # type: ignore[arg-type]
    )
    assert [found.recall_at_10 for found in manifest.measured.values()] == [1.0, 1.0]
    assert [found.settings for found in manifest.measured.values()] == [None, None]


def test_answers_among_the_best() -> None:
    """Three documents of a, two of b, one of c."""
    documents = pa.chunked_array([["a", "b", "a"], ["c", "b", "a"]])
    found = np.array(
        [
            [0, 1, 2, 3, 4, 5],  # a: the first
            [0, 2, 3, 5, 4, 1],  # b: the fifth
            [0, 1, 2, 4, 5, 3],  # c: the sixth
            [3, 0, 1, 2, 4, 5],  # c that was made of 3, and has no other: not counted
            [2, 1, 3, 4, 0, 5],  # a that was made of 2: the fourth of the others
            [0, 1, 2, 3, 4, 5],  # d: nobody has it
        ]
    )
    counted, shares = finds_at(found, documents, [*"abccad"], [-1, -1, -1, 3, 2, -1])
    assert (counted, shares) == (4, {"1": 0.25, "5": 0.75, "10": 1.0})
    assert finds_at(found[3:4], documents, ["c"], [3]) == (0, None)
    assert finds_at(found[:1, 1:3], documents, ["b"], [-1])[1] == {"1": 1.0, "5": 1.0, "10": 1.0}
    assert finds_at(found[:1, :1], documents, ["b"], [-1]) == (1, {"1": 0.0, "5": 0.0, "10": 0.0})


def test_vectors_of_another_model_are_refused(written: Path) -> None:
    other = spec(weights_sha256="cd" * 32)
    with pytest.raises(InputError, match=other.model_hash) as refusal:
        Index.open(written, other)
    assert refusal.value.code == "index_of_another_model"
    assert spec().model_hash in refusal.value.message
    Index.open(written, spec(threshold=None, metrics={"auroc": 0.9}))  # changes no vector
    with pytest.raises(InputError):
        Index.open(written).require(other.model_hash)


@pytest.mark.parametrize("name", ["index.faiss", "documents.arrow", "fields.arrow"])
def test_a_changed_byte_is_noticed(copy: Path, name: str) -> None:
    content = bytearray((copy / "v001" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "v001" / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as refusal:
        Index.open(copy)
    assert refusal.value.code == "index_damaged"


@pytest.mark.parametrize("name", ["index.faiss", "documents.arrow", "fields.arrow"])
def test_a_missing_file_is_damage(copy: Path, name: str) -> None:
    (copy / "v001" / name).unlink()
    with pytest.raises(InputError, match=name) as refusal:
        Index.open(copy)
    assert refusal.value.code == "index_damaged"


def _without_current(folder: Path) -> None:
    (folder / CURRENT).unlink()


def _current_of_nothing(folder: Path) -> None:
    (folder / CURRENT).write_text("v009\n")


def _half_a_manifest(folder: Path) -> None:
    path = folder / "v001" / MANIFEST
    path.write_text(path.read_text()[:40])


def _manifest_of_something_else(folder: Path) -> None:
    (folder / "v001" / MANIFEST).write_text('{"name": "my app"}')


def _manifest_of_a_later_format(folder: Path) -> None:
    path = folder / "v001" / MANIFEST
    path.write_text(json.dumps({"format_version": 4, "new": True}))


def _manifest_without_a_modality(folder: Path) -> None:
    path = folder / "v001" / MANIFEST
    facts = json.loads(path.read_text())
    del facts["measured"]["image"]
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree, _without_current, _current_of_nothing, _half_a_manifest,
        _manifest_of_something_else, _manifest_of_a_later_format, _manifest_without_a_modality,
    ],
)  # fmt: skip
def test_what_is_no_index_is_refused(copy: Path, spoil: Any) -> None:
    spoil(copy)
    with pytest.raises(InputError, match=str(copy)) as refusal:
        Index.open(copy)
    assert refusal.value.code == "not_an_index"


def test_an_index_of_the_format_before_is_refused_with_the_remedy(copy: Path) -> None:
    """What version 1 wrote, to the field."""
    old = {
        "format_version": 1, "version": "v001", "kind": "Flat", "rows": ROWS, "dimension": WIDTH,
        "model_hash": "0" * 16, "text_normalizer": text.VERSION, "embedded": "title. passage_text", "checksums": {},
    }  # fmt: skip
    (copy / "v001" / MANIFEST).write_text(json.dumps(old))
    with pytest.raises(InputError, match="has format 1; this is 3") as refusal:
        Index.open(copy)
    assert refusal.value.code == "not_an_index"
    assert "build the index again" in refusal.value.suggestion


@pytest.mark.parametrize("shape", [(WIDTH - 1,), (WIDTH + 1,), (1, WIDTH), ()])
def test_a_query_of_another_shape_is_refused(written: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"vectors of {WIDTH}") as refusal:
        Index.open(written).search(np.zeros(shape, np.float32))
    assert refusal.value.code == "wrong_dimension"


@pytest.mark.parametrize("top_k", [0, -1])
def test_less_than_one_hit_is_refused(written: Path, top_k: int) -> None:
    with pytest.raises(InputError, match=f"top_k is {top_k}") as refusal:
        Index.open(written).search(VECTORS[0], top_k)
    assert refusal.value.code == "bad_top_k"


@pytest.mark.parametrize(("vectors", "documents"), [(0, 0), (2, 3), (3, 2)])
def test_nothing_is_written_unless_vectors_and_documents_agree(
    tmp_path: Path, vectors: int, documents: int
) -> None:
    with pytest.raises(InputError, match=f"{vectors} vectors for {documents} documents") as refusal:
        index.write(
            tmp_path / "i", units(vectors), make_documents(documents), spec(), embedded="x", queries=UNASKED
        )
    assert refusal.value.code == "nothing_to_index"
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("top_k", [1, 10, 500])
@pytest.mark.parametrize(
    ("condition", "passing"),
    [
        ({"row": {"lt": 5000}}, range(5000)),
        ({"price": {"lt": 40}}, [row for row in range(5000) if row % 50 < 40]),
        ({"price": 7.5}, range(7, 5000, 50)),  # 2 %: exactly
        ({"food_id": {"in": ["g3", "g700"]}}, [6, 7, 1400, 1401]),
        ({"row": 5001}, []),
    ],
)
def test_a_filter_comes_before_top_k(graph: Path, condition: Any, passing: Any, top_k: int) -> None:
    opened, cosines = Index.open(graph), units(5000) @ units(1, seed=4)[0]
    asked = filters.parse(condition)
    best = sorted(passing, key=lambda row: -cosines[row])[:top_k]
    hits = opened.search(units(1, seed=4)[0], top_k, filter=asked, exact=True)
    assert [hit.document["id"] for hit in hits] == [f"d{row}" for row in best]
    close = opened.search(units(1, seed=4)[0], top_k, filter=asked, modality="image")
    assert len(close) == len(best)
    assert len({hit.document["id"] for hit in close} & {f"d{row}" for row in best}) >= 0.9 * len(best)


def test_which_searches_are_exact_by_themselves(graph: Path) -> None:
    opened = Index.open(graph)
    assert opened.searches_exactly("text") and opened.searches_exactly(None)  # not measured
    assert not opened.searches_exactly("image")
    assert not opened.searches_exactly("image", filters.parse({"row": {"lt": 1000}}))
    assert opened.searches_exactly("image", filters.parse({"row": {"lt": 100}}))
    assert opened.searches_exactly("image", filters.parse({"row": -1}))


def test_a_filter_of_an_unknown_field_is_refused(written: Path) -> None:
    with pytest.raises(InputError, match="'prise'") as refusal:
        Index.open(written).search(VECTORS[0], filter=filters.parse({"prise": 3}))
    assert refusal.value.code == "bad_filter"
    assert refusal.value.suggestion == "The fields are id, food_id, title, price, row."


def test_a_filter_is_evaluated_once_while_it_is_recent(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FILTERS_BYTES", 3 * (ROWS // 8 + 8))  # three of one row each
    opened, evaluated = Index.open(written), []
    evaluate = opened._fields.mask
    monkeypatch.setattr(opened._fields, "mask", lambda asked: evaluated.append(asked) or evaluate(asked))
    conditions = [filters.parse({"row": row}) for row in range(4)]
    for number in (0, 1, 2, 0, 3, 0, 1):  # 3 takes the place of 1
        hits = opened.search(VECTORS[50], 5, filter=conditions[number])
        assert [hit.document["id"] for hit in hits] == [f"d{number}"]
    assert [conditions.index(asked) for asked in evaluated] == [0, 1, 2, 3, 1]


def test_threads_with_different_filters_do_not_disturb_each_other(graph: Path) -> None:
    opened = Index.open(graph)
    asked = [filters.parse({"row": {"gte": 100 * n, "lt": 100 * n + 50 + 500 * (n % 2)}}) for n in range(40)]

    def one(task: int) -> list[str]:
        query = units(1, seed=task % 7)[0]
        return [hit.document["id"] for hit in opened.search(query, modality="image", filter=asked[task % 40])]

    alone = [one(task) for task in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(200))) == alone


@pytest.mark.parametrize("modality", ["text", "image", None])
def test_a_batch_gives_each_query_its_own_hits(graph: Path, modality: Modality | None) -> None:
    opened, queries = Index.open(graph), units(20, seed=3)
    asked = filters.parse({"row": {"lt": 3000}})
    together = opened.search_batch(queries, 5, modality=modality, filter=asked)
    assert together == [opened.search(query, 5, modality=modality, filter=asked) for query in queries]
    assert opened.search_batch(queries[:0]) == []
    assert opened.search_batch(queries[:2], filter=filters.parse({"row": -1})) == [[], []]
    with pytest.raises(InputError, match=f"vectors of {WIDTH}"):
        opened.search_batch(queries[0])


def test_a_mixed_query_is_near_what_it_is_for_and_far_from_what_it_is_against(written: Path) -> None:
    opened, (a, b, c) = Index.open(written), VECTORS[:3]
    query = mixed_query([(a, 1.0), (b, 1.0), (c, -0.5)])
    assert query.dtype == np.float32 and np.linalg.norm(query) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(query, (a + b - c / 2) / np.linalg.norm(a + b - c / 2), atol=1e-6)
    scores = {hit.document["id"]: hit.score for hit in opened.search(query, ROWS, modality=None)}
    assert {"d0", "d1"} <= set(list(scores)[:3])
    assert scores["d2"] < opened.search(mixed_query([(a, 1.0), (b, 1.0)]), ROWS)[0].score
    np.testing.assert_allclose(mixed_query([(a, 0.3)]), a, atol=1e-6)
    np.testing.assert_allclose(mixed_query([(a, 20.0), (b, 10.0)]), mixed_query([(a, 2), (b, 1)]), atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], "bad_mix"),
        ([(VECTORS[0], 1.0), (VECTORS[0], -1.0)], "bad_mix"),
        ([(VECTORS[0], 0.0)], "bad_mix"),
        ([(VECTORS[0], float("nan"))], "bad_mix"),
        ([(VECTORS[0], float("inf"))], "bad_mix"),
        ([(VECTORS[0], 1.0), (VECTORS[0][:-1], 1.0)], "wrong_dimension"),
        ([(VECTORS[:1], 1.0)], "wrong_dimension"),
    ],
)
def test_what_is_no_mix_is_refused(parts: Any, code: str) -> None:
    with pytest.raises(InputError) as refusal:
        mixed_query(parts)
    assert refusal.value.code == code


SEARCHES = """
import os, sys
import numpy as np
from train_jobs.index import Index
opened = Index.open(sys.argv[1])
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
query = np.zeros(opened.manifest.dimension, np.float32)
query[0] = 1
for _ in range(3):
    opened.search(query, exact=True)
    opened.search_batch(np.tile(query, (300, 1)), exact=True)  # so many go through BLAS
print(threads() - before, flush=True)
sys.stdin.read()
"""


def test_a_search_starts_no_threads(graph: Path) -> None:
    """OpenMP would start one for each core; the environment tells it of four."""
    done = subprocess.run(
        [sys.executable, "-c", SEARCHES, str(graph)], cwd=REPO_ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "4"},
    )  # fmt: skip
    assert done.stdout.strip() == "0", done.stderr


def _mapping(process: int | str, file: Path) -> dict[str, int]:
    """Kilobytes of a process's mapping of `file`: Rss, Pss (each page divided by its users), Private_Dirty, ..."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in line.split()[0]:  # address range
            inside = line.endswith(str(file))
        elif inside and rest.endswith("kB"):
            found[name] = found.get(name, 0) + int(rest.split()[0])
    return found


def test_processes_share_one_copy_of_the_vectors(tmp_path: Path) -> None:
    rows = 20_000
    index.write(tmp_path, units(rows), make_documents(rows), spec(), embedded="x", queries=UNASKED)
    mapped = [Index.open(tmp_path)]
    mapped[0].search(VECTORS[0], exact=True)
    file = tmp_path / "v001" / "index.faiss"
    alone = _mapping("self", file)
    size = rows * WIDTH * 4 // 1024
    assert alone["Rss"] >= size and alone["Pss"] >= 0.95 * size
    child = subprocess.Popen(
        [sys.executable, "-c", SEARCHES, str(tmp_path)], cwd=REPO_ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with child:
        assert child.stdout is not None and child.stdout.readline().strip() == "0"
        for each in (_mapping("self", file), _mapping(child.pid, file)):
            assert each["Rss"] >= size
            assert each["Pss"] <= 0.55 * each["Rss"]
            assert each["Private_Dirty"] == 0
        child.communicate("")
    assert child.returncode == 0
