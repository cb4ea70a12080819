"""The job embed: the Encoder's own vectors under keys that make_mismatches asks for."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import save_photos
from PIL import Image

from data_jobs import dataset, make_mismatches
from data_jobs.drawing import describe, random_products
from data_jobs.embeddings import Embeddings
from data_jobs.errors import InputError
from data_jobs.make_mismatches import MakeMismatches
from data_jobs.text import text_key
from train_jobs import embed, scratch
from train_jobs.embed import Embed
from train_jobs.encoder import Encoder

PRODUCTS = random_products(8, seed=4)
TEXTS = [describe(product) for product in PRODUCTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: its vectors mean nothing but are its own."""
    folder = tmp_path_factory.mktemp("model") / "model"
    scratch.build("scratch:tiny-clip", [*TEXTS, "کیک شکلاتی"]).save(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos 0.png to 7.png, and matches.csv with a row for each."""
    save_photos(PRODUCTS, tmp_path)
    write(tmp_path / "matches.csv", [(f"{n}.png", text, 1) for n, text in enumerate(TEXTS)])
    return tmp_path


def write(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image_path", "text", "label"], *rows])
    return path


def test_the_vectors_are_the_encoders(model: Path, folder: Path) -> None:
    counts = embed.run(
        Embed(folder / "e.parquet", str(model), csv=str(folder / "matches.csv"), device="cpu", batch_size=3)
    )
    encoder = Encoder.load(model, "cpu")
    found = Embeddings.read(folder / "e.parquet")
    assert found.model_hash == counts["model_hash"] == encoder.spec.model_hash
    keys = [text_key(text) for text in TEXTS]
    np.testing.assert_allclose(found.texts.of(keys, TEXTS), encoder.texts(TEXTS), atol=1e-5)
    paths = [str(folder / f"{n}.png") for n in range(8)]
    photos = [Image.open(path).convert("RGB") for path in paths]
    np.testing.assert_allclose(found.images.of(paths, paths), encoder.images(photos), atol=1e-5)
    assert (counts["texts"], counts["images"]) == (len(set(keys)), 8)


def test_each_text_and_picture_is_embedded_once(model: Path, folder: Path) -> None:
    write(
        folder / "f.csv",
        [("0.png", "كيك", 1), ("./0.png", "کیک", 0), ("0.png", "cake", 1), ("1.png", "Cake", 1)],
    )
    counts = embed.run(Embed(folder / "e.parquet", str(model), csv=str(folder / "f.csv"), device="cpu"))
    assert (counts["texts"], counts["images"]) == (2, 2)
    found = Embeddings.read(folder / "e.parquet")
    assert len(found.texts.rows) == len(found.images.rows) == 2


def test_of_texts_that_differ_in_case_the_first_is_embedded() -> None:
    assert embed._by_key(["Cake", "hat", "cake"]) == {text_key("cake"): "Cake", text_key("hat"): "hat"}


@pytest.mark.parametrize(("only", "texts", "images"), [("texts", 8, 0), ("images", 0, 8)])
def test_half_of_it_can_be_had(model: Path, folder: Path, only: str, texts: int, images: int) -> None:
    counts = embed.run(
        Embed(folder / "e.parquet", str(model), csv=str(folder / "matches.csv"), only=only, device="cpu")  # type: ignore[arg-type]
    )
    assert (counts["texts"], counts["images"]) == (texts, images)
    found = Embeddings.read(folder / "e.parquet")
    assert (len(found.texts.place), len(found.images.place)) == (texts, images)


def test_bad_pictures_and_rows_are_counted_and_named(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:100])
    rows = [("0.png", "mug", 1), ("bad.png", "hat", 1), ("absent.png", "sofa", 1), ("1.png", "", 1)]
    write(folder / "f.csv", rows)
    counts = embed.run(Embed(folder / "e.parquet", str(model), csv=str(folder / "f.csv"), device="cpu"))
    assert (counts["texts"], counts["images"]) == (3, 1)
    assert counts["unusable"] == {"truncated_image": 1, "missing_image": 1}
    assert counts["rows_left_out"] == {"empty_text": 1}
    out = capsys.readouterr().out
    assert "2 pictures could not be used" in out
    assert f"{folder}/absent.png: " in out and f"{folder}/bad.png: The PNG picture" in out


def test_a_dataset_gives_the_keys_of_its_csv(model: Path, folder: Path) -> None:
    dataset.from_csv(folder / "matches.csv", folder / "data", image_size=64)
    embed.run(Embed(folder / "csv.parquet", str(model), csv=str(folder / "matches.csv"), device="cpu"))
    embed.run(Embed(folder / "data.parquet", str(model), data=folder / "data", device="cpu"))
    one, other = (Embeddings.read(folder / f"{name}.parquet") for name in ("csv", "data"))
    assert set(one.texts.place) == set(other.texts.place)
    assert set(one.images.place) == set(other.images.place)
    keys = list(one.images.place)
    cosines = (one.images.of(keys, keys) * other.images.of(keys, keys)).sum(axis=1)
    assert cosines.min() > 0.99  # the dataset's pictures are JPEG


def test_hard_mismatches_are_the_nearest_to_the_picture(model: Path, folder: Path) -> None:
    embed.run(Embed(folder / "e.parquet", str(model), csv=str(folder / "matches.csv"), device="cpu"))
    make_mismatches.run(
        MakeMismatches(
            csv=str(folder / "matches.csv"),
            output=folder / "pairs.csv",
            embeddings=folder / "e.parquet",
            hard_fraction=1.0,
            nearest=1,
        )
    )
    encoder = Encoder.load(model, "cpu")
    cosines = (
        encoder.images([Image.open(folder / f"{n}.png").convert("RGB") for n in range(8)])
        @ encoder.texts(TEXTS).T
    )
    np.fill_diagonal(cosines, -1)
    with (folder / "pairs.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["mismatch_kind"] == "hard"]
    assert [row["image_path"] for row in rows] == [f"{n}.png" for n in range(8)]
    chosen = [cosines[n, TEXTS.index(row["text"])] for n, row in enumerate(rows)]
    np.testing.assert_allclose(chosen, cosines.max(axis=1), atol=1e-5)


def test_nothing_usable_leaves_no_file(model: Path, folder: Path) -> None:
    shutil.rmtree(folder / "none", ignore_errors=True)
    with pytest.raises(InputError) as refusal:
        embed.run(
            Embed(
                folder / "e.parquet",
                str(model),
                csv=str(folder / "matches.csv"),
                image_base_path=str(folder / "none"),
                only="images",
                device="cpu",
            )
        )
    assert refusal.value.code == "nothing_usable"
    assert not (folder / "e.parquet").exists()


def test_arguments_are_checked_before_the_work(model: Path, folder: Path) -> None:
    source = str(folder / "matches.csv")
    (folder / "e.parquet").write_text("mine")
    for config, code in (
        (Embed(folder / "f.parquet", str(model)), "bad_arguments"),
        (Embed(folder / "f.parquet", str(model), csv=source, data=folder), "bad_arguments"),
        (Embed(folder / "f.parquet", str(model), csv=source, threads=0), "bad_arguments"),
        (Embed(folder / "e.parquet", str(model), csv=source), "output_exists"),
        (Embed(folder, str(model), csv=source, overwrite=True), "output_exists"),
        (Embed(folder / "f.parquet", str(model), csv=str(folder / "absent.csv")), "missing_source"),
        (Embed(folder / "f.parquet", str(model), data=folder), "not_a_dataset"),
    ):
        with pytest.raises(InputError) as refusal:
            embed.run(config)
        assert refusal.value.code == code
    embed.run(Embed(folder / "e.parquet", str(model), csv=source, overwrite=True, only="texts", device="cpu"))
    assert len(Embeddings.read(folder / "e.parquet").texts.place) == 8
