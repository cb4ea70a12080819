"""A dataset -> a calibrated model, on any number of workers.

    python -m train_jobs.finetune --train-data D --val-data D [--calibration-data D] \\
        --model-name openai/clip-vit-base-patch32 --epochs 3 --num-workers 2 --output-dir OUT
    python -m train_jobs.finetune --train-csv train.csv --val-csv val.csv --output-dir OUT

Writes OUT/best_model (the epoch with the best validation AUROC, calibrated), OUT/final_model (the last epoch,
calibrated), OUT/history.json, OUT/training_curve.png and OUT/run.json (the resolved flags).
"""

import dataclasses
import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from data_jobs import command, dataset, progress
from data_jobs.artefacts import refuse_overwrite, write_file
from data_jobs.csv_pairs import CsvPairs
from data_jobs.errors import InputError
from data_jobs.session import connected
from data_jobs.splits import split_of
from train_jobs import calibration, curves, metrics, scoring, scratch
from train_jobs.augment import Augmentation
from train_jobs.checkpoints import DEFAULT_MODEL, local_folder
from train_jobs.encoder import Encoder
from train_jobs.loop import Loss, Precision, Schedule, train
from train_jobs.pairdata import PairData, score_pairs

MARKER = "run.json"


@dataclass(frozen=True)
class Finetune:
    output_dir: Path
    """Where best_model, final_model and the run's records go."""
    train_data: Path | None = None
    """Dataset directory to learn from."""
    val_data: Path | None = None
    """Dataset directory that chooses the best epoch."""
    calibration_data: Path | None = None
    """Dataset directory for threshold and probabilities (default: half of the validation pictures)."""
    train_csv: Path | None = None
    """CSV instead of --train-data; ingested into OUTPUT_DIR/data."""
    val_csv: Path | None = None
    """CSV instead of --val-data."""
    calibration_csv: Path | None = None
    """CSV instead of --calibration-data."""
    image_base_path: Path | None = None
    """Folder that relative image paths of the CSVs start from."""
    model_name: str = DEFAULT_MODEL
    """Hub name, model directory, or a recipe from scratch: scratch:tiny-clip, scratch:resnet."""
    loss: Loss = "contrastive"
    """contrastive: matches against all other texts; pairs: labelled matches and mismatches."""
    epochs: int = 3
    """Passes over the training pairs."""
    batch_size: int = 16
    """Pairs a step, over all workers together."""
    learning_rate: float = 5e-6
    """Peak, after warm-up; then a cosine to zero. Models from scratch want about 1e-3."""
    weight_decay: float = 0.1
    """On matrices only; never on norms, biases, scale and bias."""
    warmup: float = 0.1
    """Share of all steps with a rising learning rate."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.0
    """Share of the contrastive target that is spread over all candidates."""
    precision: Precision = "auto"
    """auto uses bfloat16 where the device computes it fast."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    num_workers: int = 1
    """Ray Train workers; each takes a share of every batch."""
    cpus_per_worker: float | None = None
    """CPUs and threads a worker (default: the cluster's CPUs shared out, at least one)."""
    use_gpu: bool = False
    """One GPU a worker."""
    storage_path: Path | None = None
    """Where checkpoints of the run are kept (default: OUTPUT_DIR/run); shared by all nodes."""
    cache_gb: float = 2.0
    """Memory a worker may spend on decoded pictures, in GB; beyond it they are decoded anew each epoch."""
    seed: int = 0
    """Fixes initial weights, order and augmentation."""
    overwrite: bool = False
    """Replace an earlier run in the output directory."""


def run(config: Finetune) -> dict[str, Any]:
    """Train, calibrate, save; returns the summary that is also printed. Raises InputError."""
    output = config.output_dir.absolute()
    refuse_overwrite(output, marker=MARKER, overwrite=config.overwrite)
    _check_inputs(config)
    with _replacing(output):
        return _run(config, output)


def _run(config: Finetune, output: Path) -> dict[str, Any]:
    write_file(output / MARKER, json.dumps(dataclasses.asdict(config), indent=2, default=str))
    folders = _datasets(config, output)
    train_data = PairData.open(folders["train"])
    val_data = PairData.open(folders["val"]).with_mismatches(config.seed)
    if "calibration" in folders:
        held_out = PairData.open(folders["calibration"]).with_mismatches(config.seed)
    else:
        val_data, held_out = _halves(val_data, config.seed)
    calibration.enough(held_out.labels)  # now, and not after hours of training
    print(
        f"train {len(train_data)} pairs, validation {len(val_data)}, calibration {len(held_out)} "
        f"({int((held_out.labels == 1).sum())} matches)"
    )
    start, revision = _starting_point(config, train_data, output)
    best, final, history = _fit(config, start, train_data, val_data, output)
    curves.save_training_curve(history, output / "training_curve.png")
    write_file(output / "history.json", json.dumps(history, indent=2))
    summary: dict[str, Any] = {"output_dir": str(output)}
    for name, checkpoint in (("final_model", final), ("best_model", best)):
        with checkpoint.as_directory() as folder:
            encoder = Encoder.load(folder)
        summary[name] = _calibrate(encoder, held_out, config, history)
        encoder.spec = encoder.spec.replace(
            base_model=config.model_name, base_revision=revision, data_fingerprint=train_data.fingerprint
        )
        encoder.save(output / name)
    found = summary["best_model"]
    print(
        f"best_model: calibration AUROC {found['auroc']:.3f}, "
        f"threshold {found.get('threshold', float('nan')):.3f} -> {output / 'best_model'}"
    )
    return summary


@contextmanager
def _replacing(output: Path) -> Iterator[None]:
    """An empty `output` for the block; if the block fails, what was there before comes back."""
    previous = output.with_name(f".{output.name}.previous-{uuid.uuid4().hex[:8]}")
    if output.exists():
        os.rename(output, previous)
    output.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(output)
        if previous.exists():
            os.rename(previous, output)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _check_inputs(config: Finetune) -> None:
    """Raise InputError for what can be known to be wrong before anything is started or replaced."""
    for name in ("epochs", "batch_size", "num_workers", "learning_rate"):
        command.positive(name, getattr(config, name))
    output = config.output_dir.absolute()
    paths = [path for _, *both in _sources(config) for path in both if path is not None]
    for path in [*paths, Path(config.model_name)]:
        if output in path.absolute().parents:
            raise InputError(
                "input_inside_output",
                f"The input {path} is inside the output directory {output}, which is replaced.",
                "Choose another --output-dir.",
            )
    for role, folder, csv in _sources(config):
        given = (folder is not None) + (csv is not None)
        if given == 2 or (given == 0 and role != "calibration"):
            raise InputError("bad_arguments", f"Give either --{role}-data or --{role}-csv.", "See --help.")
        if csv is not None:
            CsvPairs.open(str(csv))
        elif folder is not None:
            dataset.read_report(folder)
    if config.model_name.startswith(scratch.PREFIX):
        scratch.check_name(config.model_name)
    else:
        local_folder(config.model_name)
    if config.batch_size % config.num_workers:
        raise InputError(
            "batch_not_divisible",
            f"The batch size {config.batch_size} cannot be split over {config.num_workers} workers.",
            "Use a multiple of --num-workers.",
        )


def _sources(config: Finetune) -> tuple[tuple[str, Path | None, Path | None], ...]:
    return (
        ("train", config.train_data, config.train_csv),
        ("val", config.val_data, config.val_csv),
        ("calibration", config.calibration_data, config.calibration_csv),
    )


def _datasets(config: Finetune, output: Path) -> dict[str, Path]:
    """The dataset directories by role; CSVs are ingested first."""
    folders: dict[str, Path] = {}
    for role, folder, csv in _sources(config):
        if csv is not None:
            folder = output / "data" / role
            report = dataset.from_csv(csv, folder, image_base_path=config.image_base_path)
            print(f"{csv}: {report['pairs']}, {report['codes'] or 'no remarks'}")
        if folder is not None:
            folders[role] = folder.absolute()
    return folders


def _halves(data: PairData, seed: int) -> tuple[PairData, PairData]:
    """Validation and calibration halves; a picture is in one of them only."""
    shares = {"val": 0.5, "calibration": 0.5}
    side = np.array([split_of(picture, shares, seed) for picture in data.picture_ids])
    return data.take(np.flatnonzero(side == "val")), data.take(np.flatnonzero(side == "calibration"))


def _starting_point(config: Finetune, train_data: PairData, output: Path) -> tuple[str, str | None]:
    """A path that every worker can load the same initial weights from, and their hub revision."""
    if config.model_name.startswith(scratch.PREFIX):
        encoder = scratch.build(config.model_name, train_data.texts, config.seed)
        encoder.save(output / "initial_model")
        return str(output / "initial_model"), None
    folder, revision = local_folder(config.model_name)
    return str(folder.absolute()), revision


def _fit(
    config: Finetune, start: str, train_data: PairData, val_data: PairData, output: Path
) -> tuple[Checkpoint, Checkpoint, list[dict[str, float]]]:
    """Run the workers; the best and the last checkpoint and the history of all epochs."""
    with connected(), _printed_progress() as queue:
        cpus = config.cpus_per_worker or max(1.0, ray.cluster_resources().get("CPU", 1) // config.num_workers)
        schedule = Schedule(
            loss=config.loss,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup=config.warmup,
            gradient_clip=config.gradient_clip,
            label_smoothing=config.label_smoothing,
            precision=config.precision,
            augmentation=config.augmentation,
            seed=config.seed,
            cache_bytes=int(config.cache_gb * 1e9),
            threads=max(1, int(cpus)),
        )
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "start": start,
                "schedule": schedule,
                "train": ray.put(train_data),
                "val": ray.put(val_data),
                "queue": queue,
            },
            torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.num_workers,
                use_gpu=config.use_gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if config.use_gpu else {})},
            ),
            run_config=RunConfig(
                name="run",
                storage_path=str(config.storage_path or output),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="val_auroc", checkpoint_score_order="max"
                ),
            ),
        )
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error
    assert result.checkpoint is not None and result.best_checkpoints
    best = max(result.best_checkpoints, key=lambda pair: pair[1]["val_auroc"])[0]
    return best, result.checkpoint, result.return_value


def _worker(setup: dict[str, Any]) -> list[dict[str, float]]:
    """One Ray Train worker. Rank 0 saves a checkpoint each epoch; all report alike."""
    rank = ray.train.get_context().get_world_rank()
    schedule: Schedule = setup["schedule"]
    torch.set_num_threads(schedule.threads)
    encoder = Encoder.load(setup["start"], device=str(ray.train.torch.get_device()).split(":")[0])
    history: list[dict[str, float]] = []

    def end_of_epoch(epoch: dict[str, float], encoder: Encoder) -> None:
        history.append(epoch)
        with tempfile.TemporaryDirectory() as scratch_folder:
            checkpoint = None
            if rank == 0:
                setup["queue"].put(epoch)
                encoder.spec = encoder.spec.replace(
                    logit_scale=encoder.towers.scale().item(),
                    logit_bias=encoder.towers.logit_bias.item(),
                )
                encoder.save(Path(scratch_folder) / "model")
                checkpoint = Checkpoint.from_directory(Path(scratch_folder) / "model")
            ray.train.report(epoch, checkpoint=checkpoint)

    train(
        encoder,
        ray.get(setup["train"]),
        ray.get(setup["val"]),
        schedule,
        progress=setup["queue"].put,
        end_of_epoch=end_of_epoch,
    )
    return history


def _calibrate(
    encoder: Encoder, held_out: PairData, config: Finetune, history: list[dict[str, float]]
) -> dict[str, float]:
    """Put calibration, threshold and held-out metrics into the encoder's spec; returns the metrics.

    A model whose scores do not rank is kept, uncalibrated, with a warning: training is not thrown away.
    """
    scores = score_pairs(encoder, held_out)
    found = {
        "auroc": metrics.auroc(scores, held_out.labels),
        "average_precision": metrics.average_precision(scores, held_out.labels),
        "best_val_auroc": max(epoch["val_auroc"] for epoch in history),
    }
    try:
        platt = calibration.fit_platt(scores, held_out.labels)
    except InputError as error:
        print(f"WARNING: the model stays uncalibrated. {error}")
        encoder.spec = encoder.spec.replace(calibration=None, threshold=None, metrics=found)
        return found
    threshold = calibration.choose_threshold(scores, held_out.labels, seed=config.seed)
    probabilities = scoring.probability(scores, platt)
    found["ece"] = metrics.expected_calibration_error(probabilities, held_out.labels)
    found["brier"] = metrics.brier(probabilities, held_out.labels)
    encoder.spec = encoder.spec.replace(calibration=platt, threshold=threshold, metrics=found)
    return {**found, "threshold": threshold.value}


@contextmanager
def _printed_progress() -> Iterator[Queue]:
    """A queue for the workers' progress, shown on this process's stderr as it comes."""
    queue = Queue(actor_options={"num_cpus": 0})

    def show() -> None:
        with progress.bar("train", "steps") as bar:
            while (event := queue.get()) is not None:
                if "step" in event:
                    bar.total = event["epochs"] * event["steps"]
                    bar.set_postfix_str(
                        f"loss {event['loss']:.3f}, {event['samples_per_s']:.0f} pairs/s", refresh=False
                    )
                    bar.update((event["epoch"] - 1) * event["steps"] + event["step"] - bar.n)
                else:
                    bar.write(
                        f"epoch {event['epoch']:3d}  loss {event['train_loss']:.3f}  "
                        f"validation AUROC {event['val_auroc']:.4f}"
                    )

    printer = threading.Thread(target=show, daemon=True)
    printer.start()
    try:
        yield queue
    finally:
        queue.put(None)
        printer.join(timeout=10)
        queue.shutdown()


def _cause(error: BaseException) -> BaseException:
    """The InputError inside Ray's wrapping, if there is one."""
    seen: BaseException | None = error
    for failure in getattr(error, "worker_failures", {}).values():
        inner: BaseException | None = failure
        while inner is not None:
            if isinstance(inner, InputError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    assert seen is not None
    return seen


if __name__ == "__main__":
    command.main(Finetune, run, __doc__)
