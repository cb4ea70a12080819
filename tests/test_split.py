"""The split job: from a CSV with broken rows to datasets, CSV files and split.json."""

import json
from pathlib import Path

import pytest
from conftest import save_photos

from data_jobs import dataset
from data_jobs.drawing import describe, random_products
from data_jobs.errors import InputError
from data_jobs.ingest import Ingest
from data_jobs.ingest import run as ingest
from data_jobs.split import Split, run, shares

PRODUCTS = random_products(40, seed=9)

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("catalogue")
    photos = folder / "photos"
    photos.mkdir()
    save_photos(PRODUCTS, photos)
    rows = [f"{i}.png,{describe(product, 'fa')} {i},{int(i % 4 > 0)}" for i, product in enumerate(PRODUCTS)]
    (folder / "pairs.csv").write_text("\n".join(["image_path,text,label", *rows, "gone.png,mug,1"]))
    return str(folder / "pairs.csv")


def test_a_csv_becomes_splits(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(Path(source).parent / "photos")
    config = Split(
        csv=source, image_base_path=base, split=(0.6, 0.2), shuffle=True, links=("image", "text"),
        output_dir=tmp_path / "out", image_size=32,
    )  # fmt: skip
    report = run(config)
    out = capsys.readouterr().out
    assert "41 rows read = 40 to split + 1 rejected" in out
    assert json.loads((tmp_path / "out" / "split.json").read_text()) == report
    counts = {name: (s["match"], s["mismatch"]) for name, s in report["splits"].items()}
    assert counts == {"train": (18, 6), "val": (6, 2), "calibration": (6, 2)}
    lines: list[int] = []
    for name in counts:
        pairs = dataset.read_pairs(tmp_path / "out" / name)
        lines += pairs["line"].to_pylist()
        listed = (tmp_path / "out" / f"{name}.csv").read_text().splitlines()
        assert len(listed) == pairs.num_rows + 1 and listed[1].split(",")[0].endswith(".png")
        assert "/" not in listed[1]  # relative to the base path, as in the source
    assert sorted(lines) == list(range(2, 42))
    assert "missing_image" in (tmp_path / "out" / "rejects.csv").read_text()


def test_a_dataset_is_split_like_its_csv(source: str, tmp_path: Path) -> None:
    base = str(Path(source).parent / "photos")
    ingest(
        Ingest(
            csv=source, image_base_path=base, output_dir=tmp_path / "dataset", image_size=32, rows_per_part=7
        )
    )
    common = {"shuffle": True, "seed": 5, "links": ("image",), "image_size": 32}
    run(Split(data=tmp_path / "dataset", output_dir=tmp_path / "a", **common))
    run(Split(csv=source, image_base_path=base, output_dir=tmp_path / "b", **common))
    for name in ("train", "val"):
        one, two = (dataset.read_pairs(tmp_path / side / name) for side in "ab")
        assert one.equals(two)
    written = (tmp_path / "a" / "train.csv").read_text().splitlines()[1]
    assert written.startswith("/")  # absolute, since no base path was given


def test_an_impossible_split_leaves_nothing_behind(source: str, tmp_path: Path) -> None:
    tied = tmp_path / "tied.csv"
    photos = Path(source).parent / "photos"
    tied.write_text(
        "image_path,text,label\n" + "".join(f"{photos / f'{i}.png'},same words,1\n" for i in range(9))
    )
    with pytest.raises(InputError) as refusal:
        run(Split(csv=str(tied), output_dir=tmp_path / "out", shuffle=True))
    assert refusal.value.code == "empty_split"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tied.csv"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ((0.8,), {"train": 0.8, "val": 0.2}),
        ((0.8, 0.2), {"train": 0.8, "val": 0.2}),
        ((0.8, 0.1), {"train": 0.8, "val": 0.1, "calibration": 0.1}),
        ((0.7, 0.2, 0.1), {"train": 0.7, "val": 0.2, "calibration": 0.1}),
    ],
)
def test_what_is_missing_to_1_is_the_next_share(given: tuple[float, ...], made: dict[str, float]) -> None:
    assert shares(given) == pytest.approx(made)


@pytest.mark.parametrize("given", [(), (1.0,), (0.0, 1.0), (0.8, 0.3), (1.2,), (-0.1, 0.5), (0.4, 0.3, 0.2)])
def test_shares_that_make_no_split_are_refused(given: tuple[float, ...]) -> None:
    with pytest.raises(InputError) as refusal:
        shares(given)
    assert refusal.value.code == "bad_arguments"
