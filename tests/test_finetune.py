"""A real Ray Train run of two workers, from CSV files to a calibrated model on disk."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPModel

from data_jobs.errors import InputError
from train_jobs import evaluate, finetune
from train_jobs.encoder import Encoder
from train_jobs.evaluate import Evaluate
from train_jobs.finetune import Finetune
from train_jobs.spec import ModelSpec


def test_it_learns_and_says_so(trained: Path) -> None:
    history = json.loads((trained / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == list(range(1, 9))
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert max(epoch["val_auroc"] for epoch in history) > 0.75
    with Image.open(trained / "training_curve.png") as curve:
        curve.load()
        assert curve.width > 400
    assert json.loads((trained / "run.json").read_text())["model_name"] == "scratch:tiny-clip"


@pytest.mark.parametrize("name", ["best_model", "final_model"])
def test_models_carry_their_facts_and_load_in_plain_transformers(trained: Path, name: str) -> None:
    spec = ModelSpec.read(trained / name)
    assert spec is not None
    assert spec.base_model == "scratch:tiny-clip"
    assert spec.calibration is not None
    assert spec.threshold is not None
    assert spec.threshold.low <= spec.threshold.value <= spec.threshold.high
    assert spec.data_fingerprint
    model = CLIPModel.from_pretrained(trained / name)
    assert float(model.logit_scale.detach().exp()) == pytest.approx(spec.logit_scale, rel=1e-5)


def test_best_model_is_the_best_epoch(trained: Path) -> None:
    history = json.loads((trained / "history.json").read_text())
    spec = ModelSpec.read(trained / "best_model")
    assert spec is not None
    assert spec.metrics["best_val_auroc"] == max(epoch["val_auroc"] for epoch in history)


def test_evaluate_writes_metrics_by_kind_of_mismatch(
    best_model: Path, catalogue: Path, tmp_path: Path
) -> None:
    found = evaluate.run(
        Evaluate(model=str(best_model), csv=catalogue / "test.csv", output_dir=tmp_path / "out")
    )
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written == json.loads(json.dumps(found))
    wanted = {"auroc", "average_precision", "accuracy", "precision", "recall", "f1", "threshold", "n"}
    assert wanted <= written.keys()
    assert written["n"] == 240  # 30 products, two languages, one match and three mismatches each
    assert set(written["by_mismatch_kind"]) == {"colour", "kind", "random"}
    assert written["auroc"] > 0.7
    scores = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert len(scores) == 241


def test_pairs_loss_lowers_the_loss_and_learns_scale_and_bias(
    ray_cluster: None, catalogue: Path, best_model: Path, tmp_path: Path
) -> None:
    """`--loss pairs` on labelled matches and mismatches, going on from an earlier output of ours."""
    finetune.run(
        Finetune(
            train_csv=catalogue / "val.csv",
            val_csv=catalogue / "test.csv",
            model_name=str(best_model),
            loss="pairs",
            epochs=3,
            batch_size=32,
            learning_rate=1e-3,
            cpus_per_worker=1,
            output_dir=tmp_path / "pairs",
        )
    )
    history = json.loads((tmp_path / "pairs" / "history.json").read_text())
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    before, after = ModelSpec.read(best_model), ModelSpec.read(tmp_path / "pairs" / "final_model")
    assert before is not None
    assert after is not None
    assert after.logit_bias != before.logit_bias
    assert after.base_model == str(best_model)


def test_an_error_in_a_worker_reaches_the_caller_as_itself(
    ray_cluster: None, catalogue: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="The loss is nan") as raised:
        finetune.run(
            Finetune(
                train_csv=catalogue / "val.csv",
                val_csv=catalogue / "test.csv",
                model_name="scratch:tiny-clip",
                learning_rate=float("inf"),
                num_workers=2,
                cpus_per_worker=1,
                output_dir=tmp_path / "out",
            )
        )
    assert raised.value.code == "diverged"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"train_csv": Path("nowhere.csv")}, "missing_source"),
        ({"train_csv": None}, "bad_arguments"),
        ({"calibration_data": Path("nowhere")}, "not_a_dataset"),
        ({"model_name": "scratch:huge"}, "unknown_recipe"),
        ({"model_name": "./nowhere"}, "model_not_found"),
        ({"batch_size": 33, "num_workers": 2}, "batch_not_divisible"),
        ({"epochs": 0}, "bad_arguments"),
    ],
)
def test_a_wrong_flag_costs_no_earlier_model(
    trained: Path, catalogue: Path, changes: dict[str, Any], code: str
) -> None:
    right = Finetune(
        train_csv=catalogue / "train.csv",
        val_csv=catalogue / "val.csv",
        model_name="scratch:tiny-clip",
        output_dir=trained,
        overwrite=True,
    )
    with pytest.raises(InputError) as raised:
        finetune.run(dataclasses.replace(right, **changes))
    assert raised.value.code == code
    assert (trained / "best_model" / "spec.json").is_file()


def test_training_further_into_the_same_place_is_refused(trained: Path, catalogue: Path) -> None:
    with pytest.raises(InputError) as raised:
        finetune.run(
            Finetune(
                train_csv=catalogue / "train.csv",
                val_csv=catalogue / "val.csv",
                model_name=str(trained / "best_model"),
                output_dir=trained,
                overwrite=True,
            )
        )
    assert raised.value.code == "input_inside_output"
    assert (trained / "best_model" / "spec.json").is_file()


def test_a_run_that_fails_gives_the_earlier_one_back(
    ray_cluster: None, catalogue: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "run.json").write_text("{}")
    (output / "precious").write_text("weights")
    one = catalogue / "one.csv"
    one.write_text("image_path,text,label\nimages/p00001.jpg,A bottle.,1\n")
    with pytest.raises(InputError):
        finetune.run(
            Finetune(
                train_csv=one, val_csv=one, model_name="scratch:tiny-clip", output_dir=output, overwrite=True
            )
        )
    assert (output / "precious").read_text() == "weights"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_earlier_run_is_not_overwritten_unasked(trained: Path, catalogue: Path) -> None:
    with pytest.raises(InputError, match="--overwrite"):
        finetune.run(Finetune(train_data=catalogue, val_data=catalogue, output_dir=trained))
    assert (trained / "best_model" / "spec.json").is_file()


def test_probabilities_are_calibrated_cosines(best_model: Path, catalogue: Path) -> None:
    encoder = Encoder.load(best_model)
    with Image.open(catalogue / "images" / "p00001.jpg") as image:
        picture = encoder.images([image.convert("RGB")])
    assert np.linalg.norm(picture) == pytest.approx(1, abs=1e-5)
