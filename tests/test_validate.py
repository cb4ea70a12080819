"""The validator: exit codes, JSON on stdout, problems by line, and what only several files show."""

import json
from pathlib import Path

import pytest
from conftest import save_photos

from data_jobs.drawing import describe, random_products
from data_jobs.errors import InputError
from data_jobs.validate import Validate, run

PRODUCTS = random_products(120, seed=8)

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photos(PRODUCTS, tmp_path_factory.mktemp("photos"))


def _csv(photos: Path, name: str, *rows: str) -> str:
    path = photos / f"{name}.csv"
    path.write_text("\n".join(["image_path,text,label", *rows]))
    return str(path)


def _good(first: int, last: int) -> list[str]:
    return [f'{i}.png,"{describe(PRODUCTS[i])} No. {i}",{i % 2}' for i in range(first, last)]


def test_a_clean_catalogue_exits_0(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _csv(photos, "clean", *_good(0, 110))
    assert run(Validate(csv=(path,))) == 0
    said = capsys.readouterr().out
    assert "110 pairs read = 110 good + 0 rejected; 55 match, 55 mismatch" in said
    assert "rows with problems: 0" in said


def test_problems_exit_1_and_are_named_by_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:100])
    path = _csv(photos, "broken", *_good(0, 110), "gone.png,mug,1", "cut.png,mug,1", "1.png,mug,perhaps")
    assert run(Validate(csv=(path,), report_dir=tmp_path / "report")) == 1
    said = capsys.readouterr().out
    for code, line in (("missing_image", 112), ("truncated_image", 113), ("bad_label", 114)):
        assert f"problem ({code}, 1 rows): {path}:{line}:" in said
    files = sorted(file.name for file in (tmp_path / "report").iterdir())
    assert files == ["rejects.csv", "report.html", "report.json", "verdict.json"]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["pairs"] == {"read": 113, "written": 110, "rejected": 3}
    assert len((tmp_path / "report" / "rejects.csv").read_text().splitlines()) == 4
    verdict = json.loads((tmp_path / "report" / "verdict.json").read_text())
    assert verdict["failed"] and verdict["rejected"] == 3


def test_json_is_all_that_stdout_holds(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*_good(0, 10), f'0.png,"{describe(PRODUCTS[0])} No. 0",1']  # the first row says 0
    config = Validate(csv=(_csv(photos, "few", *rows),), json=True, report_dir=tmp_path / "report")
    assert run(config) == 0
    report = json.loads(capsys.readouterr().out)
    assert (tmp_path / "report" / "report.html").read_text().count('src="data:image/jpeg') == 2
    assert report["contradictions"] == 1
    assert {"few_pairs", "contradicting_labels"} <= {warning["code"] for warning in report["warnings"]}


def test_strict_counts_warnings(photos: Path) -> None:
    assert run(Validate(csv=(_csv(photos, "few2", *_good(0, 10)),), strict=True)) == 1


def test_several_files_are_splits_and_leaks_are_found(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "copy.png").write_bytes((photos / "3.png").read_bytes())
    train = _csv(photos, "train", *_good(0, 60))
    val = _csv(
        photos, "val", *_good(60, 118), "copy.png,the same picture under another name,1", "gone.png,mug,1"
    )
    assert run(Validate(csv=(train, val), json=True, report_dir=tmp_path / "report")) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["splits"] == {"train": 60, "val": 59}
    assert report["pairs"] == {"read": 120, "written": 119, "rejected": 1}
    assert report["leaks"]["image"] == 1
    assert report["duplicates"]["same_picture_several_names"] == 1
    assert "leakage" in {warning["code"] for warning in report["warnings"]}
    assert len((tmp_path / "report" / "rejects.csv").read_text().splitlines()) == 2


def test_a_file_of_which_nothing_can_be_used_is_a_problem_not_a_crash(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Validate(csv=(_csv(photos, "bad", "gone.png,mug,1"),))) == 1
    assert "unusable; rows with problems: 1" in capsys.readouterr().out
    assert run(Validate(csv=(_csv(photos, "empty"),))) == 1
    assert "no row to check" in capsys.readouterr().out


def test_a_guessed_encoding_is_a_warning(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{i}.png,ماگ قرمز {i},1\n" for i in range(9))
    (photos / "windows.csv").write_bytes(f"image_path,text,label\n{rows}".encode("cp1256"))
    assert run(Validate(csv=(str(photos / "windows.csv"),))) == 0
    assert "warning (guessed_encoding): The text was read as cp1256" in capsys.readouterr().out


def test_what_would_be_refused_is_refused_before_the_work(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    path = _csv(photos, "early", *_good(0, 2))
    with pytest.raises(InputError) as refusal:
        run(Validate(csv=(path,), report_dir=tmp_path))
    assert refusal.value.code == "not_an_artefact"
    with pytest.raises(InputError, match="beside another source"):
        run(Validate(csv=(path,), data=(tmp_path,)))


def test_what_cannot_run_is_an_error(photos: Path) -> None:
    with pytest.raises(InputError) as refusal:
        run(Validate(csv=("nowhere.csv",)))
    assert refusal.value.code == "missing_source"
    with pytest.raises(InputError) as refusal:
        run(Validate())
    assert refusal.value.code == "bad_arguments"
    path = _csv(photos, "twice", *_good(0, 2))
    with pytest.raises(InputError, match="named twice"):
        run(Validate(csv=(path, path)))
