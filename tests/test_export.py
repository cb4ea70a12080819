"""The job export: what it writes is faithful, what is not it refuses, and an earlier export outlives a killed run."""

import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import REPO_ROOT, save_photos
from PIL import Image

from data_jobs.artefacts import sha256
from data_jobs.drawing import describe, draw, random_products
from data_jobs.errors import InputError
from train_jobs import export, metrics, scratch
from train_jobs.backends import FLOAT32, INT8, LEAST_COSINE, MOST_AUROC_LOSS, open_backend
from train_jobs.encoder import Encoder
from train_jobs.export import Export
from train_jobs.openvino_towers import FOLDER, MARKER, Manifest, OpenVinoTowers, convert, quantised

PRODUCTS = random_products(24, seed=5)
TEXTS = [describe(product, language) for product in PRODUCTS for language in ("en", "fa")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: its cosines mean nothing but are its own."""
    folder = tmp_path_factory.mktemp("model") / "model"
    scratch.build("scratch:tiny-clip", TEXTS).save(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photos(PRODUCTS, tmp_path_factory.mktemp("photos"))


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    """A model without an export, to export."""
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def close_calls(model: Path, photos: Path) -> Path:
    """Pairs labelled by which side of the middle float32 puts them on: the 60 nearest to it, so that int8 errs."""
    encoder = Encoder.load(model, "cpu")
    pictures = encoder.images([Image.open(photos / f"{n}.png").convert("RGB") for n in range(len(PRODUCTS))])
    cosines = pictures @ encoder.texts(TEXTS).T
    middle = np.median(cosines)
    nearest = np.argsort(np.abs(cosines - middle), axis=None)[:60]
    places = [(int(place) // len(TEXTS), int(place) % len(TEXTS)) for place in nearest]
    return write(
        photos / "close.csv", [(f"{row}.png", TEXTS[n], int(cosines[row, n] > middle)) for row, n in places]
    )


def write(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image_path", "text", "label"], *rows])
    return path


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


GRAPHS = {"image.xml", "image.bin", "text.xml", "text.bin"}


def test_both_float_precisions_are_written_once(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = export.run(Export(str(copied), threads=(1,)))
    assert contents(copied / FOLDER) == {MARKER} | {f"float32/{name}" for name in GRAPHS}
    assert [path.name for path in copied.iterdir() if path.name.startswith(".")] == []
    encoder = Encoder.load(copied, "cpu")  # which is as good a model as before
    written = json.loads((copied / FOLDER / MARKER).read_text())
    assert written["weights_sha256"] == encoder.spec.weights_sha256
    assert written["measured_on"] == {"pairs": None, "pictures": 4, "texts": 8}
    assert written["versions"]["openvino"] and written["versions"]["torch"] == torch.__version__
    assert "nncf" not in written["versions"]
    assert manifest == Manifest.read(copied / FOLDER)
    assert {"openvino-float32", "openvino-bfloat16", FLOAT32} <= manifest.backends.keys()
    for measured in manifest.backends.values():
        assert measured.passed and measured.fidelity.auroc is None
        assert list(measured.speeds) == [1] and measured.speeds[1].images > 0 and measured.speeds[1].texts > 0
    assert manifest.files == {
        f"float32/{name}": sha256(copied / FOLDER / "float32" / name) for name in GRAPHS
    }
    exact = manifest.backends["openvino-float32"].fidelity
    assert min(exact.image_cosine_min, exact.text_cosine_min) > 1 - 1e-5
    half = manifest.backends["openvino-bfloat16"].fidelity
    assert min(half.image_cosine_min, half.text_cosine_min) >= LEAST_COSINE
    assert "openvino-bfloat16: " in capsys.readouterr().out
    backend = open_backend(copied, "openvino-float32")
    np.testing.assert_allclose(backend.texts(TEXTS), encoder.texts(TEXTS), atol=1e-4)


def test_an_export_elsewhere_leaves_the_model_alone(model: Path, tmp_path: Path) -> None:
    before = contents(model)
    export.run(Export(str(model), ("bfloat16",), output_dir=tmp_path / "out", threads=(1,)))
    assert contents(model) == before
    manifest = Manifest.read(tmp_path / "out")
    assert manifest is not None and not manifest.backends.keys() & {"openvino-float32", INT8}
    assert open_backend(model, "openvino-bfloat16", exported=tmp_path / "out").name == "openvino-bfloat16"
    with pytest.raises(InputError) as refused:
        open_backend(model, "openvino-float32", exported=tmp_path / "out")
    assert refused.value.code == "not_exported"


def test_a_trained_model_passes_in_int8(best_model: Path, catalogue: Path, tmp_path: Path) -> None:
    """The numbers of the manifest are found again by hand, from the files and the backend as it is served."""
    out = tmp_path / "out"
    manifest = export.run(
        Export(str(best_model), csv=str(catalogue / "test.csv"), output_dir=out, threads=(1,))
    )
    assert contents(out) == {MARKER} | {f"{kind}/{name}" for kind in ("float32", "int8") for name in GRAPHS}
    assert sum(path.stat().st_size for path in (out / "int8").iterdir()) < 0.6 * sum(
        path.stat().st_size for path in (out / "float32").iterdir()
    )
    encoder, backend = Encoder.load(best_model, "cpu"), open_backend(best_model, INT8, exported=out)
    with (catalogue / "test.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    pixels = np.stack(
        [encoder.pixels(Image.open(catalogue / row["image_path"]).convert("RGB")) for row in rows]
    )
    labels, texts = np.array([int(row["label"]) for row in rows]), [row["text"] for row in rows]
    before = (encoder.images(pixels) * encoder.texts(texts)).sum(axis=1)
    after = (backend.images(pixels) * backend.texts(texts)).sum(axis=1)
    found = manifest.backends[INT8].fidelity
    assert manifest.backends[INT8].passed
    assert found.auroc_float32 == pytest.approx(metrics.auroc(before, labels), abs=2e-3)  # stored as JPEG
    assert found.auroc == pytest.approx(metrics.auroc(after, labels), abs=2e-3)
    assert found.auroc is not None and found.auroc > 0.7
    assert found.auroc_loss == pytest.approx(found.auroc_float32 - found.auroc)
    assert found.auroc_loss <= MOST_AUROC_LOSS
    assert found.largest_score_shift == pytest.approx(np.abs(after - before).max(), rel=0.5)
    assert 0 < found.largest_score_shift < 0.2
    assert manifest.measured_on["matches"] == labels.sum()
    assert encoder.spec.threshold is not None
    assert manifest.measured_on["threshold"] == encoder.spec.threshold.value
    flips = (before >= encoder.spec.threshold.value) != (after >= encoder.spec.threshold.value)
    assert found.verdicts_changed == pytest.approx(flips.sum(), abs=3)
    assert manifest.versions["nncf"]
    assert len(pixels) != backend.batch_size and backend.images(pixels).shape == (
        len(pixels),
        encoder.spec.embedding_dim,
    )


def test_int8_that_loses_too_much_is_neither_written_nor_chosen(copied: Path, close_calls: Path) -> None:
    config = Export(str(copied), csv=str(close_calls), threads=(1,))
    with pytest.raises(InputError) as refused:
        export.run(config)
    assert refused.value.code == "gate_failed"
    assert contents(copied / FOLDER) == {MARKER} | {f"float32/{name}" for name in GRAPHS}
    manifest = Manifest.read(copied / FOLDER)
    assert manifest is not None
    measured = manifest.backends[INT8]
    assert not measured.passed
    assert measured.fidelity.auroc_loss is not None and measured.fidelity.auroc_loss > MOST_AUROC_LOSS
    assert f"the AUROC falls by {measured.fidelity.auroc_loss:.4f}" in refused.value.message
    assert "may fall by 0.005" in refused.value.message
    assert f"Written: float32, bfloat16 in {copied / FOLDER}" in refused.value.message
    # However fast it was, nobody gets it.
    fast = {threads: dataclasses.replace(speed, images=1e9) for threads, speed in measured.speeds.items()}
    changed = manifest.backends | {INT8: dataclasses.replace(measured, speeds=fast)}
    (copied / FOLDER / MARKER).write_text(dataclasses.replace(manifest, backends=changed).to_json())
    assert open_backend(copied, device="cpu").name != INT8
    with pytest.raises(InputError) as by_name:
        open_backend(copied, INT8)
    assert by_name.value.code == "gate_failed"


def test_where_nothing_passes_the_earlier_export_stays(copied: Path, close_calls: Path) -> None:
    export.run(Export(str(copied), ("float32",), threads=(1,)))
    before = {name: (copied / FOLDER / name).read_bytes() for name in contents(copied / FOLDER)}
    command = [sys.executable, "-m", "train_jobs.export", "--model", str(copied), "--precision", "int8"]
    done = subprocess.run(
        [*command, "--csv", str(close_calls), "--threads", "1", "--overwrite"],
        cwd=REPO_ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "error (gate_failed): Refused, measured on" in done.stderr
    assert "Written: nothing" in done.stderr and "Serve another precision" in done.stderr
    assert "Traceback" not in done.stderr
    assert {name: (copied / FOLDER / name).read_bytes() for name in contents(copied / FOLDER)} == before
    assert [path.name for path in copied.iterdir() if path.name.startswith(".")] == []


def test_a_killed_run_leaves_the_earlier_export_whole(copied: Path) -> None:
    export.run(Export(str(copied), ("float32",), threads=(1,)))
    before = {name: (copied / FOLDER / name).read_bytes() for name in contents(copied / FOLDER)}
    running = subprocess.Popen(
        [sys.executable, "-m", "train_jobs.export", "--model", str(copied), "--threads", "1", "--overwrite"],
        cwd=REPO_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not list(copied.glob(f".{FOLDER}.writing-*/float32/text.xml")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert {name: (copied / FOLDER / name).read_bytes() for name in contents(copied / FOLDER)} == before
    assert open_backend(copied, "openvino-float32").name == "openvino-float32"
    export.run(Export(str(copied), threads=(1,), overwrite=True))
    assert open_backend(copied, "openvino-bfloat16").name == "openvino-bfloat16"


@pytest.mark.parametrize("kind", ["siglip", "dual"])
def test_other_families_are_quantised_too(kind: str, tmp_path: Path) -> None:
    encoder = tiny.encoder(kind)
    side = encoder.spec.image_size
    pixels = np.stack([np.asarray(draw(product, side)) for product in PRODUCTS])
    texts = [tiny.words(thing) for thing in range(40)]
    ids = encoder.token_ids(texts)
    quantised(convert(encoder), pixels, ids, encoder.tokens).save(tmp_path / "int8")
    towers = OpenVinoTowers(tmp_path, "int8", 1)
    rows, words = towers.image(pixels), towers.text(*encoder.tokens.padded(ids))
    images, named = encoder.images(pixels), encoder.texts(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)
    assert (rows * images).sum(axis=1).mean() > 0.98
    assert (words * named).sum(axis=1).mean() > 0.98
    assert not np.allclose(rows, images, atol=1e-5)  # it is another arithmetic
    assert not np.allclose(words, named, atol=1e-5)


def test_threads_are_given_back(copied: Path) -> None:
    before = torch.get_num_threads()
    manifest = export.run(Export(str(copied), ("float32",), threads=(2, 1)))
    assert torch.get_num_threads() == before
    assert list(manifest.backends[FLOAT32].speeds) == [1, 2]


def test_what_cannot_be_exported_leaves_nothing(model: Path, photos: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few.csv", [(f"{photos}/{n}.png", TEXTS[n], n % 2) for n in range(12)])
    mismatches = write(tmp_path / "none.csv", [(f"{photos}/{n}.png", TEXTS[n], 0) for n in range(12)])
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "work").write_text("somebody's")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": ("int8",)}, "pairs_needed"),
        ({"precision": ("float32", "int8")}, "pairs_needed"),
        ({"batch_size": 0}, "bad_arguments"),
        ({"threads": (1, 0)}, "bad_arguments"),
        ({"csv": str(few)}, "too_few_pairs"),
        ({"csv": str(mismatches)}, "too_few_pairs"),
        ({"csv": str(tmp_path / "absent.csv")}, "missing_source"),
        ({"model": "./nowhere"}, "model_not_found"),
        ({"output_dir": tmp_path / "other"}, "not_an_artefact"),
        ({"csv": str(out / "pairs.csv")}, "input_inside_output"),
    ]
    for values, code in cases:
        with pytest.raises(InputError) as refused:
            export.run(dataclasses.replace(Export(str(model), output_dir=out), **values))
        assert refused.value.code == code
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert contents(tmp_path / "other") == {"work"}


def test_an_earlier_export_is_replaced_only_if_told(copied: Path) -> None:
    export.run(Export(str(copied), ("float32",), threads=(1,)))
    with pytest.raises(InputError) as refused:
        export.run(Export(str(copied), ("float32",), threads=(1,)))
    assert refused.value.code == "output_exists"


def test_broken_weights_are_named(model: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(model, "cpu")
    with torch.no_grad():
        encoder.towers.model.visual_projection.weight[0, 0] = float("nan")
    encoder.save(tmp_path / "broken")
    with pytest.raises(InputError) as refused:
        export.run(Export(str(tmp_path / "broken"), threads=(1,)))
    assert refused.value.code == "not_finite"
    assert not (tmp_path / "broken" / FOLDER).exists()


@pytest.mark.parametrize(("package", "precision"), [("openvino", "float32"), ("nncf", "int8")])
def test_a_missing_package_is_named(
    copied: Path, close_calls: Path, monkeypatch: pytest.MonkeyPatch, package: str, precision: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as refused:
        export.run(Export(str(copied), (precision,), csv=str(close_calls), threads=(1,)))
    assert refused.value.code == "backend_missing"
    assert f"The package {package} is not installed" in refused.value.message
    assert not (copied / FOLDER).exists()


def test_calibration_takes_some_of_everything() -> None:
    assert export._spread([3, 5, 9]) == [3, 5, 9]
    some = export._spread(list(range(1000)))
    assert len(some) == len(set(some)) == export.CALIBRATED_ON
    assert (some[0], some[-1]) == (0, 999)
    assert max(np.diff(some)) <= 4
