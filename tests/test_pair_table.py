"""PairTable: a CSV's cells as they stand, and paths that still lead to the pictures from another folder."""

import os
from pathlib import Path

import pytest

from data_jobs.pair_table import PairTable, to_csv

ROWS = (
    "Image_Path,text,label,note,\n"
    'a.jpg,"a mug, ""red""",1, x ,\n'
    "b.jpg,,1,y,\n"
    "sub/c.jpg,two\u200cwords,mismatch,\n"
    "../d.jpg,hat,7,,\n"
    "/e.jpg,hat,match,,\n"
)


@pytest.fixture
def table(tmp_path: Path) -> PairTable:
    path = tmp_path / "in" / "pairs.csv"
    path.parent.mkdir()
    path.write_text(ROWS, encoding="utf-8-sig")
    return PairTable.read(str(path))


def test_usable_rows_keep_their_cells(table: PairTable, tmp_path: Path) -> None:
    assert table.columns == ["image_path", "text", "label", "note"]
    assert [cells["text"] for cells in table.cells] == ['a mug, "red"', "two\u200cwords", "hat"]
    assert [cells["label"] for cells in table.cells] == ["1", "mismatch", "match"]
    assert [(record.line, record.label) for record in table.records] == [(2, 1), (4, 0), (6, 1)]
    assert table.records[0].image_path == str(tmp_path / "in" / "a.jpg")
    assert [(reject.line, reject.code) for reject in table.rejects] == [(3, "empty_text"), (5, "bad_label")]


def test_relative_paths_follow_the_folder(table: PairTable, tmp_path: Path) -> None:
    assert table.paths_from(tmp_path / "in") == ["a.jpg", "sub/c.jpg", "/e.jpg"]
    assert table.paths_from(tmp_path) == ["in/a.jpg", "in/sub/c.jpg", "/e.jpg"]
    assert table.paths_from(tmp_path / "x" / "y") == ["../../in/a.jpg", "../../in/sub/c.jpg", "/e.jpg"]


def test_a_linked_folder_is_the_folder_it_leads_to(table: PairTable, tmp_path: Path) -> None:
    """From a link the `..` of a path leads to the parent of the folder behind it."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "in" / "a.jpg").touch()
    path = table.paths_from(tmp_path / "link")[0]
    assert os.path.samefile(tmp_path / "link" / path, tmp_path / "in" / "a.jpg")


def test_paths_of_a_remote_csv_become_addresses() -> None:
    import fsspec

    with fsspec.open("memory://catalogue/pairs.csv", "w") as stream:
        stream.write("image_path,text,label\nphotos/a.jpg,mug,1\nhttps://x.org/b.jpg,hat,1\n")
    table = PairTable.read("memory://catalogue/pairs.csv")
    assert table.paths_from(Path("out")) == ["memory://catalogue/photos/a.jpg", "https://x.org/b.jpg"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [
        {"image_path": "a", "text": 'x, "y"\nz', "label": "1", "other": "!"},
        {"image_path": "b", "text": "کیک"},
    ]
    content = to_csv(["image_path", "text", "label"], rows)
    assert content == 'image_path,text,label\na,"x, ""y""\nz",1\nb,کیک,\n'
    (tmp_path / "f.csv").write_text(content, encoding="utf-8")
    table = PairTable.read(str(tmp_path / "f.csv"))
    assert table.cells == [{"image_path": "a", "text": 'x, "y"\nz', "label": "1"}]
