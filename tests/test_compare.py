"""The job `compare`, on the drawn catalogue: a model that knows nothing and its fine-tune, which learned some of it."""

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from torch.nn.functional import binary_cross_entropy_with_logits

from data_jobs import dataset
from data_jobs.errors import InputError
from train_jobs import compare, metrics, scratch
from train_jobs.compare import Compare
from train_jobs.encoder import Encoder
from train_jobs.pairdata import PairData, embed_pictures, score_pairs
from train_jobs.scoring import probability
from train_jobs.spec import Calibration, Estimate, ModelSpec, Threshold

CALIBRATION = Calibration(
    "platt", 8.0, -2.0, (), 100, 0.5, 0.5, 0.05, (0.5,) * 21, (0.1,) * 21, "a fingerprint"
)
THRESHOLD = Threshold(0.3, 0.2, 0.4, "youden", 0.5, Estimate(0.9, 0.8, 1), Estimate(0.9, 0.8, 1))


@pytest.fixture(scope="module")
def pairs_csv(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue's 240 test pairs, and one of a picture that is not there."""
    with (catalogue / "test.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    target = tmp_path_factory.mktemp("compare") / "pairs.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"image_path": str(catalogue / row["image_path"])} for row in rows)
        writer.writerow(rows[0] | {"image_path": str(catalogue / "gone.jpg")})
    return target


@pytest.fixture(scope="module")
def stored(pairs_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs as a dataset directory."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    dataset.from_csv(pairs_csv, folder)
    return folder


@pytest.fixture(scope="module")
def data(stored: Path) -> PairData:
    return PairData.open(stored)


@pytest.fixture(scope="module")
def blank(data: PairData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "blank"
    scratch.build("scratch:tiny-clip", data.texts).save(folder)
    return folder


@pytest.fixture(scope="module")
def tuned(data: PairData, blank: Path) -> Path:
    """`blank` after some steps on these very pairs, with a calibration."""
    encoder = Encoder.load(blank, "cpu")
    pixels = torch.from_numpy(data.decode(range(len(data)), encoder.spec)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data.labels).float()
    optimiser = torch.optim.AdamW(encoder.towers.parameters(), 1e-3)
    torch.manual_seed(0)
    for _ in range(60):
        rows = torch.randperm(len(data))[:60]
        tokens = encoder.padded(encoder.token_ids([data.texts[row] for row in rows]))
        image, text = encoder.towers.image(pixels[rows]), encoder.towers.text(*tokens)
        loss = binary_cross_entropy_with_logits(8 * (image * text).sum(1) - 2, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    threshold = dataclasses.replace(THRESHOLD, value=float(np.quantile(score_pairs(encoder, data), 0.75)))
    encoder.spec = encoder.spec.replace(calibration=CALIBRATION, threshold=threshold)
    encoder.save(blank.with_name("tuned"))
    return blank.with_name("tuned")


@pytest.fixture(scope="module")
def flags(
    ray_cluster: None,
    blank: Path,
    tuned: Path,
    pairs_csv: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Compare:
    return Compare(
        output_dir=tmp_path_factory.mktemp("out") / "comparison",
        model=(str(blank), str(tuned)),
        csv=str(pairs_csv),
        device="cpu",
        rows_per_task=100,
    )


@pytest.fixture(scope="module")
def written(flags: Compare) -> dict[str, Any]:
    """What compare.json of `flags` holds."""
    assert compare.run(flags) == 0
    found: dict[str, Any] = json.loads((flags.output_dir / "compare.json").read_text())
    return found


def test_the_fine_tune_is_better_and_that_is_said(flags: Compare, written: dict[str, Any]) -> None:
    comparison = written["comparisons"][0]
    assert comparison["verdict"] == "better"
    assert comparison["auroc"] == comparison["differences"]["auroc"]
    assert (written["pairs"], written["matches"], written["pictures"]) == (240, 60, 30)
    assert written["left_out"] == {"missing_image": 1}
    assert set(comparison["by_mismatch_kind"]) == {"colour", "kind", "random"}
    assert all(part["pairs"] == 120 for part in comparison["by_mismatch_kind"].values())
    assert written["models"][1]["metrics"]["f1"]["value"] > 0.3
    assert written["flags"]["model"] == list(flags.model)
    assert [model["has_own_threshold"] for model in written["models"]] == [False, True]
    assert written["models"][0]["threshold"] == 0.25
    assert "brier" in written["models"][1]["metrics"]
    assert "brier" not in comparison["differences"]  # the first is not calibrated


def test_each_model_has_the_numbers_that_the_library_gives(
    flags: Compare, written: dict[str, Any], data: PairData
) -> None:
    for name, found in zip(flags.model, written["models"], strict=True):
        encoder = Encoder.load(name, "cpu")
        scores = score_pairs(encoder, data)
        values = {metric: estimate["value"] for metric, estimate in found["metrics"].items()}
        assert values["auroc"] == pytest.approx(metrics.auroc(scores, data.labels), abs=1e-3)
        threshold = 0.25 if encoder.spec.threshold is None else encoder.spec.threshold.value
        at = metrics.at_threshold(scores, data.labels, threshold)
        assert {name: values[name] for name in at} == pytest.approx(at, abs=0.02)
        matches = data.take(np.flatnonzero(data.labels == 1))
        pictures = {picture: row for row, picture in enumerate(matches.picture_ids)}
        texts = {text: row for row, text in enumerate(matches.texts)}
        similarity = embed_pictures(encoder, matches, list(pictures.values())) @ encoder.texts(list(texts)).T
        groups = np.array(matches.text_groups)
        own = groups[list(pictures.values())][:, None] == groups[list(texts.values())]
        for metric, shown, relevant in (
            ("image_to_text_recall@1", similarity, own),
            ("text_to_image_recall@1", similarity.T, own.T),
        ):
            assert values[metric] == pytest.approx(metrics.recall_at_k(shown, relevant, 1), abs=1e-6)


def test_worse_fails_where_that_is_asked_for(
    flags: Compare, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three models: against the first one is worse, one is the same."""
    worse = dataclasses.replace(
        flags,
        output_dir=tmp_path / "worse",
        model=(flags.model[1], flags.model[0], flags.model[1]),
        csv=None,
        data=stored,
        fail_if_worse=True,
    )
    assert compare.run(worse) == 1
    printed = capsys.readouterr().out
    assert "240 pairs, 60 of them matches, of 30 pictures" in printed
    assert "B is worse: AUROC -0." in printed
    assert "C: no difference that 240 pairs of 30 pictures can show" in printed
    assert "Of 2 comparisons" in printed
    assert compare.run(dataclasses.replace(worse, fail_if_worse=False, overwrite=True)) == 0


def test_wise_ft_sweeps_and_saves_the_best(
    flags: Compare,
    written: dict[str, Any],
    data: PairData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = dataclasses.replace(
        flags, output_dir=tmp_path / "sweep", wise_ft=(0.75, 0, 0.9), save_best=tmp_path / "mixed"
    )
    assert compare.run(sweep) == 0
    found = json.loads((tmp_path / "sweep" / "compare.json").read_text())["wise_ft"]
    areas = {row["alpha"]: row["metrics"]["auroc"]["value"] for row in found["alphas"]}
    assert list(areas) == [0, 0.75, 0.9]
    assert areas[0] == written["models"][0]["metrics"]["auroc"]["value"]
    assert found["best_alpha"] == max(areas, key=lambda alpha: areas[alpha]) > 0
    spec = ModelSpec.read(tmp_path / "mixed")
    assert spec is not None and spec.calibration is None and spec.threshold is None
    assert f"* {flags.model[0]} + " in spec.base_model and flags.model[1] in spec.base_model
    again = metrics.auroc(score_pairs(Encoder.load(tmp_path / "mixed", "cpu"), data), data.labels)
    assert again == pytest.approx(areas[found["best_alpha"]], abs=1e-3)
    printed = capsys.readouterr().out
    assert "chosen on these very pairs" in printed
    assert "no calibration or threshold carries over" in printed
    assert "train_jobs.calibrate gives it its own" in printed
    assert f"left out for all models: {{'missing_image': 1}}; see {tmp_path}/sweep/rejects.csv" in printed
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"compare.json", "rejects.csv"}
    with (tmp_path / "sweep" / "rejects.csv").open(encoding="utf-8", newline="") as file:
        assert [row["code"] for row in csv.DictReader(file)] == ["missing_image"]


def test_a_best_that_is_one_of_the_two_stays_calibrated(flags: Compare, tmp_path: Path) -> None:
    compare.run(
        dataclasses.replace(
            flags, output_dir=tmp_path / "sweep", wise_ft=(0, 1), save_best=tmp_path / "mixed"
        )
    )
    assert ModelSpec.read(tmp_path / "mixed") == ModelSpec.read(flags.model[1])


def test_models_stated_for_other_shares_of_matches_are_told_apart(
    flags: Compare, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Encoder.load(flags.model[1], "cpu")
    stated = dataclasses.replace(CALIBRATION, prevalence=0.9, intercept=CALIBRATION.intercept + math.log(9))
    encoder.spec = encoder.spec.replace(calibration=stated)
    encoder.save(tmp_path / "restated")
    models = (flags.model[1], str(tmp_path / "restated"))
    compare.run(dataclasses.replace(flags, output_dir=tmp_path / "out", model=models, csv=None, data=stored))
    assert "do not compare ECE and Brier score" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["models"]
    assert [model["prevalence"] for model in found] == [0.5, 0.9]
    data = PairData.open(stored)
    probabilities = probability(score_pairs(encoder, data), stated)
    weights = np.where(data.labels == 1, 0.9 / 0.25, 0.1 / 0.75)  # a quarter of the pairs match
    brier = np.average((probabilities - data.labels) ** 2, weights=weights)
    assert found[1]["metrics"]["brier"]["value"] == pytest.approx(brier, abs=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_not_waited_for(flags: Compare, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        compare.run(
            dataclasses.replace(flags, output_dir=tmp_path / "out", csv=None, data=stored, device="cuda")
        )
    assert refused.value.code == "no_such_device"


def test_a_model_is_loaded_once_for_all_chunks(blank: Path) -> None:
    subject = compare._Subject(str(blank))
    assert subject.load("one run", "cpu") is subject.load("one run", "cpu")
    assert subject.load("another run", "cpu") is not subject.load("one run", "cpu")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"model": ("one",)}, "bad_arguments", "--model was given 1 times"),
        ({"csv": None}, "bad_arguments", "either --csv or --data"),
        ({"model": ("a", "b", "c"), "wise_ft": (0.5,)}, "bad_arguments", "there are 3"),
        ({"wise_ft": (0.5, 1.5)}, "bad_arguments", "within 0 and 1"),
        ({"save_best": Path("best")}, "bad_arguments", "--wise-ft, which was not given"),
        ({"wise_ft": (0.5,), "save_best": Path("out/best")}, "bad_arguments", "is inside --output-dir"),
        ({"rows_per_task": 0}, "bad_arguments", "--rows-per-task"),
        ({"model": ("./none", "./none")}, "model_not_found", "./none"),
        ({"csv": "out/pairs.csv"}, "input_inside_output", "out/pairs.csv"),
        ({"csv": None, "data": Path("out/data")}, "input_inside_output", "out/data"),
        ({"model": ("a", "out/b")}, "input_inside_output", "out/b"),
        (
            {"wise_ft": (0.5,), "save_best": Path("best"), "model": ("a", "best/b")},
            "input_inside_output",
            "best/b",
        ),
    ],
)
def test_flags_that_cannot_be_are_refused_before_any_work(
    changes: dict[str, Any], code: str, said: str
) -> None:
    config = dataclasses.replace(Compare(Path("out"), model=("a", "b"), csv="no.csv"), **changes)
    with pytest.raises(InputError) as refused:
        compare.run(config)
    assert refused.value.code == code
    assert said in refused.value.message


def test_unlike_models_are_not_mixed(flags: Compare, data: PairData, tmp_path: Path) -> None:
    scratch.build("scratch:resnet", data.texts).save(tmp_path / "resnet")
    with pytest.raises(InputError, match="family: clip and dual"):
        compare.run(
            dataclasses.replace(
                flags,
                output_dir=tmp_path / "out",
                model=(flags.model[0], str(tmp_path / "resnet")),
                wise_ft=(0.5,),
            )
        )
    assert not (tmp_path / "out").exists()


def test_the_model_flag_repeats() -> None:
    arguments = [
        "--model",
        "a",
        "--model",
        "b",
        "--csv",
        "f.csv",
        "--wise-ft",
        "0",
        "0.5",
        "1",
        "--output-dir",
        "out",
    ]
    config = tyro.cli(Compare, args=arguments)
    assert config.model == ("a", "b")
    assert config.wise_ft == (0, 0.5, 1)
