"""The job calibrate: what it keeps of a model, what it replaces, and what it refuses before it scores anything."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPO_ROOT
from handmade import dataset, jpeg, pair

from data_jobs import dataset as datasets
from data_jobs import images
from data_jobs.errors import InputError
from train_jobs import calibrate, scratch
from train_jobs.calibrate import Calibrate
from train_jobs.encoder import Encoder
from train_jobs.spec import FILE, ModelSpec

COLOURS = ["teal", "red", "navy", "gold", "white", "black", "pink", "olive"]
TEXTS = [f"a {colour} thing of {size}" for colour in COLOURS for size in ("wood", "glass", "wool")]
FINGERPRINT = "the pairs below"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with the metrics of a training that never was."""
    encoder = scratch.build("scratch:tiny-clip", TEXTS)
    encoder.spec = encoder.spec.replace(
        metrics={"auroc": 0.9, "ece": 0.123, "brier": 0.2}, data_fingerprint="what it was trained on"
    )
    folder = tmp_path_factory.mktemp("model") / "model"
    encoder.save(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 pairs, labelled so that the model, which knows nothing, is mostly right about them."""
    encoder = Encoder.load(model, "cpu")
    pictures = encoder.images([images.decode(jpeg(colour)) for colour in COLOURS])
    cosines = (pictures @ encoder.texts(TEXTS).T).ravel()
    noise = np.random.default_rng(0).normal(scale=0.5 * cosines.std(), size=len(cosines))
    labels = (cosines + noise > np.median(cosines)).astype(int).tolist()
    rows = [
        pair(
            f"p{n:03}",
            image=jpeg(COLOURS[n // len(TEXTS)]),
            image_sha256=COLOURS[n // len(TEXTS)],
            text=TEXTS[n % len(TEXTS)],
            label=label,
        )
        for n, label in enumerate(labels)
    ]
    folder = dataset(tmp_path_factory.mktemp("data") / "pairs", rows)
    (folder / datasets.MARKER).write_text(
        json.dumps({"format_version": datasets.FORMAT_VERSION, "fingerprint": FINGERPRINT})
    )
    return folder


def test_what_the_old_calibration_said_goes_with_it(
    ray_cluster: None, model: Path, pairs: Path, tmp_path: Path
) -> None:
    before = ModelSpec.read(model)
    spec = calibrate.run(Calibrate(tmp_path / "out", str(model), data=pairs, prevalence=0.8))
    assert before is not None and spec.model_hash == before.model_hash
    assert spec.metrics == {"auroc": 0.9}
    assert spec.calibration is not None and spec.calibration.prevalence == 0.8
    assert spec.calibration.data_fingerprint == FINGERPRINT
    assert spec.data_fingerprint == "what it was trained on"


def test_a_checkpoint_keeps_the_name_it_was_given_by(
    ray_cluster: None, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain checkpoint by a path of ours; a hub's name goes the same way, with its revision."""
    shutil.copytree(model, tmp_path / "clip")
    (tmp_path / "clip" / FILE).unlink()
    monkeypatch.chdir(tmp_path)
    spec = calibrate.run(Calibrate(tmp_path / "out", "clip", data=pairs))
    assert (spec.base_model, spec.base_revision) == ("clip", None)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"prevalence": 1.0}, "bad_prevalence"),
        ({"prevalence": float("nan")}, "bad_prevalence"),
        ({"policy": "best"}, "bad_policy"),
        ({"csv": "out/pairs.csv"}, "input_inside_output"),
        ({"model": "out/model"}, "input_inside_output"),
        ({"data": Path("pairs")}, "bad_arguments"),
    ],
)
def test_flags_that_cannot_be_are_refused_before_any_work(values: dict[str, Any], code: str) -> None:
    config = dataclasses.replace(Calibrate(Path("out"), "./none", csv="none.csv"), **values)
    with pytest.raises(InputError) as refused:
        calibrate.run(config)
    assert refused.value.code == code


def test_too_few_pairs_are_said_before_they_are_scored(model: Path, pairs: Path, tmp_path: Path) -> None:
    """There is no cluster at that address: a job that went on to score would fail otherwise."""
    command = [sys.executable, "-m", "train_jobs.calibrate", "--model", str(model), "--data", str(pairs)]
    done = subprocess.run(
        [*command, "--calibration-method", "isotonic", "--output-dir", str(tmp_path / "out")],
        cwd=REPO_ROOT,
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "error (too_few_pairs): There are 192 pairs; isotonic calibration needs 1000." in done.stderr
