"""The job make_mismatches: the file that comes out, what is hard, and what is told."""

import csv
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_jobs import likeness, make_mismatches
from data_jobs.embeddings import image_key, writing
from data_jobs.errors import InputError
from data_jobs.make_mismatches import MakeMismatches
from data_jobs.pair_table import PairTable
from data_jobs.text import text_key

HEADER = "image_path,text,label,category,group_id,note"
ROWS = [
    "mug1.jpg,a red mug,1,kitchen,mug,n1",
    'mug2.jpg,"a mug, red",match,kitchen,mug,n2',
    "pan.jpg,an iron pan,1,kitchen,,",
    "cake.jpg,كيك شكلاتي,1,food,,",
    "cake2.jpg,کیک شکلاتی,1,food,,",
    "pie.jpg,پای سیب,1,food,,",
    "hat.jpg,a straw hat,1,wear,,n7",
    "hat.jpg,a wooden sofa,0,wear,,",
]

Make = Callable[..., tuple[list[dict[str, str]], dict[str, Any]]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write `rows` to in/matches.csv, run the job to out/pairs.csv: (rows that came out, counts)."""

    def make(
        rows: Sequence[str] = ROWS, header: str = HEADER, **flags: Any
    ) -> tuple[list[dict[str, str]], Any]:
        source = tmp_path / "in" / "matches.csv"
        source.parent.mkdir(exist_ok=True)
        source.write_text("\n".join([header, *rows]), encoding="utf-8")
        output = flags.pop("output", tmp_path / "out" / "pairs.csv")
        counts = make_mismatches.run(MakeMismatches(csv=str(source), output=output, **flags))
        with output.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream)), counts

    return make


def test_every_match_is_followed_by_its_mismatch(make: Make) -> None:
    rows, counts = make(hard_fraction=0.0)
    assert list(rows[0]) == ["image_path", "text", "label", "category", "group_id", "note", "mismatch_kind"]
    assert [row["label"] for row in rows] == ["1", "0", "match", "0", *["1", "0"] * 5, "0"]
    assert rows[0] == {
        "image_path": "../in/mug1.jpg", "text": "a red mug", "label": "1", "category": "kitchen", "group_id": "mug",
        "note": "n1", "mismatch_kind": "",
    }  # fmt: skip
    assert rows[1] == rows[0] | {"text": rows[1]["text"], "label": "0", "mismatch_kind": "random"}
    assert rows[1]["text"] not in ("a red mug", "a mug, red")
    assert rows[14] == {
        "image_path": "../in/hat.jpg", "text": "a wooden sofa", "label": "0", "category": "wear", "group_id": "",
        "note": "", "mismatch_kind": "",
    }  # fmt: skip
    assert counts == {
        "matches": 7, "kept_mismatches": 1, "asked": 7, "hard_asked": 0, "hard": 0, "random": 7, "hard_by": None,
        "left_out": {},
    }  # fmt: skip


def test_hard_ones_are_of_the_category(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    rows, counts = make(hard_fraction=1.0)
    assert (counts["hard_asked"], counts["hard"], counts["random"]) == (7, 6, 1)
    hard = {(row["image_path"][6:-4], row["text"]) for row in rows if row["mismatch_kind"] == "hard"}
    assert {pair for pair in hard if pair[0] != "pan" and pair[0] != "pie"} == {
        ("mug1", "an iron pan"), ("mug2", "an iron pan"), ("cake", "پای سیب"), ("cake2", "پای سیب"),
    }  # fmt: skip
    assert {text for picture, text in hard if picture == "pan"} < {"a red mug", "a mug, red"}
    assert {text for picture, text in hard if picture == "pie"} == {"كيك شكلاتي"}
    out = capsys.readouterr().out
    assert "7 matches, 6 hard (by category) and 1 random mismatches made, 1 kept" in out
    assert (
        "of 7 hard mismatches asked, 6 could be made; matches with no other product in their category: 1"
        in out
    )


def test_paths_lead_to_the_pictures(make: Make, tmp_path: Path) -> None:
    rows, _ = make()
    found = PairTable.read(str(tmp_path / "out" / "pairs.csv"))
    assert {image_key(record.image_path) for record in found.records} == {
        str(tmp_path / "in" / row.split(",")[0]) for row in ROWS
    }
    rows, _ = make(image_base_path=str(tmp_path / "photos"), overwrite=True)
    assert {row["image_path"] for row in rows} == {row.split(",")[0] for row in ROWS}
    rows, _ = make(output=tmp_path / "in" / "pairs.csv")
    assert {row["image_path"] for row in rows} == {row.split(",")[0] for row in ROWS}


def test_the_same_seed_gives_the_same_file(make: Make, tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((0, 0, 1)):
        make(seed=seed, hard="text", output=tmp_path / f"{number}.csv")
        files.append((tmp_path / f"{number}.csv").read_bytes())
    assert files[0] == files[1] != files[2]


def test_hard_by_text_is_nearer_than_random(make: Make) -> None:
    colours, things = (
        ["red", "blue", "green", "black", "white"],
        ["mug", "sofa", "carpet", "lantern", "bicycle"],
    )
    texts = [
        f"a {colour} {thing} number {n}"
        for n, (colour, thing) in enumerate((c, t) for c in colours for t in things)
    ]
    rows, counts = make(
        [f"{n}.jpg,{text},1" for n, text in enumerate(texts)], "image_path,text,label", nearest=3
    )
    assert counts["hard_by"] == "text"
    assert (counts["hard"], counts["random"]) == (12, 13)
    vectors = likeness.spelling(texts)
    cosine: dict[str, list[float]] = {"hard": [], "random": []}
    own = ""
    for row in rows:
        if row["label"] == "1":
            own = row["text"]
        else:
            both = vectors[[texts.index(own), texts.index(row["text"])]]
            cosine[row["mismatch_kind"]].append((both[0] @ both[1].T).toarray().item())
    assert min(cosine["hard"]) > np.mean(cosine["random"])


def _embeddings(path: Path, folder: Path, *, pictures: bool) -> Path:
    """Texts on a circle in the order mug, pan, hat; the mug's picture lies beside the hat, the pan's beside the mug."""
    circle = {"a red mug": 0, "an iron pan": 10, "a straw hat": 90, "a wooden sofa": 200}
    photos = {"mug1.jpg": 80, "pan.jpg": 1, "hat.jpg": 60}

    def vectors(angles: Sequence[float]) -> np.ndarray:
        turned = np.radians(angles)
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)

    with writing(path, 2, "abc") as writer:
        writer.add("text", [text_key(text) for text in circle], vectors(list(circle.values())))
        if pictures:
            writer.add("image", [str(folder / name) for name in photos], vectors(list(photos.values())))
    return path


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        (True, {"mug1": "a straw hat", "pan": "a red mug", "hat": "an iron pan"}),
        (False, {"mug1": "an iron pan", "pan": "a red mug", "hat": "an iron pan"}),
    ],
)
def test_hard_by_embedding_is_nearest_to_the_picture_or_else_to_the_text(
    make: Make, tmp_path: Path, pictures: bool, expected: dict[str, str]
) -> None:
    vectors = _embeddings(tmp_path / "e.parquet", tmp_path / "in", pictures=pictures)
    rows, counts = make(
        [ROWS[0], ROWS[2], ROWS[6], ROWS[7]],
        embeddings=vectors,
        hard_fraction=1.0,
        nearest=1,
        hard="embedding",
    )
    assert counts["hard_by"] == "embedding"
    hard = {row["image_path"][6:-4]: row["text"] for row in rows if row["mismatch_kind"] == "hard"}
    assert hard == expected


def test_texts_and_pictures_without_embedding_are_named(make: Make, tmp_path: Path) -> None:
    vectors = _embeddings(tmp_path / "e.parquet", tmp_path / "in", pictures=True)
    with pytest.raises(InputError, match=r"1 of 2 texts have no embedding .*'پای سیب'"):
        make([ROWS[0], ROWS[5]], embeddings=vectors)
    with pytest.raises(InputError, match=r"1 of 2 images have no embedding .*mug3.jpg"):
        make([ROWS[2], "mug3.jpg,a red mug,1,,,"], embeddings=vectors)


def test_unreadable_rows_are_told(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    rows, counts = make([*ROWS, "x.jpg,,1,,,", "y.jpg,hat,maybe,,,", "z.jpg,,1,,,", "w.jpg,,1,,,"])
    assert counts["left_out"] == {"empty_text": 3, "bad_label": 1}
    assert len(rows) == 15
    out = capsys.readouterr().out
    assert "left out 4 rows that cannot be read: {'empty_text': 3, 'bad_label': 1}" in out
    assert ":11: The label is 'maybe'." in out
    listed = Path(out.strip().rsplit(": ", 1)[1]).read_text().splitlines()
    assert [row.split(",")[1] for row in listed] == ["line", "10", "11", "12", "13"]


def test_several_mismatches_a_match(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    rows, counts = make(ROWS[:4], per_match=2, hard_fraction=0.0)
    assert [row["label"] for row in rows] == ["1", "0", "0", "match", "0", "0", "1", "0", "0", "1", "0", "0"]
    rows, counts = make(ROWS[:4], per_match=3, hard_fraction=0.0, overwrite=True)
    assert (counts["asked"], counts["random"]) == (12, 10)  # the mugs have two others, the rest three
    assert "of 12 mismatches asked, 10 could be made" in capsys.readouterr().out


def test_kinds_of_an_earlier_run_stay(make: Make) -> None:
    header = "image_path,mismatch_kind,text,label"
    rows, _ = make(["a.jpg,,mug,1", "a.jpg,hard,hat,0", "b.jpg,,sofa,1"], header, hard_fraction=0.0)
    assert list(rows[0]) == header.split(",")
    assert [(row["text"], row["mismatch_kind"]) for row in rows] == [
        ("mug", ""), ("sofa", "random"), ("hat", "hard"), ("sofa", ""), ("mug", "random"),
    ]  # fmt: skip


def test_categories_are_found_by_name(make: Make) -> None:
    header = HEADER.replace("category", "Shelf")
    assert make(header=header, category_column="Shelf")[1]["hard_by"] == "category"
    assert make(header=header, overwrite=True)[1]["hard_by"] == "text"
    assert make(overwrite=True, hard="text")[1]["hard_by"] == "text"
    empty = [row.replace("kitchen", "").replace("food", "").replace("wear", "") for row in ROWS]
    assert make(empty, overwrite=True)[1]["hard_by"] == "text"
    alone = [
        row.replace("kitchen", row[:4]).replace("food", row[:3]) for row in ROWS
    ]  # a category for each product
    assert make(alone, overwrite=True)[1]["hard_by"] == "text"
    assert make(alone, overwrite=True, hard="category")[1]["hard"] == 0
    with pytest.raises(InputError, match="'category'") as refusal:
        make(header=header, hard="category", overwrite=True)
    assert refusal.value.code == "wrong_columns"


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"hard_fraction": 1.1}, "bad_arguments"),
        ({"hard_fraction": float("nan")}, "bad_arguments"),
        ({"per_match": 0}, "bad_arguments"),
        ({"nearest": 0}, "bad_arguments"),
        ({"hard": "embedding"}, "bad_arguments"),
        ({"hard": "text", "embeddings": Path("e.parquet")}, "bad_arguments"),
        ({"embeddings": Path("absent.parquet")}, "no_embeddings"),
        ({"rows": ROWS[:2]}, "one_group"),
        ({"rows": ROWS[7:]}, "no_matches"),
        ({"header": "image_path,text,note"}, "wrong_columns"),
    ],
)
def test_what_cannot_be_is_refused(make: Make, tmp_path: Path, flags: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as refusal:
        make(**flags)
    assert refusal.value.code == code
    assert not (tmp_path / "out").exists()


def test_an_output_is_replaced_only_when_told(make: Make, tmp_path: Path) -> None:
    make()
    with pytest.raises(InputError) as refusal:
        make()
    assert refusal.value.code == "output_exists"
    make(overwrite=True)
    with pytest.raises(InputError) as refusal:
        make(output=tmp_path, overwrite=True)
    assert refusal.value.code == "output_exists"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pairs.csv"]


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "matches.csv").write_text("\n".join([HEADER, *ROWS]), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "data_jobs.make_mismatches",
        "--csv",
        "matches.csv",
        "--hard-fraction",
        "0.5",
    ]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [*command, "--seed", "0", "--output", "pairs.csv"],
        cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "pairs.csv: 7 matches, 4 hard (by category) and 3 random mismatches made, 1 kept"
    )
    assert len(PairTable.read(str(tmp_path / "pairs.csv")).records) == 15
