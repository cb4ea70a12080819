"""What all formats share: groups and chunks that depend on the files alone, and hold every row once."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_jobs import sources
from data_jobs.formats import source_of
from data_jobs.items import Item, Note
from data_jobs.sources import MAX_GROUPS, Raw, Source, chunks, groups


@dataclass(frozen=True)
class Rows:
    """A source whose file `n` has as many raws as `sizes[n]` has numbers, each of which is a raw's rows."""

    sizes: tuple[tuple[int, ...], ...]
    name: str = "rows"
    needs_pairs = False

    def files(self) -> list[str]:
        return [str(n) for n in range(len(self.sizes))]

    def raws(self, file: str) -> Iterator[Raw]:
        for line, rows in enumerate(self.sizes[int(file)], 1):
            yield Raw(file, line, None, rows)

    def items(self, raw: Raw) -> Iterator[Item]:
        yield Note(raw.file, raw.line, "seen")
        if raw.line % 2:
            yield Note(raw.file, raw.line, "odd")


SIZES = st.lists(st.lists(st.integers(0, 9), max_size=6).map(tuple), max_size=9).map(tuple)


@given(st.integers(0, 1000))
def test_groups_hold_every_file_once_in_order(count: int) -> None:
    found = [f"{n:04d}" for n in range(count)]
    grouped = groups(found)
    assert [file for _, members in grouped for file in members] == found
    assert [number for number, _ in grouped] == list(range(min(count, MAX_GROUPS)))
    sizes = [len(members) for _, members in grouped]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_the_groups_of_an_earlier_release() -> None:
    """Literal, since a run that is resumed must find the same groups."""
    assert groups(["a", "b"]) == [(0, ["a"]), (1, ["b"])]
    grouped = groups([str(n) for n in range(100)])
    assert len(grouped) == 64
    assert grouped[:3] == [(0, ["0"]), (1, ["1", "2"]), (2, ["3"])]
    assert grouped[63] == (63, ["98", "99"])


@settings(deadline=None)
@given(SIZES, st.integers(1, 20))
def test_chunks_hold_every_raw_once_in_order(sizes: tuple[tuple[int, ...], ...], size: int) -> None:
    source = Rows(sizes)
    members = source.files()
    found = list(chunks(source, 7, members, size))
    assert [raw for chunk in found for raw in chunk.raws] == [
        raw for file in members for raw in source.raws(file)
    ]
    assert [chunk.name for chunk in found] == [f"007-{n:08d}" for n in range(len(found))]
    counts = [sum(raw.rows for raw in chunk.raws) for chunk in found]
    assert all(size <= count < size + 9 for count in counts[:-1])  # full, and by less than one raw too full
    assert all(chunk.raws for chunk in found)
    assert list(chunks(source, 7, members, size)) == found


def test_chunks_run_across_files() -> None:
    source = Rows(((1, 1, 1), (1,), (), (2, 1, 1)))
    found = [
        (chunk.name, [(raw.file, raw.line) for raw in chunk.raws]) for chunk in chunks(source, 0, "0123", 4)
    ]
    assert found == [
        ("000-00000000", [("0", 1), ("0", 2), ("0", 3), ("1", 1)]),
        ("000-00000001", [("3", 1), ("3", 2), ("3", 3)]),
    ]


def test_raws_that_become_no_rows_are_kept() -> None:
    found = list(chunks(Rows(((0, 0), (3, 0))), 0, ["0", "1"], 3))
    assert [len(chunk.raws) for chunk in found] == [3, 1]


def test_a_chunk_is_taken_only_when_it_is_asked_for() -> None:
    """Memory is flat: no file is read beyond the chunk at hand."""
    read = []

    class Watched(Rows):
        def raws(self, file: str) -> Iterator[Raw]:
            for raw in super().raws(file):
                read.append(raw)
                yield raw

    stream = chunks(Watched(((1,) * 100,)), 0, ["0"], 10)
    next(stream)
    assert len(read) == 10


def test_read_gives_the_items_of_all_chunks_in_order() -> None:
    source = Rows(((1, 1), (), (1, 1, 1)))
    items = list(sources.read(source))
    assert [(item.source, item.line) for item in items if isinstance(item, Note)] == [
        ("0", 1), ("0", 1), ("0", 2), ("2", 1), ("2", 1), ("2", 2), ("2", 3), ("2", 3),
    ]  # fmt: skip
    chunked = [
        item
        for group, members in groups(source.files())
        for chunk in chunks(source, group, members, 2)
        for raw in chunk.raws
        for item in source.items(raw)
    ]
    assert chunked == items


# ---------------------------------------------------------------------------------- the real formats


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy small files a format, so that groups hold several, with broken rows among them."""
    for name in ("recipes", "photos", "tables"):
        (tmp_path / name).mkdir()
    for n in range(70):
        record = {"title": f"آش {n}", "response": f"رشته {n}", "image_path": f"{n}.jpg"}
        (tmp_path / "recipes" / f"{n}.json").write_text(json.dumps([record, record, 7]) + "\n{broken")
        photos = tmp_path / "photos" / f"{n:02d}"
        photos.mkdir()
        suffix = ("csv", "jsonl")[n % 2]
        line = (
            "file_name,text\n1.jpg,mug\n2.jpg\n"
            if suffix == "csv"
            else '{"file_name": "1.jpg", "text": "hat"}'
        )
        (photos / f"metadata.{suffix}").write_text(line)
        columns = {"image_path": ["a.jpg"] * (n + 1), "text": ["mug"] * (n + 1), "label": [1] * (n + 1)}
        pq.write_table(pa.table(columns), tmp_path / "tables" / f"{n:02d}.parquet", row_group_size=50)
    (tmp_path / "tables" / "99.parquet").write_bytes(b"cut")
    rows = [f'{n}.jpg,"mug {n}' + ("" if n % 9 == 0 else '"') + ",1" for n in range(200)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image_path,text,label", *rows]))
    return tmp_path


PLACES = {"csv": "pairs.csv", "persian_json": "recipes", "image_folder": "photos", "parquet": "tables"}


def _chunked(source: Source, size: int) -> list[tuple[str, str]]:
    """(name, everything in it) of all chunks, as text that two processes can compare."""
    return [
        (chunk.name, repr([(raw.file, raw.line, list(source.items(raw))) for raw in chunk.raws]))
        for group, members in groups(source.files())
        for chunk in chunks(source, group, members, size)
    ]


@pytest.mark.parametrize("flag", list(PLACES))
def test_chunks_are_the_same_on_every_run_and_after_a_journey(folder: Path, flag: str) -> None:
    source = source_of(**{flag: str(folder / PLACES[flag])})
    once = _chunked(source, 8)
    assert len(once) > 3 and len({name for name, _ in once}) == len(once)
    assert _chunked(pickle.loads(pickle.dumps(source)), 8) == once
    travelled = [
        (
            chunk.name,
            repr([(r.file, r.line, list(source.items(r))) for r in pickle.loads(pickle.dumps(chunk.raws))]),
        )
        for group, members in groups(source.files())
        for chunk in chunks(source, group, members, 8)
    ]
    assert travelled == once
    items = [item for group, m in groups(source.files()) for c in chunks(source, group, m, 8) for r in c.raws
             for item in source.items(r)]  # fmt: skip
    assert items == list(sources.read(source))


AGAIN = """
import json, sys
sys.path.insert(0, "tests")
from test_sources import _chunked
from data_jobs.formats import source_of
print(json.dumps({flag: _chunked(source_of(**{flag: place}), 8) for flag, place in json.loads(sys.argv[1]).items()}))
"""


def test_another_process_finds_the_same_chunks(folder: Path) -> None:
    places = {flag: str(folder / name) for flag, name in PLACES.items()}
    expected = {
        flag: [list(c) for c in _chunked(source_of(**{flag: place}), 8)] for flag, place in places.items()
    }
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, json.dumps(places)],
        cwd=Path(sources.__file__).parent.parent, env={"PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == expected
