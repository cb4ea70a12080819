"""The job evaluate: exact however the work is cut, and honest about what it left out."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_photos
from handmade import dataset, pair
from PIL import Image

from data_jobs import dataset as datasets
from data_jobs import images
from data_jobs.drawing import describe, draw, random_products
from data_jobs.errors import InputError
from train_jobs import evaluate, scratch
from train_jobs.encoder import Encoder
from train_jobs.evaluate import Evaluate
from train_jobs.spec import Calibration, Estimate, Threshold

PRODUCTS = random_products(13, seed=4)
TEXTS = [describe(product) for product in PRODUCTS[:11]] + ["ماگ قرمز", "كيك"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: its cosines mean nothing but are its own."""
    folder = tmp_path_factory.mktemp("model") / "model"
    scratch.build("scratch:tiny-clip", TEXTS).save(folder)
    return folder


def _jpeg(product: int) -> bytes:
    out = io.BytesIO()
    draw(PRODUCTS[product], 64).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 39 pairs of 13 pictures in four parts: a match and two mismatches each, repeated across parts."""
    rows = []
    for n in range(39):
        picture, shift = n % 13, n // 13
        values: dict[str, Any] = {"category": ["mug", "hat"][picture % 2]}
        if shift:
            values["mismatch_kind"] = ["near", "far"][shift - 1]
        if picture == 12:
            values["category"] = "only matches" if not shift else "only mismatches"
        rows.append(
            pair(
                f"p{n:02}",
                image=_jpeg(picture),
                image_sha256=f"sha {picture}",
                text=TEXTS[(picture + 4 * shift) % 13],
                label=int(shift == 0),
                image_group=f"product {picture}" if shift == 0 else None,
                text_group=f"product {(picture + 4 * shift) % 13}",
                metadata=json.dumps(values),
            )
        )
    folder = dataset(tmp_path_factory.mktemp("data") / "pairs", rows, parts=4)
    (folder / datasets.MARKER).write_text(
        json.dumps({"format_version": datasets.FORMAT_VERSION, "fingerprint": "f", "pairs": {"rejected": 5}})
    )
    return folder


@pytest.fixture(scope="module")
def out(ray_cluster: None, model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of `pairs` by `model`."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate.run(Evaluate(folder, str(model), data=pairs, device="cpu"))
    return folder


def _scores(folder: Path) -> dict[str, float]:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return {row["pair_id"]: float(row["score"]) for row in csv.DictReader(stream)}


def test_scores_are_the_encoders_own(out: Path, model: Path, pairs: Path) -> None:
    encoder = Encoder.load(model, "cpu")
    table = datasets.read_pairs(pairs).to_pylist()
    pictures = encoder.images([images.decode(row["image"]) for row in table])
    cosines = (pictures * encoder.texts([row["text"] for row in table])).sum(axis=1)
    found = _scores(out)
    assert list(found) == sorted(found, key=lambda pair_id: found[pair_id])
    np.testing.assert_allclose([found[row["pair_id"]] for row in table], cosines, atol=1e-5)


@pytest.mark.parametrize("rows_per_task", [1, 5])
def test_the_result_does_not_depend_on_how_the_work_is_cut(
    ray_cluster: None, out: Path, model: Path, pairs: Path, tmp_path: Path, rows_per_task: int
) -> None:
    """13 pictures and 13 texts in four parts leave odd remainders of every size."""
    config = Evaluate(tmp_path / "cut", str(model), data=pairs, device="cpu", rows_per_task=rows_per_task)
    found = evaluate.run(config)
    whole = json.loads((out / "metrics.json").read_text())
    one, other = _scores(out), _scores(tmp_path / "cut")
    assert one.keys() == other.keys()
    np.testing.assert_allclose([other[key] for key in one], list(one.values()), atol=1e-6)
    for name in ("n", "n_match", "n_pictures", "n_texts", "confusion", "auroc", "retrieval", "zero_shot"):
        assert found[name] == whole[name]


def test_the_numbers_are_written_as_json(out: Path) -> None:
    found = json.loads((out / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (found["n"], found["n_match"], found["n_pictures"], found["n_texts"]) == (39, 13, 13, 13)
    assert found["threshold"] == 0.25 and found["threshold_from"] == "default"
    low, high = found["intervals"]["auroc"]
    assert low <= found["auroc"] <= high
    assert {kind: part["n_mismatch"] for kind, part in found["by_mismatch_kind"].items()} == {
        "far": 13,
        "near": 13,
    }
    assert found["by_category"]["mug"]["n"] == found["by_category"]["hat"]["n"] == 18
    assert found["by_category"]["only matches"]["auroc"] is None
    low, high = found["by_category"]["mug"]["intervals"]["accuracy"]
    assert low <= found["by_category"]["mug"]["accuracy"] <= high
    assert found["zero_shot"]["n_classes"] == found["retrieval"]["n_texts"] == 13
    assert found["zero_shot"]["top1"] == found["retrieval"]["image_to_text_recall@1"]
    assert found["zero_shot"]["chance_top1"] == pytest.approx(1 / 13)
    assert (found["warnings"], found["n_rejected"]) == ([], 0)
    assert json.loads((out / "run.json").read_text())["rows_per_task"] == 256
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "report.html",
        "run.json",
        "scores.csv",
    }


def test_scores_csv_has_categories_and_verdicts(out: Path) -> None:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["category"] for row in rows} == {"mug", "hat", "only matches", "only mismatches"}
    assert all((row["is_mismatch"] == "True") == (float(row["score"]) < 0.25) for row in rows)
    assert "match_probability" not in rows[0]


def test_the_report_shows_the_worst(
    ray_cluster: None, model: Path, pairs: Path, out: Path, tmp_path: Path
) -> None:
    scores = _scores(out)
    middle = float(np.median(list(scores.values())))
    evaluate.run(Evaluate(tmp_path / "out", str(model), data=pairs, device="cpu", threshold=middle))
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    rows = {row["pair_id"]: row for row in datasets.read_pairs(pairs, ["label", "text"]).to_pylist()}
    false = max((p for p in rows if rows[p]["label"] == 0), key=lambda p: scores[p])
    missed = min((p for p in rows if rows[p]["label"] == 1), key=lambda p: scores[p])
    start, end = html.index('id="false"'), html.index('id="missed"')
    assert html.index(f"photos/{false}.jpg", start) == min(
        html.index(f"photos/{p}.jpg", start) for p in rows if f"photos/{p}.jpg" in html[start:end]
    )
    assert f"photos/{missed}.jpg" in html[end:]
    assert html.count("data:image/jpeg;base64,") >= 2


def test_rows_that_cannot_be_used_are_counted_and_named(
    ray_cluster: None, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(PRODUCTS, tmp_path)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    lines = [f"{n}.png,{TEXTS[m].replace(',', ' ')},{int(n == m)}" for n in range(4) for m in range(2, 5)]
    lines += ["broken.png,a mug,1", "absent.png,a mug,0", "0.png,,1"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image_path,text,label", *lines]) + "\n")
    found = evaluate.run(
        Evaluate(tmp_path / "out", str(model), csv=str(tmp_path / "pairs.csv"), device="cpu", rows_per_task=3)
    )
    assert (found["n"], found["n_rejected"]) == (12, 3)
    said = capsys.readouterr().out
    assert f"rows left out: 3, listed in {tmp_path}/out/rejects.csv" in said
    assert f"truncated_image, 1: {tmp_path}/pairs.csv:14: " in said
    assert f"missing_image, 1: {tmp_path}/pairs.csv:15: " in said
    with (tmp_path / "out" / "rejects.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["line"] for row in csv.DictReader(stream)} == {"14", "15", "16"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json", "rejects.csv", "report.html", "run.json", "scores.csv"
    ]  # fmt: skip
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    encoder = Encoder.load(model, "cpu")
    picture = encoder.images([Image.open(tmp_path / "0.png").convert("RGB")])
    best = max(float(picture[0] @ encoder.texts([line.split(",")[1]])[0]) for line in lines[:3])
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", newline="") as stream:
        of_first = [
            float(row["score"]) for row in csv.DictReader(stream) if row["image_path"].endswith("/0.png")
        ]
    assert max(of_first) == pytest.approx(best, abs=0.05)  # the dataset's pictures are JPEG


def _calibrated(model: Path, folder: Path, scores: dict[int, list[float]], shift: float) -> Path:
    """The model, calibrated where all cosines were `shift` higher: a third of the pairs match, whatever the cosine."""
    encoder = Encoder.load(model, "cpu")
    share = np.linspace(0, 1, 21)
    encoder.spec = encoder.spec.replace(
        calibration=Calibration(
            method="platt",
            slope=1e-3,
            intercept=float(np.log(0.5)),
            knots=(),
            pairs=390,
            sample_prevalence=1 / 3,
            prevalence=1 / 3,
            ece=0.01,
            match_quantiles=tuple((np.quantile(scores[1], share) + shift).tolist()),
            mismatch_quantiles=tuple((np.quantile(scores[0], share) + shift).tolist()),
            data_fingerprint=None,
        ),
        threshold=Threshold(
            0.1, 0.05, 0.15, "precision=0.95", 1 / 3, Estimate(0.95, 0.9, 0.99), Estimate(0.5, 0.4, 0.6)
        ),
    )
    encoder.save(folder)
    return folder


@pytest.mark.parametrize("holds", [True, False])
def test_a_calibration_that_no_longer_holds_is_warned_of(
    ray_cluster: None,
    model: Path,
    pairs: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    holds: bool,
) -> None:
    scores = _scores(out)
    rows = datasets.read_pairs(pairs, ["label"]).to_pylist()
    by_label = {label: [scores[row["pair_id"]] for row in rows if row["label"] == label] for label in (0, 1)}
    calibrated = _calibrated(model, tmp_path / "model", by_label, 0.0 if holds else 0.5)
    found = evaluate.run(Evaluate(tmp_path / "out", str(calibrated), data=pairs, device="cpu"))
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (found["threshold"], found["threshold_from"]) == (0.1, "model")
    assert found["ece"] == pytest.approx(0.0, abs=0.01)
    assert ("WARNING: The cosines of the 13 matches are spread otherwise" in said) is not holds
    assert bool(found["warnings"]) is not holds
    assert ("are spread otherwise than" in page) is not holds
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", newline="") as stream:
        said_of = [float(row["match_probability"]) for row in csv.DictReader(stream)]
    assert said_of == pytest.approx([1 / 3] * 39, abs=1e-3)


def test_a_model_without_calibration_says_so(
    ray_cluster: None, model: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "classes.txt").write_text("mug\nhat\nsofa\n")
    found = evaluate.run(
        Evaluate(
            tmp_path / "out",
            str(model),
            data=pairs,
            device="cpu",
            threshold=0.3,
            classes=tmp_path / "classes.txt",
        )
    )
    said = capsys.readouterr().out
    assert "The model was never calibrated" in said
    assert "threshold 0.3000, as given" in said
    assert (
        f"12 pictures, 3 classes: {tmp_path}/classes.txt; 1 have no class among them" in said
    )  # "only matches"
    assert found["zero_shot"]["chance_top1"] == pytest.approx(1 / 3)
    assert found["zero_shot"]["top5"] == 1.0


def test_what_cannot_be_evaluated_leaves_nothing(
    ray_cluster: None, model: Path, pairs: Path, out: Path, tmp_path: Path
) -> None:
    matches = dataset(tmp_path / "matches", [pair(f"p{n}") for n in range(3)])
    (matches / datasets.MARKER).write_text(
        json.dumps({"format_version": datasets.FORMAT_VERSION, "fingerprint": "f", "pairs": {"rejected": 0}})
    )
    save_photos(PRODUCTS[:1], tmp_path)
    (tmp_path / "one.csv").write_text("image_path,text,label\n0.png,a mug,1\n")
    target = tmp_path / "out"
    before = (out / "metrics.json").read_bytes()
    for config, code in (
        (Evaluate(target, str(model)), "bad_arguments"),
        (Evaluate(target, str(model), data=pairs, csv=str(tmp_path / "one.csv")), "bad_arguments"),
        (Evaluate(target, str(model), data=pairs, rows_per_task=0), "bad_arguments"),
        (Evaluate(target, str(model), data=matches, device="cpu"), "one_label"),
        (Evaluate(target, str(model), csv=str(tmp_path / "one.csv"), device="cpu"), "one_label"),
        (Evaluate(target, str(model), data=tmp_path, device="cpu"), "not_a_dataset"),
        (Evaluate(target, "./nowhere", data=pairs), "model_not_found"),
        (Evaluate(target, str(model), data=pairs, threshold=80), "bad_arguments"),
        (Evaluate(target, str(model), data=pairs, threshold=float("nan")), "bad_arguments"),
        (Evaluate(target, str(model), data=tmp_path, classes=tmp_path / "absent.txt"), "missing_source"),
        (Evaluate(out, str(model), data=pairs), "output_exists"),
    ):
        with pytest.raises(InputError) as refusal:
            evaluate.run(config)
        assert refusal.value.code == code
        assert not target.exists()
    assert (out / "metrics.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_inputs_inside_the_output_are_not_replaced_by_it(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.json").write_text("{}")
    inputs: tuple[dict[str, Any], ...] = (
        {"csv": str(out / "pairs.csv")},
        {"csv": "pairs.csv", "image_base_path": str(out / "photos")},
        {"data": out / "data"},
        {"csv": "pairs.csv", "classes": out / "classes.txt"},
        {"csv": "pairs.csv", "model": str(out / "model")},
    )
    for values in inputs:
        with pytest.raises(InputError) as refusal:
            evaluate.run(Evaluate(out, overwrite=True, **({"model": str(model)} | values)))
        assert refusal.value.code == "input_inside_output"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_not_waited_for(
    ray_cluster: None, model: Path, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refusal:
        evaluate.run(Evaluate(tmp_path / "out", str(model), data=pairs, device="cuda"))
    assert refusal.value.code == "no_such_device"


def test_broken_weights_are_named(ray_cluster: None, model: Path, pairs: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(model, "cpu")
    with torch.no_grad():
        encoder.towers.model.visual_projection.weight[0, 0] = float("nan")
    encoder.save(tmp_path / "broken")
    with pytest.raises(InputError) as refusal:
        evaluate.run(Evaluate(tmp_path / "out", str(tmp_path / "broken"), data=pairs, device="cpu"))
    assert refusal.value.code == "not_finite"
    assert "13 of 13 embeddings" in refusal.value.message
    assert not (tmp_path / "out").exists()


def test_pairs_that_the_model_knows_are_warned_of(
    ray_cluster: None, model: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder.load(model, "cpu")
    encoder.spec = encoder.spec.replace(data_fingerprint="f")
    encoder.save(tmp_path / "model")
    config = Evaluate(tmp_path / "out", str(tmp_path / "model"), data=pairs, device="cpu")
    (warning,) = evaluate.run(config)["warnings"]
    assert "the pairs that the model was trained on" in warning
    assert f"WARNING: {warning}" in capsys.readouterr().out
    assert warning in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_pairs_of_the_calibration_are_known_too(model: Path, tmp_path: Path) -> None:
    spec = Encoder.load(_calibrated(model, tmp_path / "model", {0: [0.1], 1: [0.2]}, 0.0), "cpu").spec
    assert spec.calibration is not None
    same = spec.replace(calibration=dataclasses.replace(spec.calibration, data_fingerprint="f"))
    (warning,) = evaluate._seen_before("f", same)
    assert "the pairs that the model was calibrated on" in warning
    assert evaluate._seen_before("g", same) == []


def test_only_wanted_pictures_are_read_and_in_order(pairs: Path) -> None:
    file = min((pairs / "pairs").glob("*.parquet"))
    everything = list(evaluate._stored(file, range(10)))
    assert list(evaluate._stored(file, [1, 4, 9])) == [everything[row] for row in (1, 4, 9)]
    assert list(evaluate._stored(file, [])) == []


def test_pictures_are_cut_by_file_and_size() -> None:
    one, two = Path("1"), Path("2")
    places = [(one, 0), (one, 2), (one, 5), (two, 0), (two, 1)]
    assert list(evaluate._by_file(places, 2)) == [(one, [0, 2]), (one, [5]), (two, [0, 1])]
