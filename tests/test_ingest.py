"""Ingest on a real Ray: broken rows among good ones, counts that reconcile, nothing half-written."""

import csv
import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPO_ROOT

from data_jobs import dataset
from data_jobs.drawing import describe, draw, random_products
from data_jobs.errors import InputError
from data_jobs.ingest import Ingest, run

DATA = REPO_ROOT.parent / "shared" / "data"
PERSIAN_FOOD, PERSIAN_GROCERY, GROCERY = DATA / "persian_food", DATA / "persian_grocery", DATA / "grocery"

pytestmark = pytest.mark.usefixtures("ray_cluster")


def _write_csv(folder: Path) -> Path:
    """40 good rows with five broken ones among them; pictures beside it."""
    rows = ["image_path,text,label"]
    for i, product in enumerate(random_products(40, seed=2)):
        draw(product, 40).save(folder / f"{i}.jpg")
        rows.append(f'{i}.jpg,"{describe(product, "fa", i)}",{"match" if i % 4 else "mismatch"}')
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:300])
    (folder / "page.jpg").write_text("<html>404</html>")
    rows[5:5] = ["cut.jpg,mug,1", "1.jpg,,1"]  # lines 6 and 7
    rows[30:30] = ["page.jpg,mug,1", "gone.jpg,mug,1", "2.jpg,mug,perhaps"]  # lines 31 to 33
    (folder / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "pairs.csv"


def test_broken_rows_are_rejected_by_line_and_the_others_written(tmp_path: Path) -> None:
    config = Ingest(
        output_dir=tmp_path / "out", csv=str(_write_csv(tmp_path)), image_size=32, rows_per_part=16
    )
    report = run(config)
    assert report["pairs"] == {"read": 45, "written": 40, "rejected": 5}
    assert report["labels"] == {"match": 30, "mismatch": 10}
    pairs = dataset.read_pairs(tmp_path / "out")
    assert pairs.num_rows == 40
    assert sorted(pairs["line"].to_pylist()) == sorted({*range(2, 47)} - {6, 7, 31, 32, 33})
    rejects = pq.read_table(tmp_path / "out" / "rejects").sort_by("line").to_pylist()
    assert [(reject["line"], reject["code"]) for reject in rejects] == [
        (6, "truncated_image"),
        (7, "empty_text"),
        (31, "not_an_image"),
        (32, "missing_image"),
        (33, "bad_label"),
    ]
    assert {reject["source"] for reject in rejects} == {str(tmp_path / "pairs.csv")}
    assert len(list((tmp_path / "out" / "pairs").iterdir())) > 1  # several tasks wrote

    alone = dataset.from_csv(tmp_path / "pairs.csv", tmp_path / "alone", image_size=32)
    assert {name: alone[name] for name in alone if name != "inputs"} == {
        name: report[name] for name in report if name != "inputs"
    }
    assert dataset.read_pairs(tmp_path / "alone").equals(pairs)


def test_persian_json_in_all_shapes(tmp_path: Path) -> None:
    source = tmp_path / "recipes"
    (source / "dishes" / "کباب").mkdir(parents=True)
    for i, (name, product) in enumerate(zip(("کباب", "پیاز"), random_products(2, seed=3), strict=True)):
        draw(product, 40).save(source / "dishes" / "کباب" / f"{name}.jpg")
        draw(product, 40).save(source / f"{i}.png")
    kebab = {"title": "کباب", "response": "گوشت را چرخ کنید.", "folder_path": "dishes/کباب"}
    stew = {"title": "خورش", "response": "سبزی را سرخ کنید."}
    soup = {"title": "آش", "response": "آب را جوش بیاورید.", "image_path": "1.png"}
    lost = {"title": "سوپ", "response": "آب را گرم کنید.", "image_path": "gone.png"}
    (source / "list.json").write_text(json.dumps([kebab, stew]))
    (source / "one.json").write_text(json.dumps(soup, ensure_ascii=False))
    again = stew | {"response": "سبزي را سرخ كنيد."}  # the same passage in Arabic letters
    lines = [json.dumps(again), "{broken", json.dumps(lost)]
    (source / "lines.json").write_text("\n".join(lines))

    report = run(Ingest(output_dir=tmp_path / "out", persian_json=str(source)))
    assert report["pairs"] == {"read": 4, "written": 2, "rejected": 2}
    assert report["passages"] == {"read": 5, "unique": 4}
    assert report["codes"] == {"no_photos": 2, "unreadable_json": 1, "missing_image": 1}
    pairs = dataset.read_pairs(tmp_path / "out").to_pylist()
    assert {(Path(pair["image_path"]).name, pair["text"]) for pair in pairs} == {
        ("کباب.jpg", kebab["response"]),
        ("1.png", soup["response"]),
    }
    docstore = pq.read_table(tmp_path / "out" / "docstore.parquet").to_pylist()
    assert {passage["title"] for passage in docstore} == {"کباب", "خورش", "آش", "سوپ"}
    assert {pair["text_group"] for pair in pairs} < {passage["food_id"] for passage in docstore}


@pytest.mark.skipif(not PERSIAN_FOOD.is_dir(), reason=f"the recipe corpus {PERSIAN_FOOD} is not here")
def test_the_published_recipes_give_1389_passages(tmp_path: Path) -> None:
    report = run(Ingest(output_dir=tmp_path / "out", persian_json=str(PERSIAN_FOOD)))
    assert report["passages"]["unique"] == 1389
    assert pq.read_table(tmp_path / "out" / "docstore.parquet").num_rows == 1389
    assert report["pairs"] == {"read": 2, "written": 2, "rejected": 0}
    assert dataset.read_pairs(tmp_path / "out").num_rows == 2


@pytest.mark.skipif(
    not PERSIAN_GROCERY.is_dir(), reason=f"the Persian catalogue {PERSIAN_GROCERY} is not here"
)
def test_the_persian_catalogue_gives_every_photo_once_and_one_text_a_class(tmp_path: Path) -> None:
    run(Ingest(output_dir=tmp_path / "out", persian_json=str(PERSIAN_GROCERY), image_size=64))
    pairs = dataset.read_pairs(tmp_path / "out", ["image_path", "text_key"]).to_pylist()
    photos = [str(Path(pair["image_path"]).resolve()) for pair in pairs]
    with (GROCERY / "train_matches.csv").open() as stream:
        listed = [str((GROCERY / row["image_path"]).resolve()) for row in csv.DictReader(stream)]
    assert sorted(photos) == sorted(listed)
    by_class = {
        (Path(photo).parent.name, pair["text_key"]) for photo, pair in zip(photos, pairs, strict=True)
    }
    assert len(by_class) == len({name for name, _ in by_class}) == 81


@pytest.mark.skipif(not GROCERY.is_dir(), reason=f"the photos {GROCERY} are not here")
def test_the_grocery_photos_have_no_rejects(tmp_path: Path) -> None:
    for name, rows in {"train_matches": 2640, "val_pairs": 762}.items():
        report = run(Ingest(output_dir=tmp_path / name, csv=str(GROCERY / f"{name}.csv"), image_size=64))
        assert report["pairs"] == {"read": rows, "written": rows, "rejected": 0}


def test_sources_in_an_archive_and_in_every_format_give_the_same_rows(tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    _write_csv(folder)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"deep/{path.name}")
    run(Ingest(output_dir=tmp_path / "plain", csv=str(folder / "pairs.csv"), image_size=32))
    run(Ingest(output_dir=tmp_path / "zip", csv=f"zip://deep/pairs.csv::{tmp_path}/all.zip", image_size=32))
    run(Ingest(output_dir=tmp_path / "again", parquet=str(tmp_path / "plain"), image_size=32))
    rows = [row.split(",") for row in (folder / "pairs.csv").read_text().splitlines()[1:]]
    metadata = [
        {"file_name": image, "caption": text.strip('"'), "label": label} for image, text, label in rows
    ]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in metadata))
    run(Ingest(output_dir=tmp_path / "folder", image_folder=str(folder), image_size=32))
    columns = ["text", "label", "image_sha256", "text_group"]
    expected = _rows(tmp_path / "plain", columns)
    assert len(expected) == 40
    assert _rows(tmp_path / "zip", columns) == _rows(tmp_path / "folder", columns) == expected
    again = _rows(tmp_path / "again", ["text", "label", "line", "text_group", "metadata"])
    assert again == _rows(tmp_path / "plain", ["text", "label", "line", "text_group", "metadata"])
    for name in ("plain", "zip", "folder"):
        assert dataset.read_report(tmp_path / name)["pairs"] == {"read": 45, "written": 40, "rejected": 5}


def _rows(folder: Path, columns: list[str]) -> list[tuple[object, ...]]:
    table = dataset.read_pairs(folder, columns).to_pylist()
    return sorted(tuple(row[name] for name in columns) for row in table)


def test_a_failed_ingest_leaves_the_old_dataset(tmp_path: Path) -> None:
    good, bad = _write_csv(tmp_path), tmp_path / "bad.csv"
    bad.write_text("image_path,text,label\ngone.jpg,mug,0\n")
    report = run(Ingest(output_dir=tmp_path / "out", csv=str(good), image_size=32))
    with pytest.raises(InputError, match="None of the 1 rows"):
        run(Ingest(output_dir=tmp_path / "out", csv=str(bad), overwrite=True))
    assert dataset.read_report(tmp_path / "out") == report
    assert not list(tmp_path.glob(".out*"))


def test_what_cannot_be_ingested_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text("path,caption\n")
    cases = {
        "bad_arguments": Ingest(output_dir=tmp_path / "out"),
        "wrong_columns": Ingest(output_dir=tmp_path / "out", csv=str(tmp_path / "wrong.csv")),
        "missing_source": Ingest(output_dir=tmp_path / "out", persian_json=str(tmp_path)),
    }
    for code, config in cases.items():
        with pytest.raises(InputError) as refusal:
            run(config)
        assert refusal.value.code == code
    assert not (tmp_path / "out").exists()
