"""Splits of whole datasets: no component crosses, shares come out by label, and giants are named."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import save_photos

from data_jobs import dataset, duplicates, partition
from data_jobs.drawing import random_products
from data_jobs.errors import InputError
from data_jobs.partition import Plan

PRODUCTS = random_products(30, seed=11)
HALVES = {"train": 0.5, "val": 0.5}
ALL = tuple(duplicates.LINKS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photos(PRODUCTS, tmp_path_factory.mktemp("photos"))


def _dataset(folder: Path, photos: Path, rows: list[tuple[int, str, int, str]]) -> Path:
    """A dataset of (photo, text, label, group_id) rows."""
    lines = ["image_path,text,label,group_id,shelf"]
    lines += [
        f"{photos / f'{photo}.png'},{text},{label},{group},s{photo}" for photo, text, label, group in rows
    ]
    (folder / "pairs.csv").write_text("\n".join(lines))
    dataset.from_csv(folder / "pairs.csv", folder / "dataset", image_size=32)
    return folder / "dataset"


def _assigned(folder: Path, scratch: Path, plan: Plan) -> tuple[dict[int, str], dict[str, object]]:
    """Line -> split, and the report."""
    scratch.mkdir(exist_ok=True)
    with duplicates.opened({"all": folder}) as database:
        report = partition.assign(database, plan, scratch)
        rows = database.execute(
            "SELECT line, assigned.split FROM pairs JOIN assigned USING (pair_id)"
        ).fetchall()
    return dict(rows), report


def test_no_link_crosses_a_split(tmp_path: Path, photos: Path) -> None:
    rows = []
    for i in range(30):
        rows.append((i, f"text {i // 2}", 1, ""))  # two photos a text
        rows.append((i, f"other words {i}", 1, f"g{i // 3}"))  # three photos a product
    folder = _dataset(tmp_path, photos, rows)
    split_of, report = _assigned(folder, tmp_path / "s", Plan(HALVES, ALL, True, 0))
    by: dict[tuple[str, object], set[str]] = defaultdict(set)
    for row in dataset.read_pairs(folder).to_pylist():
        for column in ("image_sha256", "text_key", "image_group"):
            by[column, row[column]].add(split_of[row["line"]])
    assert all(len(splits) == 1 for splits in by.values())
    assert report["components"] == 5  # 2 and 3 meet every 6 photos
    assert [giant["rows"] for giant in report["largest"]] == [12] * 5  # type: ignore[index, attr-defined]


def test_each_link_alone(tmp_path: Path, photos: Path) -> None:
    (photos / "again.png").write_bytes((photos / "0.png").read_bytes())
    rows = [(0, "a", 1, "p"), (1, "a", 1, "q"), (2, "b", 1, "q"), (0, "c", 1, "r"), (3, "d", 1, "s")]
    folder = _dataset(tmp_path, photos, rows)
    expected = {"product": [{3, 4}], "image": [{2, 5}], "text": [{2, 3}], "near-image": [{2, 5}]}
    for link, together in expected.items():
        with duplicates.opened({"all": folder}) as database:
            duplicates.components(database, (link,))
            rows_of = database.execute(
                "SELECT list(line) FROM pairs JOIN components USING (pair_id) GROUP BY component HAVING count(*) > 1"
            ).fetchall()
        assert [set(lines) for (lines,) in rows_of] == together, link


def test_shares_come_out_for_both_labels(tmp_path: Path, photos: Path) -> None:
    rows = [(i, f"match {i}", 1, "") for i in range(20)] + [
        (i, f"mismatch {i}", 0, "") for i in range(20, 30)
    ]
    folder = _dataset(tmp_path, photos, rows)
    shares = {"train": 0.6, "val": 0.2, "calibration": 0.2}
    _, report = _assigned(folder, tmp_path / "s", Plan(shares, ("image", "text"), True, 3))
    got = {name: (s["match"], s["mismatch"]) for name, s in report["splits"].items()}  # type: ignore[attr-defined]
    assert got == {"train": (12, 6), "val": (4, 2), "calibration": (4, 2)}


def test_the_seed_decides_and_nothing_else(tmp_path: Path, photos: Path) -> None:
    folder = _dataset(tmp_path, photos, [(i, f"text {i}", 1, "") for i in range(30)])
    splits = [
        _assigned(folder, tmp_path / "s", Plan(HALVES, ("image",), True, seed))[0] for seed in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]

    moved = tmp_path / "moved"
    moved.mkdir()
    other = save_photos(PRODUCTS, moved)  # the same catalogue in another place, its rows in another order
    rows = [(i, f"text {i}", 1, "") for i in reversed(range(30))]
    again, _ = _assigned(_dataset(moved, other, rows), tmp_path / "s", Plan(HALVES, ("image",), True, 0))
    assert {33 - line: split for line, split in again.items()} == splits[0]


def test_without_shuffle_the_first_rows_are_train(tmp_path: Path, photos: Path) -> None:
    rows = [(i, f"text {i}", int(i < 20), "") for i in range(30)]
    folder = _dataset(tmp_path, photos, rows)
    split_of, _ = _assigned(folder, tmp_path / "s", Plan({"train": 0.8, "val": 0.2}, ("image",), False, 0))
    val = sorted(line for line, split in split_of.items() if split == "val")
    assert val == [18, 19, 20, 21, 30, 31]  # the last fifth of the matches, and of the mismatches


def test_a_giant_is_named_and_an_empty_split_refused(tmp_path: Path, photos: Path) -> None:
    rows = [(i, "the same words", 1, "") for i in range(30)]
    folder = _dataset(tmp_path, photos, rows)
    with pytest.raises(InputError, match=r"30 of 30 rows \(100%\) are one component") as refusal:
        _assigned(folder, tmp_path / "s", Plan(HALVES, ALL, True, 0))
    assert refusal.value.code == "empty_split" and "'the same words'" in refusal.value.message
    assert "make_mismatches" in refusal.value.suggestion

    rows = [(i, "the same words" if i < 20 else f"text {i}", 1, "") for i in range(30)]
    (tmp_path / "b").mkdir()
    folder = _dataset(tmp_path / "b", photos, rows)
    _, report = _assigned(folder, tmp_path / "s", Plan(HALVES, ("text",), True, 0))
    (warning,) = report["warnings"]  # type: ignore[misc]
    assert "20 of 30 rows (67%)" in warning
    got = {name: s["rows"] for name, s in report["splits"].items()}  # type: ignore[attr-defined]
    assert got == {"train": 20, "val": 10}


def test_datasets_and_csvs_hold_the_same_rows(tmp_path: Path, photos: Path) -> None:
    rows = [(i, f'a "quoted", text {i}', 1, f"g{i}") for i in range(20)]
    (tmp_path / "pairs.csv").write_text(
        "image_path,text,label,group_id,shelf\n"
        + "".join(f'{p}.png,"a ""quoted"", text {p}",{label},{group},s{p}\n' for p, _, label, group in rows)
    )
    dataset.from_csv(tmp_path / "pairs.csv", tmp_path / "dataset", image_base_path=photos, image_size=32)
    targets = {"train": tmp_path / "out" / "train", "val": tmp_path / "out" / "val"}
    with duplicates.opened({"all": tmp_path / "dataset"}) as database:
        (tmp_path / "s").mkdir()
        partition.assign(database, Plan(HALVES, ("image",), True, 0), tmp_path / "s")
        partition.write_datasets(database, tmp_path / "dataset", targets)
        csvs = {name: tmp_path / "out" / f"{name}.csv" for name in targets}
        partition.write_csvs(database, csvs, str(photos))
    fingerprints = 0
    whole = dataset.read_pairs(tmp_path / "dataset").to_pylist()
    for name, target in targets.items():
        report = dataset.finish_selection(target, tmp_path / "dataset")
        pairs = dataset.read_pairs(target).to_pylist()
        assert report["pairs"] == {"read": 10, "written": 10, "rejected": 0}
        assert all(pair in whole for pair in pairs)  # pictures, groups and all
        fingerprints += int(report["fingerprint"], 16)
        docstore = pq.read_table(target / "docstore.parquet")["id"].to_pylist()
        assert sorted(docstore) == sorted(pair["text_key"] for pair in pairs)
        with csvs[name].open(newline="") as stream:
            listed = list(csv.DictReader(stream))
        assert list(listed[0]) == ["image_path", "text", "label", "group_id", "shelf"]
        by_line = sorted(pairs, key=lambda pair: pair["line"])
        assert [row["text"] for row in listed] == [pair["text"] for pair in by_line]
        assert [row["image_path"] for row in listed] == [Path(p["image_path"]).name for p in by_line]
        assert [row["shelf"] for row in listed] == [json.loads(p["metadata"])["shelf"] for p in by_line]
        again = dataset.from_csv(
            csvs[name], tmp_path / f"again-{name}", image_base_path=photos, image_size=32
        )
        assert again["fingerprint"] == report["fingerprint"]
    assert f"{fingerprints % 2**128:032x}" == dataset.read_report(tmp_path / "dataset")["fingerprint"]
