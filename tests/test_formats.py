"""Which source the flags name, and what is said when they name none or several."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_jobs.csv_pairs import CsvPairs
from data_jobs.errors import InputError
from data_jobs.formats import source_of
from data_jobs.image_folder import ImageFolder
from data_jobs.parquet_pairs import ParquetPairs
from data_jobs.persian_json import PersianJson


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """One small source a format: flag -> path."""
    (tmp_path / "pairs.csv").write_text("image_path,text,label\na.jpg,mug,1\n")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "1.json").write_text('{"title": "آش", "response": "رشته"}')
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "metadata.csv").write_text("file_name,text\na.jpg,mug\n")
    columns = {"image_path": ["a.jpg"], "text": ["mug"], "label": [1]}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    names = {
        "csv": "pairs.csv",
        "persian_json": "recipes",
        "image_folder": "photos",
        "parquet": "pairs.parquet",
    }
    return {flag: str(tmp_path / name) for flag, name in names.items()}


def _refusal(**flags: Any) -> str:
    with pytest.raises(InputError) as refusal:
        source_of(**flags)
    assert refusal.value.code == "bad_arguments"
    return str(refusal.value)


def test_each_flag_opens_its_format(given: dict[str, str]) -> None:
    kinds = {
        "csv": CsvPairs,
        "persian_json": PersianJson,
        "image_folder": ImageFolder,
        "parquet": ParquetPairs,
    }
    for flag, kind in kinds.items():
        source = source_of(**{flag: given[flag]})
        assert type(source) is kind
        assert source.name == given[flag] and len(source.files()) == 1
        assert source.needs_pairs == (flag != "persian_json")


def test_exactly_one_flag_is_needed(given: dict[str, str]) -> None:
    all_flags = "Give one of --csv, --persian-json, --image-folder, --parquet."
    assert _refusal() == f"0 sources were given; exactly one is needed. {all_flags}"
    assert _refusal(csv=given["csv"], parquet=given["parquet"]).startswith("2 sources were given")
    assert _refusal(**given).startswith("4 sources were given")
    assert _refusal(image_base_path="/base").startswith("0 sources were given")


def test_a_base_path_is_taken_where_paths_are_in_columns(given: dict[str, str]) -> None:
    csv = source_of(csv=given["csv"], image_base_path="/base")
    parquet = source_of(parquet=given["parquet"], image_base_path="/base")
    assert isinstance(csv, CsvPairs) and csv.base == "/base"
    assert isinstance(parquet, ParquetPairs) and parquet.base == "/base"
    for flag, shown in (("persian_json", "--persian-json"), ("image_folder", "--image-folder")):
        said = _refusal(**{flag: given[flag]}, image_base_path="/base")
        assert f"--image-base-path has no meaning with {shown}" in said and "Leave it out" in said


@pytest.mark.parametrize("flag", ["csv", "persian_json", "image_folder", "parquet"])
def test_what_is_not_there_is_said_by_every_format(tmp_path: Path, flag: str) -> None:
    for place in (str(tmp_path / "nowhere"), ""):
        (tmp_path / "here").mkdir(exist_ok=True)
        with pytest.raises(InputError) as refusal:
            source_of(**{flag: place or str(tmp_path / "here")})
        assert refusal.value.code == "missing_source"


@pytest.mark.parametrize("flag", ["csv", "persian_json", "image_folder", "parquet"])
def test_an_unknown_protocol_is_said_by_every_format(flag: str) -> None:
    with pytest.raises(InputError, match="nope") as refusal:
        source_of(**{flag: "nope://bucket/pairs"})
    assert refusal.value.code == "unknown_protocol"
