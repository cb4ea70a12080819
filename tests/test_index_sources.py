"""Index sources: which documents, what is embedded of each, and queries that are no vectors of the index."""

import json
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_jobs import images, schema
from data_jobs.drawing import describe, draw, random_products
from data_jobs.errors import InputError
from train_jobs import index_sources, scratch
from train_jobs.encoder import Encoder
from train_jobs.index_sources import Photos, Pictures, Source, Texts, from_docstore, from_pairs

PRODUCTS = random_products(8, seed=4)
JPEGS = [images.encode_jpeg(draw(product, 48)) for product in PRODUCTS]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Untrained: its vectors mean nothing but are its own."""
    folder = tmp_path_factory.mktemp("model") / "model"
    scratch.build("scratch:tiny-clip", [describe(product) for product in PRODUCTS]).save(folder)
    return Encoder.load(folder, "cpu")


def _passage(number: int, **values: Any) -> dict[str, Any]:
    return {
        "id": f"p{number}", "food_id": f"g{number}", "title": f"title {number}",
        "passage_text": f"one two three {number}", "image_path": None, "metadata": "{}", **values,
    }  # fmt: skip


def _docstore(path: Path, passages: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(passages, schema.DOCSTORE), path)
    return path


def _dataset(folder: Path, pairs: list[dict[str, Any]], passages: list[dict[str, Any]]) -> Path:
    handmade.dataset(folder, pairs)
    _docstore(folder / "docstore.parquet", passages)
    (folder / "report.json").write_text(json.dumps({"format_version": 2}))
    return folder


def _pair(number: int, **values: Any) -> dict[str, Any]:
    return handmade.pair(f"r{number}", image=JPEGS[number % 8], **values)


def _texts(source: Source, modality: Any) -> list[str]:
    (things,) = source.queries[modality].things
    assert isinstance(things, Texts)
    return things.texts


def test_passages_are_embedded_with_their_titles(tmp_path: Path) -> None:
    path = _docstore(tmp_path / "d.parquet", [_passage(0), _passage(1, title=""), _passage(2)])
    source = from_docstore(path, block=2)
    assert source.documents.to_pylist() == [_passage(0), _passage(1, title=""), _passage(2)]
    assert source.embedded == "title. passage_text"
    assert source.things == [
        Texts(["title 0. one two three 0", "one two three 1"]),
        Texts(["title 2. one two three 2"]),
    ]


def test_a_docstore_is_asked_by_its_titles_each_once(tmp_path: Path) -> None:
    passages = [_passage(n, title=["cake", "", "pie", "cake"][n], food_id="aabc"[n]) for n in range(4)]
    asked = from_docstore(_docstore(tmp_path / "d.parquet", passages), block=9).queries["text"]
    (things,) = asked.things
    assert isinstance(things, Texts)
    assert dict(zip(things.texts, asked.groups, strict=True)) == {"cake": "a", "pie": "b"}
    assert (asked.own, asked.about) == ([-1, -1], "2 titles")


def test_without_titles_it_is_asked_by_half_of_each_passage(tmp_path: Path) -> None:
    texts = ["one two three four", "one", "a b c"]
    passages = [_passage(n, title="", passage_text=text) for n, text in enumerate(texts)]
    source = from_docstore(_docstore(tmp_path / "d.parquet", passages), block=9)
    assert sorted(_texts(source, "text")) == ["a b", "one", "one two"]
    assert source.queries["text"].about == "the first halves of 3 passages, since none has a title"


def test_a_docstore_is_asked_by_the_photos_it_names(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "good.jpg").write_bytes(JPEGS[0])
    (tmp_path / "bad.jpg").write_bytes(JPEGS[1][:200])
    paths = [str(tmp_path / name) for name in ("good.jpg", "bad.jpg", "gone.jpg")]
    passages = [_passage(n, image_path=[*paths, None][n]) for n in range(4)]
    asked = from_docstore(_docstore(tmp_path / "d.parquet", passages), block=9).queries["image"]
    (things,) = asked.things
    assert isinstance(things, Photos)
    assert dict(zip(things.paths, asked.groups, strict=True)) == dict(
        zip(paths, ["g0", "g1", "g2"], strict=True)
    )
    vectors = dict(zip(things.paths, things.embed(encoder), strict=True))
    np.testing.assert_allclose(vectors[paths[0]], encoder.images([images.decode(JPEGS[0])])[0], atol=1e-5)
    assert np.isnan(vectors[paths[1]]).all() and np.isnan(vectors[paths[2]]).all()


def test_a_docstore_without_photos_says_so(tmp_path: Path) -> None:
    asked = from_docstore(_docstore(tmp_path / "d.parquet", [_passage(0)]), block=9).queries["image"]
    assert (asked.about, asked.groups) == ("the docstore names no photos", [])


def test_queries_are_a_sample_that_depends_on_the_data_alone(tmp_path: Path) -> None:
    passages = [_passage(n) for n in range(1200)]
    first = from_docstore(_docstore(tmp_path / "a.parquet", passages), block=999)
    again = from_docstore(_docstore(tmp_path / "b.parquet", passages[::-1]), block=999)
    chosen = _texts(first, "text")
    assert len(set(chosen)) == index_sources.QUERIES
    assert chosen == _texts(again, "text")
    assert first.queries["text"].groups == [f"g{title.split()[1]}" for title in chosen]
    drawn = sorted(int(title.split()[1]) for title in chosen)
    assert drawn[0] < 50 and drawn[-1] > 1150  # from everywhere


def _described(source: Source) -> dict[str, tuple[str, str, str]]:
    rows = source.documents.to_pylist()
    return {row["id"]: (row["food_id"], row["title"], row["passage_text"]) for row in rows}


def test_each_picture_of_the_pairs_is_a_document(tmp_path: Path) -> None:
    """a is in three rows, the first of its matches describes it; b is in mismatches only."""
    pairs = [
        _pair(0, image_sha256="a", label=0, text="no", image_group="mug", text_group="hat"),
        _pair(2, image_sha256="a", text="second", image_group="mug", text_group="mug"),
        _pair(
            1,
            image_sha256="a",
            text="first",
            image_group="mug",
            text_group="mug",
            metadata='{"title": "Mug"}',
        ),
        _pair(3, image_sha256="b", label=0, text="no", image_group=None, text_group="hat"),
        _pair(4, image_sha256="c", label=0, text="no", image_group="hat", text_group="mug"),
    ]
    source = from_pairs(_dataset(tmp_path / "d", pairs, []), embed="images", block=9)
    assert source.documents.schema.equals(schema.DOCSTORE)
    assert _described(source) == {
        "a": ("mug", "Mug", "first"), "b": ("b", "", ""), "c": ("hat", "", ""),
    }  # fmt: skip
    assert (
        source.documents["image_path"].to_pylist()[source.documents["id"].to_pylist().index("a")]
        == "/photos/r1.jpg"
    )
    assert source.embedded == "pictures"


@pytest.mark.parametrize("block", [1, 2, 100])
def test_the_vectors_are_those_of_the_documents(tmp_path: Path, encoder: Encoder, block: int) -> None:
    pairs = [_pair(n % 8 + 8 * (n // 8), image_sha256=f"s{n % 8}") for n in range(13)]
    source = from_pairs(_dataset(tmp_path / "d", pairs, []), embed="images", block=block)
    assert max(map(len, source.things)) <= block
    vectors = np.concatenate([things.embed(encoder) for things in source.things])
    expected = encoder.images(
        [images.decode(JPEGS[int(id_[1:])]) for id_ in source.documents["id"].to_pylist()]
    )
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_pictures_are_read_from_any_rows_of_a_file(tmp_path: Path, encoder: Encoder) -> None:
    """Row groups of 100, batches of 64."""
    colours = [tuple(map(int, c)) for c in np.random.default_rng(0).integers(0, 256, (250, 3))]
    jpegs = [images.encode_jpeg(Image.new("RGB", (8, 8), colour)) for colour in colours]
    pq.write_table(
        pa.table({"image": pa.array(jpegs, pa.binary())}), tmp_path / "p.parquet", row_group_size=100
    )
    rows = [0, 63, 64, 99, 100, 163, 199, 249]
    assert list(Pictures(str(tmp_path / "p.parquet"), rows)._jpegs()) == [jpegs[row] for row in rows]
    assert len(list(Pictures(str(tmp_path / "p.parquet"), list(range(250)))._jpegs())) == 250
    vectors = Pictures(str(tmp_path / "p.parquet"), rows).embed(encoder)
    np.testing.assert_allclose(
        vectors, encoder.images([images.decode(jpegs[row]) for row in rows]), atol=1e-5
    )


def test_pictures_are_asked_for_by_texts_of_matches(tmp_path: Path) -> None:
    pairs = [
        _pair(0, text="a mug", text_key="k1", text_group="mug", image_group="mug"),
        _pair(1, text="A mug", text_key="k1", text_group="mug", image_group="mug"),
        _pair(2, text="a hat", text_key="k2", text_group="hat", image_group="hat"),
        _pair(3, text="no", text_key="k3", label=0, text_group="chair", image_group="hat"),
    ]
    source = from_pairs(_dataset(tmp_path / "d", pairs, []), embed="images", block=9)
    asked = source.queries["text"]
    assert dict(zip(_texts(source, "text"), asked.groups, strict=True)) == {"a mug": "mug", "a hat": "hat"}
    assert (asked.own, asked.about) == ([-1, -1], "2 texts of matching pairs")


def test_pictures_are_asked_for_by_their_middles(tmp_path: Path, encoder: Encoder) -> None:
    pairs = [_pair(n, image_sha256=f"s{n}", image_group=f"g{n // 2}") for n in range(6)]
    source = from_pairs(_dataset(tmp_path / "d", pairs, []), embed="images", block=2)
    asked = source.queries["image"]
    ids = source.documents["id"].to_pylist()
    assert sorted(asked.own) == list(range(6))
    assert asked.groups == [source.documents["food_id"][row].as_py() for row in asked.own]
    vectors = np.concatenate([things.embed(encoder) for things in asked.things])
    pictures = [images.decode(JPEGS[int(ids[row][1:])]) for row in asked.own]
    middles = encoder.images([picture.crop((5, 5, 43, 43)) for picture in pictures])  # 0.8 of 48
    np.testing.assert_allclose(vectors, middles, atol=1e-5)
    assert np.abs(vectors - encoder.images(pictures)).max() > 1e-3  # they are no vectors of the index


def test_passages_of_a_dataset_are_asked_for_by_its_pictures(tmp_path: Path, encoder: Encoder) -> None:
    pairs = [
        _pair(n, image_sha256=f"s{n}", image_group=f"g{n}", text_group=f"g{n}", label=int(n != 2))
        for n in range(4)
    ]
    passages = [_passage(n, image_path="/nowhere.jpg") for n in range(4)]
    source = from_pairs(_dataset(tmp_path / "d", pairs, passages), embed="texts", block=9)
    assert source.documents.to_pylist() == passages
    assert source.things == from_docstore(tmp_path / "d" / "docstore.parquet", block=9).things
    assert sorted(_texts(source, "text")) == [f"title {n}" for n in range(4)]
    asked = source.queries["image"]
    assert (asked.own, asked.about) == ([-1] * 3, "3 pictures of pairs")
    vectors = np.concatenate([things.embed(encoder) for things in asked.things])
    expected = encoder.images([images.decode(JPEGS[int(group[1:])]) for group in asked.groups])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert sorted(asked.groups) == ["g0", "g1", "g3"]


def test_what_cannot_be_indexed_is_refused(tmp_path: Path) -> None:
    empty = _dataset(tmp_path / "empty", [], [])
    (tmp_path / "text.parquet").write_text("no Parquet")
    for code, attempt in {
        "not_a_dataset": lambda: from_pairs(tmp_path / "nowhere", embed="images", block=9),
        "nothing_to_index": lambda: from_pairs(empty, embed="images", block=9),
        "not_a_docstore": lambda: from_docstore(tmp_path / "text.parquet", block=9),
    }.items():
        with pytest.raises(InputError) as refusal:
            attempt()
        assert refusal.value.code == code
        assert str(tmp_path) in refusal.value.message
    for attempt in (
        lambda: from_docstore(empty / "docstore.parquet", block=9),
        lambda: from_pairs(empty, embed="texts", block=9),
    ):
        with pytest.raises(InputError, match="holds no passages") as refusal:
            attempt()
        assert refusal.value.code == "nothing_to_index"
