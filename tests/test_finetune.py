"""A real Ray Train run of two workers, from CSV files to a calibrated model on disk."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from transformers import CLIPModel

from data_jobs.errors import InputError
from train_jobs import calibrate, evaluate, finetune
from train_jobs.augment import Augmentation
from train_jobs.calibrate import Calibrate
from train_jobs.encoder import Encoder
from train_jobs.evaluate import Evaluate
from train_jobs.finetune import Finetune
from train_jobs.index import Index
from train_jobs.spec import ModelSpec


def test_it_learns_and_says_so(trained: Path) -> None:
    history = json.loads((trained / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == list(range(1, 13))
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


def test_best_model_is_the_epoch_that_the_matches_find_best(trained: Path) -> None:
    """Contrastive training is judged by recall@1: the last epoch that is a query worse than the best at most."""
    history = json.loads((trained / "history.json").read_text())
    best = next(epoch for epoch in reversed(history) if epoch["best"])
    recalls = [epoch["val_recall"] for epoch in history]
    assert best["val_recall"] >= max(recalls) - 0.05
    assert best["epoch"] > int(np.argmax(recalls))
    spec = ModelSpec.read(trained / "best_model")
    assert spec is not None
    assert spec.logit_scale == pytest.approx(best["logit_scale"], rel=1e-5)


def test_the_run_is_recorded_beside_the_models(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    for name in ("best_model", "final_model"):
        facts = summary[name]
        assert facts["auroc"] > facts["auroc_before_training"] + 0.1
        assert "the trained model is better" in facts["against_start"] and not facts["warnings"]
        assert 0 < facts["threshold"]["precision"]["low"] <= facts["threshold"]["precision"]["high"] <= 1
        assert facts["ece"] < 0.2
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    assert not (trained / "checkpoints").exists() and not (trained / "initial_model").exists()


def test_evaluate_writes_metrics_by_kind_of_mismatch(
    best_model: Path, catalogue: Path, tmp_path: Path
) -> None:
    found = evaluate.run(
        Evaluate(model=str(best_model), csv=str(catalogue / "test.csv"), output_dir=tmp_path / "out")
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
            train_csv=str(catalogue / "val.csv"),
            val_csv=str(catalogue / "test.csv"),
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
    assert before.logit_bias == 0 and after.logit_bias < -1
    assert [epoch["best"] for epoch in history] == [
        float(epoch["val_auroc"] > max([e["val_auroc"] for e in history[:i]], default=0))
        for i, epoch in enumerate(history)
    ]
    assert after.base_model == str(best_model)


def test_an_error_in_a_worker_reaches_the_caller_as_itself(
    ray_cluster: None, catalogue: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="The loss is") as raised:
        finetune.run(
            Finetune(
                train_csv=str(catalogue / "val.csv"),
                val_csv=str(catalogue / "test.csv"),
                model_name="scratch:tiny-clip",
                learning_rate=float("inf"),
                num_workers=2,
                cpus_per_worker=1,
                output_dir=tmp_path / "out",
            )
        )
    assert raised.value.code == "diverged"


def test_the_older_systems_flags_work() -> None:
    older = (
        "--train-csv train.csv --val-csv val.csv --image-base-path photos --epochs 3 --batch-size 16 "
        "--learning-rate 5e-6 --model-name openai/clip-vit-base-patch32 --output-dir out --save-all-checkpoints "
        "--device cpu"
    )
    shorter = (
        "--train-csv train.csv --val-csv val.csv --root-dir photos --epochs 3 --batch-size 16 --lr 5e-6 "
        "--model openai/clip-vit-base-patch32 --output out --save-all-checkpoints --device cpu --save-steps 100"
    )
    first, second = (tyro.cli(Finetune, args=flags.split()) for flags in (older, shorter))
    assert second == dataclasses.replace(first, save_steps=100)
    assert (first.learning_rate, first.output_dir, first.image_base_path) == (5e-6, Path("out"), "photos")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"train_csv": "nowhere.csv"}, "missing_source"),
        ({"train_csv": None}, "bad_arguments"),
        ({"calibration_data": Path("nowhere")}, "not_a_dataset"),
        ({"model_name": "scratch:huge"}, "unknown_recipe"),
        ({"model_name": "./nowhere"}, "model_not_found"),
        ({"batch_size": 33, "num_workers": 2}, "batch_not_divisible"),
        ({"epochs": 0}, "bad_arguments"),
        ({"batch_size": 32, "num_workers": 3, "min_workers": 2}, "batch_not_divisible"),
        ({"batch_size": 32, "accumulate": 3}, "batch_not_divisible"),
        ({"num_workers": 2, "min_workers": 3}, "bad_arguments"),
        ({"policy": "precision=1.5"}, "bad_policy"),
        ({"vision_model": "scratch:tiny-clip"}, "bad_arguments"),
        ({"resume": True, "overwrite": False}, "output_exists"),
        ({"gradient_clip": 0}, "bad_arguments"),
        ({"patience": -1}, "bad_arguments"),
        ({"seed": -1}, "bad_arguments"),
        ({"augmentation": Augmentation(cutmix=2)}, "bad_arguments"),
        ({"prevalence": 98}, "bad_prevalence"),
        ({"calibration_method": "isotonic"}, "too_few_pairs"),
        ({"loss": "pairs"}, "one_label"),
        ({"device": "cuda"}, "no_such_device"),
        ({"num_workers": 64, "batch_size": 64}, "no_room"),
    ],
)
def test_a_wrong_flag_costs_no_earlier_model(
    trained: Path, catalogue: Path, changes: dict[str, Any], code: str
) -> None:
    right = Finetune(
        train_csv=str(catalogue / "train.csv"),
        val_csv=str(catalogue / "val.csv"),
        model_name="scratch:tiny-clip",
        output_dir=trained,
        overwrite=True,
    )
    with pytest.raises(InputError) as raised:
        finetune.run(dataclasses.replace(right, **changes))
    assert raised.value.code == code
    assert (trained / "best_model" / "spec.json").is_file()


def test_a_run_that_was_killed_while_it_tidied_up_is_done(
    trained: Path, catalogue: Path, tmp_path: Path
) -> None:
    csvs = {f"{name}_csv": str(catalogue / f"{name}.csv") for name in ("train", "val")}
    config = Finetune(**csvs, model_name="scratch:tiny-clip", output_dir=tmp_path / "model", resume=True)
    shutil.copytree(trained, tmp_path / ".model.unfinished")
    (tmp_path / ".model.unfinished" / "checkpoints" / "step_00000001").mkdir(parents=True)
    (tmp_path / ".model.unfinished.plan").write_text(json.dumps(finetune._plan(config)))
    assert finetune.run(config) == json.loads((trained / "summary.json").read_text())
    assert {path.name for path in (tmp_path / "model").iterdir()} == {path.name for path in trained.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_training_further_into_the_same_place_is_refused(trained: Path, catalogue: Path) -> None:
    with pytest.raises(InputError) as raised:
        finetune.run(
            Finetune(
                train_csv=str(catalogue / "train.csv"),
                val_csv=str(catalogue / "val.csv"),
                model_name=str(trained / "best_model"),
                output_dir=trained,
                overwrite=True,
            )
        )
    assert raised.value.code == "input_inside_output"
    assert (trained / "best_model" / "spec.json").is_file()


def test_a_run_that_fails_leaves_the_earlier_one(ray_cluster: None, catalogue: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "run.json").write_text("{}")
    (output / "precious").write_text("weights")
    one = catalogue / "one.csv"
    one.write_text("image_path,text,label\nimages/p00001.jpg,A bottle.,1\n")
    with pytest.raises(InputError):
        finetune.run(
            Finetune(
                train_csv=str(one),
                val_csv=str(one),
                model_name="scratch:tiny-clip",
                output_dir=output,
                overwrite=True,
            )
        )
    assert (output / "precious").read_text() == "weights"
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.unfinished"}
    assert [path.name for path in (tmp_path / ".model.unfinished").iterdir()] == ["data"]


def test_what_was_ingested_is_taken_up_by_the_next_try(
    ray_cluster: None, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that only the data can refute costs no second ingest; another size of pictures does."""
    csv = str(catalogue / "train.csv")
    config = Finetune(
        train_csv=csv,
        val_csv=csv,
        model_name="scratch:tiny-clip",
        loss="pairs",
        output_dir=tmp_path / "model",
    )

    def tried(config: Finetune) -> list[str]:
        with pytest.raises(InputError) as raised:
            finetune.run(config)
        assert raised.value.code == "one_label"
        return [line.split(", ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith(csv)]

    anew, again = ["pairs read" in line for line in tried(config)], tried(dataclasses.replace(config, seed=1))
    assert anew == [True, True]
    assert again == [f"{csv}: ingested before"] * 2
    assert not any("before" in line for line in tried(dataclasses.replace(config, image_size=64)))


def test_an_earlier_run_is_not_overwritten_unasked(trained: Path, catalogue: Path) -> None:
    csvs = {f"{name}_csv": str(catalogue / f"{name}.csv") for name in ("train", "val")}
    with pytest.raises(InputError, match="--overwrite"):
        finetune.run(Finetune(**csvs, model_name="scratch:tiny-clip", output_dir=trained))
    assert (trained / "best_model" / "spec.json").is_file()


def test_probabilities_are_calibrated_cosines(best_model: Path, catalogue: Path) -> None:
    encoder = Encoder.load(best_model)
    with Image.open(catalogue / "images" / "p00001.jpg") as image:
        picture = encoder.images([image.convert("RGB")])
    assert np.linalg.norm(picture) == pytest.approx(1, abs=1e-5)


def test_a_frozen_vision_tower_with_a_new_text_tower_and_its_index(
    ray_cluster: None, best_model: Path, passages: Path, tmp_path: Path
) -> None:
    """The older system's Persian recipe: the pictures' tower stays, a text tower is trained; then an index."""
    output = tmp_path / "persian"
    summary = finetune.run(
        Finetune(
            train_data=passages,
            val_data=passages,
            vision_model=str(best_model),
            text_model="scratch:text",
            freeze="vision",
            epochs=4,
            batch_size=32,
            learning_rate=2e-3,
            cpus_per_worker=1,
            build_index=True,
            output_dir=output,
        )
    )
    assert summary["index"] == "v001"
    before, after = Encoder.load(best_model), Encoder.load(output / "final_model")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for name, weights in before.towers.model.vision_model.state_dict().items():
        assert torch.equal(weights, after.towers.model.vision_model.state_dict()[name]), name
    assert after.images(pixels).shape == (2, after.spec.embedding_dim)
    assert len(Index.open(output / "index", Encoder.load(output / "best_model").spec)) > 10


def test_calibrate_gives_a_model_another_threshold(
    ray_cluster: None, best_model: Path, catalogue: Path, tmp_path: Path
) -> None:
    spec = calibrate.run(
        Calibrate(
            model=str(best_model),
            csv=str(catalogue / "calibration.csv"),
            policy="recall=0.5",
            output_dir=tmp_path / "lenient",
        )
    )
    before = ModelSpec.read(best_model)
    assert before is not None and before.threshold is not None
    assert spec.threshold is not None and spec.threshold.policy == "recall=0.5"
    assert spec.threshold.value > before.threshold.value  # youden keeps nearly all matches
    assert spec.model_hash == before.model_hash  # the same vectors, so that its index still serves
    assert ModelSpec.read(tmp_path / "lenient") == spec
