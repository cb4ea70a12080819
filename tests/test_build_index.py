"""The job build_index: indexes of passages and of pictures that answer as the Encoder does, and say how well."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import save_photos

from data_jobs import dataset, images, ingest
from data_jobs.drawing import describe, random_products
from data_jobs.errors import InputError
from data_jobs.ingest import Ingest
from train_jobs import build_index, scratch
from train_jobs.build_index import BuildIndex
from train_jobs.encoder import Encoder
from train_jobs.index import Index

PRODUCTS = random_products(60, seed=4)
TEXTS = [describe(product) for product in PRODUCTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: its vectors mean nothing but are its own."""
    folder = tmp_path_factory.mktemp("model") / "model"
    scratch.build("scratch:tiny-clip", TEXTS).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 60 photos, two of a product."""
    folder = tmp_path_factory.mktemp("photos")
    save_photos(PRODUCTS, folder)
    rows = [f'{n}.png,"{text}",1,product {n // 2}' for n, text in enumerate(TEXTS)]
    (folder / "pairs.csv").write_text("\n".join(["image_path,text,label,group_id", *rows]), encoding="utf-8")
    ingest.run(Ingest(csv=str(folder / "pairs.csv"), output_dir=folder / "data", image_size=48))
    return folder / "data"


def _build(model: Path, output: Path, **values: Any) -> Index:
    manifest = build_index.run(BuildIndex(output_dir=output, model=str(model), device="cpu", **values))
    opened = Index.open(output)
    assert opened.manifest == manifest
    return opened


def test_a_docstore_becomes_an_index_of_passages(model: Path, data: Path, tmp_path: Path) -> None:
    opened = _build(model, tmp_path / "i", docstore=data / "docstore.parquet", rows_per_task=31)
    encoder = Encoder.load(model, "cpu")
    assert opened.manifest.model_hash == encoder.spec.model_hash
    assert (opened.manifest.kind, opened.manifest.embedded) == ("flat", "title. passage_text")
    documents = opened.documents()
    assert {document["passage_text"] for document in documents} == set(TEXTS)
    for document in documents[::10]:
        best = opened.search(encoder.texts([document["passage_text"]])[0], 1)[0]
        assert best.document == document
        assert best.score == pytest.approx(1, abs=1e-5)
    text, image = opened.manifest.measured["text"], opened.manifest.measured["image"]
    assert (text.queries, text.recall_at_10, text.settings) == (len(documents), 1.0, None)
    assert "first halves" in text.about
    assert image.queries == image.answerable == len(documents)  # the photos are files on this machine
    assert image.finds_at is not None and 0 <= image.finds_at["1"] <= image.finds_at["10"] <= 1


def test_pairs_become_an_index_of_pictures(model: Path, data: Path, tmp_path: Path) -> None:
    opened = _build(model, tmp_path / "i", data=data, rows_per_task=31)
    encoder = Encoder.load(model, "cpu")
    pairs = dataset.read_pairs(data, ["image", "image_sha256", "text"]).to_pylist()
    assert len(opened) == len({pair["image_sha256"] for pair in pairs})
    for pair in pairs[::10]:
        best = opened.search(encoder.images([images.decode(pair["image"])])[0], 1, modality="image")[0]
        assert best.score == pytest.approx(1, abs=1e-5)
        assert best.document["id"] == pair["image_sha256"]
        assert best.document["image_path"].endswith(".png")
    measured = opened.manifest.measured
    assert (measured["text"].about, measured["text"].recall_at_10) == (
        f"{len(set(TEXTS))} texts of matching pairs", 1.0,
    )  # fmt: skip
    assert measured["image"].answerable > 50  # another photo of the product
    assert measured["image"].finds_at is not None


def test_a_graph_is_tuned_for_both_modalities(model: Path, data: Path, tmp_path: Path) -> None:
    opened = _build(model, tmp_path / "i", data=data, embed="texts", kind="hnsw")
    assert opened.manifest.factory == "HNSW32"
    for found in opened.manifest.measured.values():
        assert found.settings is not None and found.settings["efSearch"] >= 16
        assert found.recall_at_10 is not None and found.recall_at_10 >= 0.95
    assert opened.manifest.measured["image"].about.endswith("pictures of pairs")


def test_photos_that_are_gone_leave_pictures_unmeasured(model: Path, data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data / "docstore.parquet")
    gone = [f"{path}.gone" for path in table["image_path"].to_pylist()]
    place = table.schema.get_field_index("image_path")
    pq.write_table(table.set_column(place, table.schema.field(place), [gone]), tmp_path / "d.parquet")
    image = _build(model, tmp_path / "i", docstore=tmp_path / "d.parquet").manifest.measured["image"]
    assert (image.queries, image.settings, image.recall_at_10, image.finds_at) == (0, None, None, None)
    assert image.about == f"{len(gone)} photos that the passages name, {len(gone)} of which cannot be read"


def test_a_second_model_in_the_same_folder_is_not_taken_for_the_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's processes keep the model between tasks."""
    hashes = []
    for words in (TEXTS[:20], TEXTS[20:]):
        encoder = scratch.build("scratch:tiny-clip", words)
        encoder.save(tmp_path / "model", overwrite=True)
        opened = _build(tmp_path / "model", tmp_path / "i", docstore=data / "docstore.parquet")
        hashes.append(opened.manifest.model_hash)
        document = opened.documents()[3]
        best = opened.search(encoder.texts([document["passage_text"]])[0], 1)[0]
        assert best.score == pytest.approx(1, abs=1e-5)
    assert hashes[0] != hashes[1]
    assert "v002: " in capsys.readouterr().out


def test_it_says_what_it_built_and_how_well_it_is_found(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = _build(model, tmp_path / "i", data=data)
    printed = capsys.readouterr().out
    assert f"v001: {len(opened)} x pictures, model {opened.manifest.model_hash}" in printed
    assert "flat (Flat): an exact scan of" in printed
    assert "text queries (" in printed and "of the 10 nearest found: 1.000" in printed
    assert "image queries (the middle of" in printed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either --docstore or --data"),
        ({"docstore": Path("a"), "data": Path("b")}, "either --docstore or --data"),
        ({"docstore": Path("a"), "rows_per_task": 0}, "--rows-per-task is 0"),
        ({"docstore": Path("a"), "target_recall": 0.0}, "--target-recall is 0.0"),
        ({"docstore": Path("a"), "target_recall": 95.0}, "--target-recall is 95.0"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        build_index.run(BuildIndex(output_dir=tmp_path / "i", **values))
    assert refusal.value.code == "bad_arguments"
    assert not (tmp_path / "i").exists()
