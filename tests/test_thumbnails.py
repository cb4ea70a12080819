"""Thumbnails: of what is whole, of what is left of the rest, and of nothing that could hurt."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from handmade import dataset, jpeg, pair, reject
from PIL import Image, ImageFile

from data_jobs import thumbnails
from data_jobs.survey import survey
from data_jobs.thumbnails import collect, data_uri, stored


def _opened(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")


def _file(form: str, size: tuple[int, int] = (400, 200)) -> bytes:
    """Noise, which does not compress, so that half of the bytes are half of the picture."""
    pixels = np.random.default_rng(1).integers(60, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def test_a_thumbnail_fits_its_side() -> None:
    assert _opened(data_uri(_file("PNG"))).size == (96, 48)
    assert _opened(data_uri(jpeg("red", 16))).size == (16, 16)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_of_a_truncated_picture_the_part_that_is_there_is_shown(form: str) -> None:
    whole = _file(form)
    picture = _opened(data_uri(whole[: len(whole) // 2]))
    assert picture.size == (96, 48)
    pixels = np.asarray(picture)
    assert pixels[:18].mean() > 100
    assert pixels[30:].mean() < 20
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"\xff\xd8\xff", _file("JPEG")[:200], _file("PNG")[:60], _file("WEBP")[:3000]]
)
def test_nothing_to_show(data: bytes) -> None:
    assert data_uri(data) is None


def test_a_format_that_ingest_refuses_can_be_shown() -> None:
    assert _opened(data_uri(_file("BMP"))).size == (96, 48)


@pytest.mark.parametrize(("form", "width"), [("PNG", 10_000), ("BMP", 10_000), ("PNG", 40_000)])
def test_a_decompression_bomb_is_not_decoded(form: str, width: int) -> None:
    out = io.BytesIO()
    picture = Image.new("1", (width, 5_001))
    picture.putpixel((0, 0), 1)
    picture.save(out, form)
    assert data_uri(out.getvalue()) is None


def test_stored_pictures_come_from_their_own_row(tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "white", "black", "orange", "pink", "gray", "cyan", "navy", "gold"]
    rows = [pair(f"p{i:02}", image=jpeg(colour)) for i, colour in enumerate(colours)]
    folder = dataset(tmp_path / "it's [new]", rows, parts=2)  # row groups of three
    found = dict(stored(folder, {"p00", "p07", "p10", "unknown"}))
    assert found == {"p00": jpeg("red"), "p07": jpeg("gray"), "p10": jpeg("gold")}
    assert list(stored(folder, set())) == []


def test_pictures_of_all_examples_and_rejects_are_collected(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(_file("JPEG")[:9000])
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    source = str(tmp_path / "pairs.csv")
    rejects = [
        reject(1, "truncated_image", source=source, image_path=str(tmp_path / "cut.jpg")),
        reject(2, "bad_label", source=source, image_path="cut.jpg"),  # relative: beside its source
        reject(3, "not_an_image", source=source, image_path=str(tmp_path / "text.jpg")),
        reject(4, "missing_image", source=source, image_path="gone.jpg"),
        reject(5, "missing_image", source=source, image_path="\0"),
        reject(6, "missing_image", source=source, image_path="unknown://place"),
        reject(7, "not_an_image", source=source, image_path=str(tmp_path / "pipe.jpg")),  # would block
        reject(8, "not_an_image", source=source, image_path="/dev/zero"),  # would never end
    ]
    train = dataset(tmp_path / "train", [pair("p0", image=jpeg("red")), pair("p1")], rejects)
    val = dataset(tmp_path / "val", [pair("p0", image=jpeg("blue"))])
    found = collect(survey({"train": train, "val": val}), {"train": train, "val": val})
    assert set(found.pairs) == {("train", "p0"), ("val", "p0")}
    assert _opened(found.pairs["train", "p0"]).getpixel((8, 8)) == (254, 0, 0)
    assert _opened(found.pairs["val", "p0"]).getpixel((8, 8)) == (0, 0, 254)
    assert set(found.rejects) == {(source, str(tmp_path / "cut.jpg")), (source, "cut.jpg")}


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg("red"))
    rejects = [reject(1, "too_many_pixels", image_path=str(tmp_path / "a.jpg"))]
    folders = {"all": dataset(tmp_path / "data", [], rejects)}
    numbers = survey(folders)
    size = len(jpeg("red"))
    monkeypatch.setattr(thumbnails, "MAX_BYTES", size)
    assert len(collect(numbers, folders).rejects) == 1
    monkeypatch.setattr(thumbnails, "MAX_BYTES", size - 1)
    assert len(collect(numbers, folders).rejects) == 0
