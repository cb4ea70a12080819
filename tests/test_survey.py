"""The numbers of a dataset, counted by hand beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
from handmade import dataset, pair, reject

from data_jobs.survey import survey


def _filled(histogram: list[dict[str, Any]]) -> dict[tuple[int, int | None], int]:
    return {(bar["from"], bar["to"]): bar["count"] for bar in histogram if bar["count"]}


def _of(tmp_path: Path, *rows: dict[str, Any], rejects: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return survey({"all": dataset(tmp_path / "data", list(rows), rejects)})


def test_pictures_and_texts_count_once_and_rows_as_often_as_they_are(tmp_path: Path) -> None:
    numbers = _of(
        tmp_path,
        pair("p0", width=31, height=900, text="123456789"),
        pair("p1", width=32, height=32, text="1234567890"),
        pair("p2", width=5000, height=4096, text="سیب سرخ", label=0),
        pair("p3", width=31, height=900, image_sha256="sha of p0", text="سيب", text_key="key of p2"),
        pair("p4", width=300, height=255, text="x" * 2560),
    )
    assert numbers["labels"] == {"match": 4, "mismatch": 1}
    assert numbers["splits"] == {"all": 5}
    assert numbers["pictures"]["distinct"] == 4
    assert _filled(numbers["pictures"]["short_side"]) == {
        (0, 32): 1, (32, 64): 1, (128, 256): 1, (4096, None): 1
    }  # fmt: skip
    assert numbers["texts"]["distinct"] == 4
    assert _filled(numbers["texts"]["length"]) == {(0, 10): 2, (10, 20): 1, (2560, None): 1}
    assert numbers["texts"]["persian"] == 2


@pytest.mark.parametrize(
    ("text", "persian"),
    [
        ("سیب", 1),
        ("apple سیب", 1),
        ("ﻻ", 1),
        ("apple", 0),
        ("۱۲۳ ١٢٣", 0),
        ("،؟ـ", 0),
        ("תפוח", 0),
        ("яблоко", 0),
    ],
)
def test_letters_of_the_arabic_script(tmp_path: Path, text: str, persian: int) -> None:
    assert _of(tmp_path, pair("p0", text=text))["texts"]["persian"] == persian


def test_repeated_rows_are_those_beyond_the_first(tmp_path: Path) -> None:
    same = {"image_sha256": "s", "text_key": "k", "image_phash": 0}
    numbers = _of(
        tmp_path,
        pair("p0", **same), pair("p1", **same), pair("p2", **same),
        pair("p3", **same | {"text_key": "other"}), pair("p4", **same | {"image_sha256": "other"}), pair("p5"),
    )  # fmt: skip
    assert numbers["duplicates"]["pairs"] == 2
    (group,) = numbers["examples"]["duplicates"]
    assert group["size"] == 3
    assert [row["pair_id"] for row in group["rows"]] == ["p0", "p1", "p2"]
    assert group["rows"][1] == {
        "pair_id": "p1", "split": "all", "image_path": "/photos/p1.jpg", "source": "pairs.csv", "line": 3,
        "label": 1, "text": "text of p1",
    }  # fmt: skip


def test_contradictions_show_both_labels_however_many_rows_there_are(tmp_path: Path) -> None:
    same = {"image_sha256": "s", "text_key": "k", "image_path": "one.jpg"}
    numbers = _of(
        tmp_path,
        *(pair(f"p{i}", **same) for i in range(8)),
        pair("p9", **same, label=0),
        pair("q1", image_sha256="s", image_path="one.jpg", label=0),  # another text: no contradiction
    )
    assert numbers["contradictions"] == 1
    (group,) = numbers["examples"]["contradictions"]
    assert group["size"] == 9
    assert [(row["pair_id"], row["label"]) for row in group["rows"][:2]] == [("p0", 1), ("p9", 0)]
    assert len(group["rows"]) == 6


def test_one_picture_under_several_names(tmp_path: Path) -> None:
    numbers = _of(
        tmp_path,
        pair("p0", image_sha256="s", image_path="a.jpg"),
        pair("p1", image_sha256="s", image_path="b.jpg"),
        pair("p2", image_sha256="t", image_path="c.jpg"),
        pair("p3", image_sha256="t", image_path="c.jpg"),
    )
    assert numbers["duplicates"]["same_picture_several_names"] == 1
    (group,) = numbers["examples"]["several_names"]
    assert [row["image_path"] for row in group["rows"]] == ["a.jpg", "b.jpg"]


def test_near_groups_are_chains_of_different_pictures(tmp_path: Path) -> None:
    chain = [0, 0b1111, 0b1111_1111]  # neighbours differ in 4 bits, the ends in 8
    numbers = _of(
        tmp_path,
        *(pair(f"p{i}", image_phash=value) for i, value in enumerate(chain)),
        pair("p3", image_sha256="sha of p0", image_phash=0),  # the same picture again
        pair("q1", image_phash=0xFFFF_0000_FFFF_0000),
        pair("q2", image_phash=0xFFFF_0000_FFFF_0000),
        pair("r1", image_phash=0x0000_FFFF_0000_FF00),
        pair("r2", image_phash=0x0000_FFFF_0000_FF1F),  # 5 bits
        pair("s1", image_sha256="s", image_phash=0xAAAA_AAAA_AAAA_AAAA),
        pair("s2", image_sha256="s", image_phash=0xAAAA_AAAA_AAAA_AAAA),  # one picture is no group
    )
    found = numbers["duplicates"]
    assert (found["near_groups"], found["near_pictures"], found["largest_near_group"]) == (2, 5, 3)
    groups = [
        (group["size"], [row["pair_id"] for row in group["rows"]])
        for group in numbers["examples"]["near_groups"]
    ]
    assert groups == [(3, ["p0", "p1", "p2"]), (2, ["q1", "q2"])]


def test_leaks_by_what_the_splits_share(tmp_path: Path) -> None:
    train = [pair("p1", image_phash=0), pair("p2"), pair("p3"), pair("p4"), pair("p5", image_group=None)]
    val = [
        pair("q11", image_phash=0b11),  # near p1
        pair("q12", image_sha256="sha of p2", image_phash=train[1]["image_phash"]),
        pair("q13", image_group="product of p3"),
        pair("q14", text_key="key of p4"),
        pair("q15", text_key="key of p4", image_group=None),  # without product: null is not equal to null
    ]
    datasets = {"train": dataset(tmp_path / "train", train), "val": dataset(tmp_path / "val", val)}
    numbers = survey(datasets)
    assert numbers["splits"] == {"train": 5, "val": 5}
    assert numbers["leaks"] == {"product": 1, "image": 1, "near-image": 2, "text": 1}
    leaks = {
        link: [[(row["split"], row["pair_id"]) for row in group["rows"]] for group in groups]
        for link, groups in numbers["examples"]["leaks"].items()
    }
    assert leaks == {
        "product": [[("train", "p3"), ("val", "q13")]],
        "image": [[("train", "p2"), ("val", "q12")]],
        "near-image": [[("train", "p1"), ("val", "q11")], [("train", "p2"), ("val", "q12")]],
        "text": [[("train", "p4"), ("val", "q14"), ("val", "q15")]],
    }
    assert [warning["code"] for warning in numbers["warnings"]].count("leakage") == 4


def test_a_dataset_against_itself_leaks_everything(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", [pair("p0"), pair("p1")])
    numbers = survey({"a": folder, "b": folder})
    assert numbers["leaks"] == {"product": 2, "image": 2, "near-image": 2, "text": 2}
    assert [len(group["rows"]) for group in numbers["examples"]["leaks"]["image"]] == [2, 2]


def test_a_single_dataset_has_no_leaks(tmp_path: Path) -> None:
    numbers = _of(tmp_path, pair("p0"))
    assert (numbers["leaks"], numbers["examples"]["leaks"]) == ({}, {})


def test_examples_are_few_and_their_texts_short(tmp_path: Path) -> None:
    rows = [
        pair(f"p{i:03}", image_sha256=f"s{i % 15:02}", image_path="a", text_key="k", text="ک" * 10_000)
        for i in range(15 * 7)
    ]
    numbers = _of(tmp_path, *rows)
    groups = numbers["examples"]["duplicates"]
    assert (len(groups), {len(group["rows"]) for group in groups}) == (12, {6})
    assert [group["rows"][0]["pair_id"] for group in groups] == [f"p{i:03}" for i in range(12)]
    assert groups[0]["rows"][0]["text"] == "ک" * 300 + "…"
    assert numbers["duplicates"]["pairs"] == 15 * 6


def test_rejects_by_code_with_their_first_case_and_the_codes_taking_turns(tmp_path: Path) -> None:
    rejects = [
        *(reject(line, "missing_image", image_path=f"{line}.jpg") for line in range(40, 10, -1)),
        reject(5, "truncated_image", image_path="cut.jpg"),
        reject(3, "bad_label"),
    ]
    found = _of(tmp_path, pair("p0"), rejects=rejects)["rejects"]
    assert [(entry["code"], entry["count"]) for entry in found["codes"]] == [
        ("missing_image", 30), ("bad_label", 1), ("truncated_image", 1)
    ]  # fmt: skip
    assert found["codes"][0]["first"] == {
        "source": "pairs.csv", "line": 11, "image_path": "11.jpg", "message": "The message of line 11.",
        "suggestion": "The remedy of missing_image.",
    }  # fmt: skip
    shown = [(case["code"], case["line"]) for case in found["examples"]]
    assert shown[:3] == [("missing_image", 11), ("truncated_image", 5), ("missing_image", 12)]
    assert len(shown) == 24


def test_no_pairs_at_all(tmp_path: Path) -> None:
    numbers = _of(tmp_path)
    assert numbers["labels"] == {"match": 0, "mismatch": 0}
    assert (numbers["pictures"]["distinct"], numbers["texts"]["distinct"], numbers["texts"]["persian"]) == (
        0,
        0,
        0,
    )
    assert set(numbers["duplicates"].values()) == {0}
    assert numbers["contradictions"] == 0
    assert [warning["code"] for warning in numbers["warnings"]] == ["few_pairs"]


def test_the_order_of_rows_and_parts_does_not_matter(tmp_path: Path) -> None:
    rows = [
        pair(f"p{i}", image_sha256=f"s{i % 3}", text_key=f"k{i % 4}", image_phash=i % 3, label=i % 2)
        for i in range(40)
    ]
    rejects = [reject(i, f"code_{i % 3}", image_path=f"{i}.jpg") for i in range(9)]
    one = survey({"all": dataset(tmp_path / "one", rows, rejects, parts=1)})
    many = survey({"all": dataset(tmp_path / "many", rows[::-1], rejects[::-1], parts=5)})
    assert one == many
    assert json.loads(json.dumps(one)) == one


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "it's [new] 100%*", [pair("p0")], [reject(1, "bad_label")])
    numbers = survey({"it's": folder})
    assert numbers["splits"] == {"it's": 1}
    assert numbers["rejects"]["codes"][0]["count"] == 1
