"""One record -> one row of the contract, or a reject which names the reason."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from data_jobs import rows, schema
from data_jobs.drawing import Product, draw
from data_jobs.errors import InputError
from data_jobs.items import Passage, Record, Reject

MUG = Product("mug", "red", "striped", "wooden table", 7)


def _record(path: Path, text: str = "ماگ قرمز", label: int = 1) -> Record:
    return Record("pairs.csv", 2, str(path), text, label, "g1", "g1", {"قیمت": "۱۲"})


def _png(path: Path, width: int = 60, height: int = 40) -> Path:
    draw(MUG, 64).crop((0, 0, width, height)).save(path, "PNG")
    return path


def test_a_pair_becomes_a_row_of_the_contract(tmp_path: Path) -> None:
    path = _png(tmp_path / "mug.jpg")  # a PNG by content
    row = rows.pair_row(_record(path), image_size=20)
    stored = Image.open(io.BytesIO(row["image"]))
    assert (stored.format, stored.size) == ("JPEG", (30, 20))
    assert (row["width"], row["height"]) == (60, 40)
    assert row["image_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(row["metadata"]) == {"قیمت": "۱۲"}
    assert (row["text"], row["label"], row["source"], row["line"]) == ("ماگ قرمز", 1, "pairs.csv", 2)
    pa.Table.from_pylist([row], schema.PAIRS).validate(full=True)


def test_the_pair_id_is_the_pairs_place_in_the_source(tmp_path: Path) -> None:
    record = _record(_png(tmp_path / "a.png"))
    other_photo = replace(record, image_path=str(_png(tmp_path / "b.png")))

    def pair_id(of: Record) -> str:
        identity: str = rows.pair_row(of, image_size=20)["pair_id"]
        return identity

    assert pair_id(record) == pair_id(replace(record, text="other", label=0))
    others = [other_photo, replace(record, line=3), replace(record, source="other.csv")]
    assert len({pair_id(of) for of in [record, *others]}) == 4


@pytest.mark.parametrize("name", ["missing.jpg", "folder", "nul\0.jpg", "x" * 300])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError) as refusal:
        rows.pair_row(_record(tmp_path / name), image_size=20)
    assert refusal.value.code == "missing_image"
    assert name in refusal.value.message and "--image-base-path" in refusal.value.suggestion


def test_checking_keeps_the_order_and_names_each_reject(tmp_path: Path) -> None:
    good = [_png(tmp_path / f"{i}.png") for i in range(3)]
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(good[0].read_bytes()[:500])
    Image.new("RGB", (70_000, 1)).save(tmp_path / "long.png")
    bad = [tmp_path / name for name in ("empty.jpg", "cut.png", "long.png", "gone.jpg")]
    paths = [good[0], bad[0], bad[1], good[1], bad[2], bad[3], good[2]]
    table, rejects = rows.check([_record(path) for path in paths], image_size=20, threads=4)
    assert table.schema == schema.PAIRS
    assert table["image_path"].to_pylist() == [str(path) for path in good]
    assert [(reject.image_path, reject.code) for reject in rejects] == [
        (str(bad[0]), "empty_file"),
        (str(bad[1]), "truncated_image"),
        (str(bad[2]), "too_elongated"),
        (str(bad[3]), "missing_image"),
    ]


def test_the_limit_on_pixels_is_passed_on(tmp_path: Path) -> None:
    record = _record(_png(tmp_path / "a.png"))
    table, rejects = rows.check([record], image_size=20, max_pixels=60 * 40 - 1)
    assert table.num_rows == 0
    assert [reject.code for reject in rejects] == ["too_many_pixels"]


def test_passages_and_rejects_fit_the_contract() -> None:
    passage = Passage("f.json", 1, "id", "g", "کباب", "متن", None, {"a": "b"})
    reject = Reject("f.json", 2, None, "empty_text", "message", "suggestion")
    docstore = pa.Table.from_pylist([rows.passage_row(passage)], schema.DOCSTORE)
    rejects = pa.Table.from_pylist([rows.reject_row(reject)], schema.REJECTS)
    docstore.validate(full=True)
    rejects.validate(full=True)
    assert docstore.to_pylist() == [
        {"id": "id", "food_id": "g", "title": "کباب", "passage_text": "متن", "image_path": None,
         "metadata": '{"a": "b"}'}
    ]  # fmt: skip
    assert rejects["line"].to_pylist() == [2]
