"""A model and held-out labelled pairs -> the same weights with probabilities and a threshold.

    python -m train_jobs.calibrate --model DIR --csv held_out.csv [--policy precision=0.95] --output-dir CALIBRATED

For a hub's model, a mixture of `compare --wise-ft`, new data, or another policy; `finetune` calibrates what it trains.
Use pairs that neither trained the model nor chose it, and that look like those it will judge.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import ray

from data_jobs import command, dataset
from data_jobs.artefacts import refuse_overwrite
from data_jobs.errors import InputError
from data_jobs.session import connected, placed
from train_jobs import calibration, outcome, thresholds
from train_jobs.encoder import Encoder
from train_jobs.hub import DEFAULT_MODEL, local_folder
from train_jobs.pairdata import PairData, score_pairs
from train_jobs.spec import ModelSpec

OF_CALIBRATION = ("ece", "brier")
"""Metrics that a training writes of the calibration it ends with; those of another calibration do not stand."""


@dataclass(frozen=True)
class Calibrate:
    output_dir: Path
    """Where the calibrated model appears."""
    model: str = DEFAULT_MODEL
    """Model directory or hub name."""
    csv: str | None = None
    """Labelled pairs: image_path,text,label. If all of them match, random mismatches are made."""
    image_base_path: str | None = None
    """Folder that relative image paths start from."""
    data: Path | None = None
    """Dataset directory instead of --csv."""
    policy: str = "youden"
    """How the threshold is chosen: youden, max-f1, precision=0.95 or recall=0.95 (of "match")."""
    calibration_method: calibration.Method = "auto"
    """platt, isotonic (from 1000 pairs), or auto: the better of those that can be."""
    prevalence: float | None = None
    """Share of matches where the model will be used (default: as in the pairs)."""
    seed: int = 0
    """Fixes generated mismatches and the bootstrap."""
    overwrite: bool = False
    """Replace an earlier model in the output directory."""


def run(config: Calibrate) -> ModelSpec:
    """Score, fit, save; returns the spec as saved. Raises InputError."""
    if (config.csv is None) == (config.data is None):
        raise InputError("bad_arguments", "Give either --csv or --data.", "See --help.")
    thresholds.check_policy(config.policy)
    if config.prevalence is not None:
        calibration.checked_prevalence(config.prevalence, config.prevalence)
    refuse_overwrite(config.output_dir, marker="config.json", overwrite=config.overwrite)
    command.outside(config.output_dir, config.csv, config.image_base_path, config.data, config.model)
    model = str(local_folder(config.model)[0].absolute())
    encoder = Encoder.load(config.model, device="cpu")  # by name, so that its spec says where it came from
    with tempfile.TemporaryDirectory() as scratch:
        source = config.data
        if config.csv is not None:
            source = Path(scratch) / "data"
            report = dataset.from_csv(
                config.csv,
                source,
                image_base_path=config.image_base_path,
                image_size=max(256, encoder.spec.image_shortest),
            )
            print(f"{config.csv}: {dataset.counted(report)}")
        assert source is not None
        held_out = PairData.open(source).with_mismatches(config.seed)
    calibration.enough(held_out.labels, config.calibration_method)  # now, and not after scoring
    with connected():
        device, gpus = placed("auto")
        scores = ray.get(_score.options(num_gpus=gpus).remote(model, device, ray.put(held_out)))
    policy = outcome.Policy(config.calibration_method, config.policy, config.prevalence, config.seed)
    spec = outcome.calibrated(encoder.spec, scores, held_out, policy)
    kept = {name: value for name, value in spec.metrics.items() if name not in OF_CALIBRATION}
    encoder.spec = spec.replace(metrics=kept)
    spec = encoder.save(config.output_dir, overwrite=config.overwrite)
    print(f"{config.output_dir}: {outcome.described(spec)}")
    return spec


@ray.remote(num_cpus=1)
def _score(model: str, device: str, data: PairData) -> object:
    return score_pairs(Encoder.load(model, device), data)


if __name__ == "__main__":
    command.main(Calibrate, run, __doc__)
