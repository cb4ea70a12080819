"""DuckDB with bounds: what spills is cleaned up, and no name of a folder changes a query."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_jobs.database import parquet, quoted, spilling

NAMES = ["plain", "a[b]c", "[0-9]", "a*b?", "q'uo\"te", "گل ماگ", "{a,b}", "100%20", "a#b", "~", "-- DROP"]


def _write(folder: Path, *values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(values):
        pq.write_table(pa.table({"name": [value], "label": [1]}), folder / f"part-{number}.parquet")


@pytest.mark.parametrize(
    "text", ["", "mug", "it's", "''", "ماگ", "a\\'b", "two\nlines", '"', "$$", "%s", "?"]
)
def test_a_quoted_text_is_itself(text: str) -> None:
    with spilling() as database:
        assert database.execute(f"SELECT {quoted(text)}").fetchall() == [(text,)]


@pytest.mark.parametrize("name", NAMES)
def test_all_files_of_a_folder_of_any_name_and_no_others(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, "one", "two")
    for other in ("abc", "b", "5", "acb?", "a"):  # what the names would mean as patterns
        _write(tmp_path / other, "other")
    (tmp_path / name / "notes.txt").write_text("no Parquet")
    with spilling() as database:
        rows = database.execute(f"SELECT name FROM {parquet(tmp_path / name)} ORDER BY name").fetchall()
        (only,) = database.execute(f"SELECT * FROM {parquet(tmp_path / name / 'part-1.parquet')}").fetchall()
    assert rows == [("one",), ("two",)]
    assert only == ("two", 1)


@pytest.mark.parametrize("name", ["label=7", "split=train", "name=x"])
def test_a_folder_named_like_a_partition_adds_and_changes_no_column(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name / "pairs", "one")
    with spilling() as database:
        for place in (tmp_path / name / "pairs", tmp_path / name / "pairs" / "part-0.parquet"):
            found = database.execute(f"SELECT * FROM {parquet(place)}")
            assert [column[0] for column in found.description] == ["name", "label"]
            assert found.fetchall() == [("one", 1)]


def test_more_than_the_memory_limit_spills_and_is_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with spilling(memory_limit="24MB") as database:
        database.execute("CREATE TABLE wide AS SELECT hash(i)::VARCHAR AS h FROM range(2_000_000) t(i)")
        count = database.execute("SELECT count(*) FROM (SELECT h FROM wide GROUP BY h)").fetchall()
        assert count == [(2_000_000,)]
        (folder,) = tmp_path.iterdir()
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > 8_000_000
    assert list(tmp_path.iterdir()) == []


def test_the_settings_are_those_asked_for() -> None:
    with spilling(memory_limit="100MB", threads=1) as database:
        (found,) = database.execute(
            "SELECT current_setting('threads'), current_setting('memory_limit')"
        ).fetchall()
    assert found == (1, "95.3 MiB")
