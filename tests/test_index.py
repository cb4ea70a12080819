"""Index: exact answers, versions that appear whole, and vectors of one model only."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_jobs import schema, text
from data_jobs.errors import InputError
from train_jobs import index
from train_jobs.encoder import Embeddings
from train_jobs.index import CURRENT, MANIFEST, Index
from train_jobs.spec import ModelSpec

ROWS, WIDTH = 200, 16


def _spec(**changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {
        "base_model": "test", "base_revision": None, "family": "clip", "embedding_dim": WIDTH,
        "image_size": 32, "image_resize": "crop", "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5), "context_length": 77, "text_normalizer": text.VERSION,
        "logit_scale": 10.0, "logit_bias": 0.0, "calibration": None, "threshold": None, "metrics": {},
        "data_fingerprint": None, "weights_sha256": "ab" * 32,
    }  # fmt: skip
    return ModelSpec(**facts | changes)


def _units(rows: int, seed: int = 0) -> Embeddings:
    rows_ = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return rows_ / np.linalg.norm(rows_, axis=1, keepdims=True)


def _documents(rows: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": f"d{row}", "food_id": f"g{row // 2}", "title": f"قرمه سبزی {row}",
                "passage_text": f"passage {row}", "image_path": None, "metadata": "{}",
            }
            for row in range(rows)
        ],
        schema.DOCSTORE,
    )  # fmt: skip


VECTORS = _units(ROWS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    index.write(folder, VECTORS, _documents(ROWS), _spec(), embedded="passage_text")
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """One to break."""
    return shutil.copytree(written, tmp_path / "index")


@pytest.mark.parametrize("top_k", [1, 7, ROWS])
def test_search_equals_brute_force(written: Path, top_k: int) -> None:
    opened = Index.open(written, _spec())
    for query in _units(10, seed=1):
        cosines = VECTORS @ query
        best = np.argsort(-cosines)[:top_k]
        hits = opened.search(query, top_k)
        assert [hit.document["id"] for hit in hits] == [f"d{row}" for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], cosines[best], atol=1e-6)


def test_a_hit_is_the_whole_document(written: Path) -> None:
    hit = Index.open(written).search(VECTORS[3], 1)[0]
    assert hit.document == _documents(ROWS).slice(3, 1).to_pylist()[0]
    assert hit.score == pytest.approx(1)
    assert type(hit.score) is float


def test_top_k_beyond_the_rows_gives_all_rows(written: Path) -> None:
    opened = Index.open(written)
    assert len(opened) == ROWS
    ids = [hit.document["id"] for hit in opened.search(VECTORS[0], 10 * ROWS)]
    assert len(ids) == len(set(ids)) == ROWS


def test_ten_hits_unless_told(written: Path) -> None:
    assert len(Index.open(written).search(VECTORS[0])) == 10


def test_threads_may_search_one_index(written: Path) -> None:
    opened = Index.open(written)
    queries = _units(400, seed=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: opened.search(query, 3)[0].document["id"], queries))
    assert found == [f"d{row}" for row in (VECTORS @ queries.T).argmax(0)]


def test_the_manifest_tells_what_the_vectors_are(written: Path) -> None:
    manifest = Index.open(written).manifest
    facts = json.loads((written / "v001" / MANIFEST).read_text())
    assert facts == vars(manifest)
    assert (manifest.version, manifest.rows, manifest.dimension) == ("v001", ROWS, WIDTH)
    assert manifest.model_hash == _spec().model_hash
    assert (manifest.text_normalizer, manifest.embedded) == (text.VERSION, "passage_text")
    assert sorted(manifest.checksums) == ["documents.parquet", "index.faiss"]


def test_versions_count_up_and_current_names_the_last(tmp_path: Path) -> None:
    for version, rows in (("v001", 3), ("v002", 4), ("v003", 5)):
        assert index.write(tmp_path, _units(rows), _documents(rows), _spec(), embedded="x").version == version
        assert (tmp_path / CURRENT).read_text().strip() == version
        assert len(Index.open(tmp_path)) == rows
    assert sorted(os.listdir(tmp_path)) == [CURRENT, "v001", "v002", "v003"]
    (tmp_path / CURRENT).write_text("v001\n")  # how one goes back
    assert len(Index.open(tmp_path)) == 3
    shutil.rmtree(tmp_path / "v002")
    assert index.write(tmp_path, _units(2), _documents(2), _spec(), embedded="x").version == "v004"


def test_an_open_version_outlives_the_next(tmp_path: Path) -> None:
    index.write(tmp_path, _units(3), _documents(3), _spec(), embedded="x")
    opened = Index.open(tmp_path)
    index.write(tmp_path, _units(1, seed=5), _documents(1), _spec(), embedded="x")
    assert [hit.document["id"] for hit in opened.search(_units(3)[2], 1)] == ["d2"]


def test_vectors_of_another_model_are_refused(written: Path) -> None:
    other = _spec(weights_sha256="cd" * 32)
    with pytest.raises(InputError, match=other.model_hash) as refusal:
        Index.open(written, other)
    assert refusal.value.code == "index_of_another_model"
    assert _spec().model_hash in refusal.value.message
    Index.open(written, _spec(threshold=None, metrics={"auroc": 0.9}))  # changes no vector
    with pytest.raises(InputError):
        Index.open(written).require(other.model_hash)


@pytest.mark.parametrize("name", ["index.faiss", "documents.parquet"])
def test_a_changed_byte_is_noticed(copy: Path, name: str) -> None:
    content = bytearray((copy / "v001" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "v001" / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as refusal:
        Index.open(copy)
    assert refusal.value.code == "index_damaged"


@pytest.mark.parametrize("name", ["index.faiss", "documents.parquet"])
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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree, _without_current, _current_of_nothing, _half_a_manifest,
        _manifest_of_something_else, _manifest_of_a_later_format,
    ],
)  # fmt: skip
def test_what_is_no_index_is_refused(copy: Path, spoil: Any) -> None:
    spoil(copy)
    with pytest.raises(InputError, match=str(copy)) as refusal:
        Index.open(copy)
    assert refusal.value.code == "not_an_index"


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
        index.write(tmp_path / "i", _units(vectors), _documents(documents), _spec(), embedded="x")
    assert refusal.value.code == "nothing_to_index"
    assert not (tmp_path / "i").exists()
