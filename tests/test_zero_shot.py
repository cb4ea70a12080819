"""Zero-shot classes: where they come from, and which are right for a picture."""

from pathlib import Path

import pytest

from data_jobs.errors import InputError
from train_jobs import zero_shot
from train_jobs.zero_shot import Classes, Listed, Matched

MATCHES = Matched(
    pictures=[7, 7, 8, 9],
    texts=["A red mug", "ماگ قرمز", "a hat", "a red mug"],
    groups=["mug", "mug", "hat", "other mug"],
    categories=["kitchen", "kitchen", "", "kitchen"],
)


def _right(found: Classes) -> dict[int, list[str]]:
    return {picture: [found.texts[row] for row in rows] for picture, rows in found.right.items()}


def test_without_a_list_the_distinct_texts_are_the_classes() -> None:
    found = Classes.of(MATCHES)
    assert found is not None
    assert found.texts == ["A red mug", "ماگ قرمز", "a hat"]
    assert _right(found) == {7: ["A red mug", "ماگ قرمز"], 8: ["a hat"], 9: ["A red mug"]}
    assert found.origin == "the distinct texts of the matches"


def test_too_many_texts_are_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot, "MOST_CLASSES", 2)
    assert Classes.of(MATCHES) is None


def test_a_list_of_lines_may_name_texts_or_categories(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("Kitchen\n\nماگ  قرمز\nsofa\nkitchen\n", encoding="utf-8")
    found = Classes.of(MATCHES, Listed.read(path))
    assert found is not None
    assert found.texts == ["Kitchen", "ماگ  قرمز", "sofa"]  # equal once normalised, in the order of the file
    assert _right(found) == {7: ["Kitchen", "ماگ  قرمز"], 8: [], 9: ["Kitchen"]}
    assert found.origin == str(path)


def test_of_a_csv_the_texts_of_the_matches_count(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("image_path,text,label\na.jpg,a hat,match\nb.jpg,a sofa,0\nc.jpg,a hat,1\nd.jpg,lamp,1\n")
    assert Listed.read(path).texts == ["a hat", "a hat", "lamp"]
    found = Classes.of(MATCHES, Listed.read(path))
    assert found is not None and found.texts == ["a hat", "lamp"]
    path.write_text("text\na hat\na sofa\n")
    assert Listed.read(path).texts == ["a hat", "a sofa"]


def test_a_tsv_is_a_table_too(tmp_path: Path) -> None:
    path = tmp_path / "classes.TSV"
    path.write_text("text\tlabel\na hat\tmatch\na sofa\t0\n")
    assert Listed.read(path).texts == ["a hat"]


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        (
            "classes.txt",
            "ماگ قرمز\nهات".encode()[:-1] + b"\n",
            "unreadable_text",
            "classes.txt:2: the line holds bytes",
        ),
        (
            "classes.csv",
            "text\nماگ قرمز\nهات".encode()[:-1] + b"\n",
            "unreadable_text",
            "classes.csv:3: The cell text",
        ),
        ("classes.csv", b'text\n"a hat\n', "unclosed_quote", "classes.csv:2: "),
        (
            "classes.csv",
            b"text,label\na hat,1\na mug,kitchen\n",
            "bad_label",
            "classes.csv:3: the label is 'kitchen'",
        ),
    ],
)
def test_a_class_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, name: str, content: bytes, code: str, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refusal:
        Listed.read(tmp_path / name)
    assert refusal.value.code == code
    assert said in refusal.value.message


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("classes.txt", "sofa\nlamp\n", "classes_fit_no_picture"),
        ("classes.txt", "\n \n", "no_classes"),
        ("classes.csv", "text,label\na hat,0\n", "no_classes"),
        ("classes.csv", "name\na hat\n", "wrong_columns"),
        ("absent.txt", None, "missing_source"),
        ("absent.csv", None, "missing_source"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, name: str, content: str | None, code: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as refusal:
        Classes.of(MATCHES, Listed.read(tmp_path / name))
    assert refusal.value.code == code
