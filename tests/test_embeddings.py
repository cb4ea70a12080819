"""Files of embeddings: whole or not at all, and refused when they are of something else."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_jobs import text
from data_jobs.embeddings import Embeddings, image_key, schema, writing
from data_jobs.errors import InputError

ROWS = np.array([[1, 0], [0.6, 0.8], [0, -1]], np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "e.parquet"
    with writing(path, 2, "abc") as writer:
        writer.add("text", ["t1", "t2"], ROWS[:2])
        writer.add("image", ["/p.jpg"], ROWS[2:])
        writer.add("text", ["t3"], ROWS[2:])
        assert not path.exists()
    return path


def test_what_is_written_is_read(file: Path) -> None:
    found = Embeddings.read(file)
    assert found.model_hash == "abc"
    np.testing.assert_array_equal(found.texts.of(["t3", "t1"], ["", ""]), ROWS[[2, 0]])
    np.testing.assert_array_equal(found.images.of(["/p.jpg"], [""]), ROWS[2:])
    assert found.texts.rows.dtype == np.float32
    assert list(file.parent.iterdir()) == [file]


def test_the_columns_are_as_documented(file: Path) -> None:
    table = pq.read_table(file)
    assert table.schema.names == ["kind", "key", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert table.schema.metadata == {b"model_hash": b"abc", b"text_normalizer": text.VERSION.encode()}


def test_a_failure_leaves_what_was_there(file: Path) -> None:
    def fail() -> None:
        with writing(file, 2, "def") as writer:
            writer.add("text", ["t9"], ROWS[:1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Embeddings.read(file).model_hash == "abc"
    assert list(file.parent.iterdir()) == [file]


def test_missing_ones_are_counted_and_named(file: Path) -> None:
    with pytest.raises(InputError, match=r"2 of 3 texts have no embedding .*'a red mug'") as refusal:
        Embeddings.read(file).texts.of(["x", "t1", "y"], ["a red mug", "a hat", "a sofa"])
    assert refusal.value.code == "missing_embeddings"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("mine")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "columns")
    pq.write_table(pa.table({"kind": ["text"], "key": ["k"], "embedding": [[1.0]]}), tmp_path / "lists")
    for name in ("absent", "text", "columns", "lists"):
        with pytest.raises(InputError) as refusal:
            Embeddings.read(tmp_path / name)
        assert refusal.value.code == "no_embeddings", name


def test_another_normaliser_is_refused(tmp_path: Path) -> None:
    columns = schema(2, "abc").with_metadata({"model_hash": "abc", "text_normalizer": "fa-en-0"})
    pq.write_table(columns.empty_table(), tmp_path / "old.parquet")
    with pytest.raises(InputError, match="fa-en-0") as refusal:
        Embeddings.read(tmp_path / "old.parquet")
    assert refusal.value.code == "normalizer_mismatch"


def test_a_file_without_pictures_has_none(tmp_path: Path) -> None:
    with writing(tmp_path / "e.parquet", 2, "abc") as writer:
        writer.add("text", ["t1"], ROWS[:1])
    found = Embeddings.read(tmp_path / "e.parquet")
    assert found.images.place == {}
    assert found.images.rows.shape == (0, 2)


def test_one_place_has_one_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert image_key("/a/b/../c.jpg") == image_key("/a/./c.jpg") == "/a/c.jpg"
    assert image_key("c.jpg") == f"{tmp_path}/c.jpg"
    assert image_key("zip://a/c.jpg::s3://b/z.zip") == "zip://a/c.jpg::s3://b/z.zip"
