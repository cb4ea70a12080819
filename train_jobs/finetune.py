"""A dataset -> a calibrated model, on any number of workers.

    python -m train_jobs.finetune --train-data D --val-data D [--calibration-data D] \\
        --model-name openai/clip-vit-base-patch32 --epochs 3 --num-workers 2 --output-dir OUT
    python -m train_jobs.finetune --train-csv train.csv --val-csv val.csv --output-dir OUT

Writes OUT/best_model (the epoch with the best validation score, calibrated), OUT/final_model (the last epoch,
calibrated), OUT/summary.json, OUT/history.json, OUT/training_curve.png, OUT/tensorboard and OUT/run.json (the resolved
flags). All of it appears together at the end; until then it grows in .OUT.unfinished beside OUT, from where a run
that was killed goes on with --resume.
"""

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray
from tyro.conf import arg

from data_jobs import command, dataset, files, stream, text
from data_jobs.artefacts import resumable, write_file
from data_jobs.csv_pairs import CsvPairs
from data_jobs.errors import InputError
from data_jobs.session import connected, may_grow, placed
from data_jobs.splits import split_of
from train_jobs import (
    calibration,
    curves,
    fit,
    index_sources,
    indexing,
    leakage,
    outcome,
    preprocessing,
    scratch,
    thresholds,
    two_towers,
)
from train_jobs.augment import Augmentation
from train_jobs.batches import CANVAS, learnable
from train_jobs.checkpoints import image_processor
from train_jobs.encoder import Encoder
from train_jobs.hub import DEFAULT_MODEL, local_folder
from train_jobs.loop import STATES
from train_jobs.pairdata import PairData, score_pairs
from train_jobs.schedule import Choice, Frozen, Lora, Loss, Precision, Schedule, VisionOptimizer
from train_jobs.spec import ModelSpec
from train_jobs.trackers import Trackers
from train_jobs.view import View

MARKER, SUMMARY = "run.json", "summary.json"
DATA = "data"
"""The folder of the datasets made of CSVs, in the run's folder."""
MODELS = ("final_model", "best_model")
PASSAGES_A_TASK = 1024


@dataclass(frozen=True)
class Finetune:
    output_dir: Annotated[Path, arg(aliases=["--output"])]
    """Where best_model, final_model and the run's records appear. On a cluster: storage that every node sees."""
    train_data: Path | None = None
    """Dataset directory to learn from."""
    val_data: Path | None = None
    """Dataset directory that chooses the best epoch."""
    calibration_data: Path | None = None
    """Dataset directory for threshold and probabilities (default: half of the validation pictures)."""
    train_csv: str | None = None
    """CSV instead of --train-data; ingested into OUTPUT_DIR/data."""
    val_csv: str | None = None
    """CSV instead of --val-data."""
    calibration_csv: str | None = None
    """CSV instead of --calibration-data."""
    image_base_path: Annotated[str | None, arg(aliases=["--root-dir"])] = None
    """Folder that relative image paths of the CSVs start from."""
    image_size: int = 256
    """Shortest side, in pixels, that pictures of the CSVs are stored at; larger if the model takes larger ones."""

    model_name: Annotated[str, arg(aliases=["--model"])] = DEFAULT_MODEL
    """Hub name, model directory, or a recipe from scratch: scratch:tiny-clip, scratch:resnet."""
    vision_model: str | None = None
    """With --text-model, instead of --model-name: a model whose vision tower is taken."""
    text_model: str | None = None
    """A text encoder (any AutoModel with a tokenizer) for --vision-model, or scratch:text for a new one."""
    freeze: Frozen = "none"
    """A tower that stays as it is."""
    lora: Lora = field(default_factory=Lora)
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""

    loss: Loss = "contrastive"
    """contrastive: matches against all other texts; pairs: labelled matches and mismatches; sigmoid: SigLIP's."""
    choose_by: Literal["auto", "auroc", "recall"] = "auto"
    """What the best epoch is best at; auto: recall@1 of both directions, and AUROC for pairs."""
    epochs: int = 3
    """Passes over the training pairs."""
    batch_size: int = 16
    """Pairs a step, over all workers together."""
    accumulate: int = 1
    """Micro-batches that a step is computed in, with the gradients of the whole batch: less memory, more time."""
    learning_rate: Annotated[float, arg(aliases=["--lr"])] = 5e-6
    """Peak, after warm-up; then a cosine to zero. Models from scratch want about 1e-3."""
    weight_decay: float = 0.1
    """On matrices only; never on norms, biases, scale and bias."""
    vision_optimizer: VisionOptimizer = "adamw"
    """sgd (Nesterov, momentum 0.9) suits convolutional vision towers from scratch; the rest is always AdamW's."""
    vision_learning_rate: float | None = None
    """Of the vision tower (default: --learning-rate)."""
    vision_weight_decay: float | None = None
    """Of the vision tower (default: --weight-decay)."""
    warmup: float = 0.1
    """Share of all steps with a rising learning rate."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.0
    """Share of the contrastive target that is spread over all candidates."""
    average: float = 0.0
    """Decay of a moving average of the weights, which is then judged and saved; 0: none. From scratch: 0.998."""
    patience: int = 0
    """Stop after so many epochs without a better one; 0: never."""
    precision: Precision = "auto"
    """auto uses bfloat16 where the device computes it fast."""
    augment: bool | None = None
    """Random views of the training pictures (default: yes, unless the vision tower is frozen)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    """Fixes initial weights, order and augmentation."""

    policy: str = "youden"
    """How the threshold is chosen: youden, max-f1, precision=0.95 or recall=0.95 (of "match")."""
    calibration_method: calibration.Method = "auto"
    """platt, isotonic (from 1000 pairs), or auto: the better of those that can be."""
    prevalence: float | None = None
    """Share of matches where the model will be used (default: as in the calibration pairs)."""

    build_index: bool = False
    """At the end, index the training data with best_model, in OUTPUT_DIR/index: its passages, else its pictures."""

    num_workers: int = 1
    """Ray Train workers; each takes a share of every batch."""
    min_workers: int | None = None
    """Train with as few as these while the cluster has no room for more (default: --num-workers)."""
    cpus_per_worker: float | None = None
    """CPUs and threads a worker (default: the cluster's CPUs shared out, at least one)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: one GPU a worker if the cluster has as many."""
    shard: bool = False
    """Shard weights and optimiser over the workers (FSDP), for towers that do not fit one GPU."""
    cache_gb: float = 2.0
    """Memory a worker may spend on decoded pictures, in GB; beyond it they are decoded anew each epoch."""
    max_failures: int = 3
    """How often lost workers are replaced before the run gives up (it can still be resumed)."""
    save_steps: int = 0
    """Save the run's state every so many steps as well (default: after every epoch only)."""
    save_all_checkpoints: bool = False
    """Keep a model directory of every checkpoint: checkpoint_epoch_N and, with --save-steps, checkpoint_step_N."""
    resume: bool = False
    """Go on with a run that was killed or stopped; same flags, same data. The number of workers may differ."""
    overwrite: bool = False
    """Replace an earlier run in the output directory, and without --resume throw away what an unfinished one wrote."""


_FREE = {
    "output_dir", "resume", "overwrite", "num_workers", "min_workers", "cpus_per_worker", "device", "cache_gb",
    "max_failures", "save_steps",
}  # fmt: skip
"""Flags that a resumed run may change."""
_ABOVE_ZERO = (
    "epochs", "batch_size", "accumulate", "num_workers", "learning_rate", "image_size", "gradient_clip",
)  # fmt: skip
_LIMITS: dict[str, tuple[float, float]] = {
    "weight_decay": (0, math.inf), "warmup": (0, 1), "label_smoothing": (0, 0.99), "average": (0, 0.999999),
    "patience": (0, math.inf), "seed": (0, 2**32 - 1), "cache_gb": (0, math.inf), "max_failures": (0, math.inf),
    "save_steps": (0, math.inf),
}  # fmt: skip
_AUGMENTATION_LIMITS: dict[str, tuple[float, float]] = {
    "min_area": (0.01, 1), "rotation": (0, 180), "brightness": (0, 1), "contrast": (0, 1), "saturation": (0, 1),
    "tint": (0, 1), "cutmix": (0, 1),
}  # fmt: skip


def run(config: Finetune) -> dict[str, Any]:
    """Train, calibrate, save; returns the summary that is also saved. Raises InputError."""
    output = config.output_dir.absolute()
    _check(config)
    work = resumable(
        output,
        marker=MARKER,
        plan=_plan(config),
        overwrite=config.overwrite,
        resume=config.resume,
        precious=lambda folder: any(folder.glob(f"{STATES}/step_*")),
        reusable=DATA,
    )
    try:
        with work as folder, connected():
            summary = _run(config, folder)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the run is kept; go on with --resume") from stop
    said = {name: summary[name]["in_words"] for name in MODELS}
    for name in MODELS:
        same = name != MODELS[0] and said[name] == said[MODELS[0]]
        print(f"{output / name}: {f'the same as {MODELS[0]}' if same else said[name]}")
    print(f"What every epoch came to: {output / 'history.json'}, {output / 'training_curve.png'}")
    print(f"tensorboard --logdir {output / 'tensorboard'}")
    return summary


def _run(config: Finetune, folder: Path) -> dict[str, Any]:
    if (folder / SUMMARY).is_file():  # killed when all was done but tidying up
        _tidy(folder)
        done: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
        return done
    flags = dataclasses.asdict(config)
    write_file(folder / MARKER, json.dumps(flags, indent=2, default=str))
    use_gpu = _use_gpu(config)
    _fits(config, use_gpu)
    datasets = _datasets(config, folder)
    train_data = PairData.open(datasets["train"])
    learnable(train_data, config.loss)
    val_data = PairData.open(datasets["val"]).with_mismatches(config.seed)
    if "calibration" in datasets:
        held_out = PairData.open(datasets["calibration"]).with_mismatches(config.seed)
        calibration.enough(held_out.labels, config.calibration_method)  # now, and not after hours of training
    else:
        val_data, held_out = _halves(val_data, config)
    _enough_to_choose_by(val_data)
    print(
        f"train {len(train_data)} pairs, validation {len(val_data)}, calibration {len(held_out)} "
        f"({int((held_out.labels == 1).sum())} matches)"
    )
    leaks = leakage.warnings({"train": train_data, "validation": val_data, "calibration": held_out})
    for warning in leaks:
        print(f"WARNING: {warning}")
    start, base, revision = _starting_point(config, train_data, folder)
    (before,) = _scores([start], held_out, use_gpu)
    with Trackers.open(folder, flags, resume=config.resume) as trackers:
        print(f"tensorboard --logdir {folder / 'tensorboard'}")
        cpus = _cpus(config)
        schedule = _schedule(config, threads=max(1, int(cpus)))
        crew = fit.Crew(
            workers=(config.min_workers, config.num_workers) if config.min_workers else config.num_workers,
            cpus=cpus,
            gpu=use_gpu,
            max_failures=config.max_failures,
        )
        name = config.output_dir.name
        history = fit.fit(name, start, train_data, val_data, schedule, folder, crew, trackers.event)
        summary: dict[str, Any] = {"output_dir": str(config.output_dir.absolute()), "epochs": len(history)}
        summary["warnings"] = leaks
        for name, scores in zip(
            MODELS, _scores([str(folder / m) for m in MODELS], held_out, use_gpu), strict=True
        ):
            encoder = Encoder.load(folder / name, device="cpu")
            spec = encoder.spec.replace(
                base_model=base, base_revision=revision, data_fingerprint=train_data.fingerprint
            )
            policy = outcome.Policy(config.calibration_method, config.policy, config.prevalence, config.seed)
            found = outcome.judge(spec, scores, before, held_out, policy)
            encoder.spec = found.spec
            encoder.save(folder / name, overwrite=True)
            summary[name] = _facts(found)
            for warning in found.warnings:
                print(f"WARNING ({name}): {warning}")
        if config.build_index:
            summary["index"] = _index(folder, datasets["train"], use_gpu)
        write_file(folder / "history.json", json.dumps(history, indent=2))
        curves.save_training_curve(history, folder / "training_curve.png")
        best = {key: value for key, value in summary["best_model"].items() if isinstance(value, float)}
        trackers.finish(best, [folder / "best_model"])
    write_file(folder / SUMMARY, json.dumps(summary, indent=2))
    _tidy(folder)
    return summary


def _tidy(folder: Path) -> None:
    """Remove what only a run under way needs."""
    for leftover in (folder / STATES, folder / "ray", folder / "initial_model"):
        shutil.rmtree(leftover, ignore_errors=True)
    for plan in folder.glob(f"{DATA}/*.plan"):
        plan.unlink()
    fit.remove_half_written(folder)


def _index(folder: Path, data: Path, use_gpu: bool) -> str:
    """Index `data` with the best model; the version. The training that came before is not lost if that fails."""
    try:
        if dataset.read_report(data)["passages"]["unique"]:
            source = index_sources.from_docstore(data / "docstore.parquet", block=PASSAGES_A_TASK)
        else:
            source = index_sources.from_pairs(data, embed="images", block=PASSAGES_A_TASK)
        device = "cuda" if use_gpu else "cpu"
        return indexing.build(source, folder / "best_model", folder / "index", device=device).version
    except InputError as error:
        print(f"WARNING: there is no index. {error.message} {error.suggestion}")
        return "none"


def _facts(found: outcome.Outcome) -> dict[str, Any]:
    threshold = found.spec.threshold
    return {
        **found.metrics,
        "threshold": dataclasses.asdict(threshold) if threshold else None,
        "in_words": (
            f"held-out AUROC {found.metrics['auroc']:.3f} "
            f"({found.metrics['auroc_before_training']:.3f} before training), {outcome.described(found.spec)}"
        ),
        "against_start": found.against_start.sentence,
        "warnings": list(found.warnings),
    }


def _plan(config: Finetune) -> dict[str, object]:
    """What makes two runs the same work: the flags and the data as they are now."""
    flags = {key: value for key, value in dataclasses.asdict(config).items() if key not in _FREE}
    stamps: dict[str, str] = {}
    for role, folder, csv in _sources(config):
        if csv is not None:
            stamps[role] = files.stamp(csv)
        elif folder is not None:
            stamps[role] = dataset.read_report(folder)["fingerprint"]
    return {
        **json.loads(json.dumps(flags, default=str)),
        **{f"{role} pairs": s for role, s in stamps.items()},
    }


def _check(config: Finetune) -> None:
    """Raise InputError for what can be known to be wrong before anything is started or replaced."""
    for name in _ABOVE_ZERO:
        command.positive(name, getattr(config, name))
    for name, (low, high) in _LIMITS.items():
        command.within(name, getattr(config, name), low, high)
    for name, (low, high) in _AUGMENTATION_LIMITS.items():
        command.within(f"augmentation.{name}", getattr(config.augmentation, name), low, high)
    thresholds.check_policy(config.policy)
    calibration.checked_prevalence(config.prevalence, 0.5)
    given = [path for _, *both in _sources(config) for path in both if path is not None]
    models = [name for name in (config.model_name, config.vision_model, config.text_model) if name]
    command.outside(config.output_dir, *given, *models)
    for role, folder, csv in _sources(config):
        count = (folder is not None) + (csv is not None)
        if count == 2 or (count == 0 and role != "calibration"):
            raise InputError("bad_arguments", f"Give either --{role}-data or --{role}-csv.", "See --help.")
        if csv is not None:
            CsvPairs.open(csv)
        elif folder is not None:
            dataset.read_report(folder)
    _check_model(config)
    fewest = config.min_workers or config.num_workers
    if not 1 <= fewest <= config.num_workers:
        raise InputError(
            "bad_arguments",
            f"--min-workers is {fewest} and --num-workers is {config.num_workers}.",
            "Give at least 1, and at most --num-workers.",
        )
    parts = math.lcm(*range(fewest, config.num_workers + 1)) * config.accumulate
    if config.batch_size % parts:
        workers = f"{fewest} to {config.num_workers}" if fewest < config.num_workers else str(fewest)
        raise InputError(
            "batch_not_divisible",
            f"The batch size {config.batch_size} cannot be split evenly over {workers} workers with "
            f"{config.accumulate} micro-batches each.",
            f"Use a multiple of {parts}.",
        )


def _check_model(config: Finetune) -> None:
    if (config.vision_model is None) != (config.text_model is None):
        raise InputError("bad_arguments", "--vision-model and --text-model go together.", "Give both.")
    if config.vision_model is not None and config.text_model is not None:
        if config.model_name != DEFAULT_MODEL:
            raise InputError(
                "bad_arguments",
                f"--model-name {config.model_name} is given, and --vision-model as well.",
                "Give a whole model, or two towers.",
            )
        two_towers.check(config.vision_model, config.text_model)
    elif config.model_name.startswith(scratch.PREFIX):
        scratch.check_name(config.model_name)
    else:
        local_folder(config.model_name)


def _sources(config: Finetune) -> tuple[tuple[str, Path | None, str | None], ...]:
    return (
        ("train", config.train_data, config.train_csv),
        ("val", config.val_data, config.val_csv),
        ("calibration", config.calibration_data, config.calibration_csv),
    )


def _datasets(config: Finetune, output: Path) -> dict[str, Path]:
    """The dataset directories by role; CSVs are ingested first, unless an earlier run did."""
    folders: dict[str, Path] = {}
    for role, folder, csv in _sources(config):
        if csv is not None:
            folder = output / DATA / role
            _ingest(config, csv, folder)
        if folder is not None:
            folders[role] = folder.absolute()
    return folders


def _ingest(config: Finetune, csv: str, folder: Path) -> None:
    """Make `folder` the dataset of `csv`; what was made of the same file with the same flags is taken as it is."""
    size = _stored_size(config)
    made_of = [csv, files.stamp(csv), config.image_base_path, size, dataset.FORMAT_VERSION, text.VERSION]
    plan = json.dumps(made_of)
    made_by = folder.with_suffix(".plan")
    if not made_by.is_file() or made_by.read_text() != plan:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        write_file(made_by, plan)
    if (folder / dataset.MARKER).is_file():
        print(f"{csv}: ingested before, {dataset.counted(dataset.read_report(folder))}")
        return
    report = stream.pairs_of_csv(csv, folder, image_base_path=config.image_base_path, image_size=size)
    print(f"{csv}: {dataset.counted(report)}")
    if report["pairs"]["rejected"]:
        there = config.output_dir / DATA / folder.name / dataset.REJECTS
        print(f"Why rows are rejected: {there} (until the run ends {folder / dataset.REJECTS})")


def _stored_size(config: Finetune) -> int:
    """The shortest side of the CSVs' pictures: at least what the model takes, with the margin for random crops."""
    name = config.vision_model or config.model_name
    if name.startswith(scratch.PREFIX):
        return config.image_size
    folder, _ = local_folder(name)
    spec = ModelSpec.read(folder)
    view = View.of(spec) if spec else preprocessing.read(image_processor(folder))[0]
    return max(config.image_size, math.ceil(CANVAS * view.shortest))


def _halves(data: PairData, config: Finetune) -> tuple[PairData, PairData]:
    """Validation and calibration halves; a picture is in one of them only. Raises InputError (too_few_pairs)."""
    shares = {"val": 0.5, "calibration": 0.5}
    side = np.array([split_of(picture, shares, config.seed) for picture in data.picture_ids])
    held_out = data.take(np.flatnonzero(side == "calibration"))
    try:
        calibration.enough(held_out.labels, config.calibration_method)
    except InputError as error:
        raise InputError(
            error.code,
            f"Without calibration pairs of their own, half of the {len(data)} validation pairs calibrate. "
            + error.message,
            "Give calibration pairs with --calibration-csv (or --calibration-data), or more validation pairs.",
        ) from error
    return data.take(np.flatnonzero(side == "val")), held_out


def _enough_to_choose_by(data: PairData) -> None:
    """Raise InputError (too_few_pairs) unless there are matches and mismatches."""
    matches = int((data.labels == 1).sum())
    if not 0 < matches < len(data):
        raise InputError(
            "too_few_pairs",
            f"Validation has {matches} matches and {len(data) - matches} mismatches; it needs some of each.",
            "Hold out more pairs for validation, or give --calibration-csv so that it is not halved.",
        )


def _starting_point(config: Finetune, train_data: PairData, folder: Path) -> tuple[str, str, str | None]:
    """A path that every worker can load the same initial weights from, the base model's name and its hub revision."""
    made = folder / "initial_model"
    if config.vision_model is not None and config.text_model is not None:
        base = f"{config.vision_model} + {config.text_model}"
        if not made.is_dir():
            two_towers.build(
                config.vision_model, config.text_model, texts=train_data.texts, seed=config.seed
            ).save(made)
        return str(made), base, None
    if config.model_name.startswith(scratch.PREFIX):
        if not made.is_dir():
            scratch.build(config.model_name, train_data.texts, config.seed).save(made)
        return str(made), config.model_name, None
    local, revision = local_folder(config.model_name)
    if Path(config.model_name).is_dir():
        return str(local.absolute()), config.model_name, revision
    if not made.is_dir():  # other nodes have no such cache
        Encoder.load(local, device="cpu").save(made)
    return str(made), config.model_name, revision


def _use_gpu(config: Finetune) -> bool:
    """Whether each worker has a GPU. Raises InputError (no_such_device)."""
    if config.device == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) >= config.num_workers)
    return placed(config.device)[1] > 0


def _fits(config: Finetune, use_gpu: bool) -> None:
    """Raise InputError (no_room) if this machine can never run the workers; say so if a cluster cannot as yet."""
    workers = config.min_workers or config.num_workers
    for resource, each in (("CPU", _cpus(config)), ("GPU", 1.0 if use_gpu else 0.0)):
        there = ray.cluster_resources().get(resource, 0)
        if workers * each > there:
            wanted = f"{workers} workers of {each:g} {resource} each, and there are {there:g}"
            if not may_grow():
                raise InputError(
                    "no_room",
                    f"This machine has no room for {wanted}.",
                    "Use fewer --num-workers, or less --cpus-per-worker.",
                )
            print(f"Waiting until the cluster has room for {wanted}.", flush=True)


def _cpus(config: Finetune) -> float:
    """CPUs, and threads, of a worker."""
    return config.cpus_per_worker or max(1.0, ray.cluster_resources().get("CPU", 1) // config.num_workers)


def _scores(models: list[str], data: PairData, use_gpu: bool) -> list[NDArray[np.float32]]:
    """By each model the cosine of every pair of `data`: here, or on a cluster and on a GPU by one Ray task."""
    if not use_gpu and not may_grow():  # another process would take ten seconds to start
        return [score_pairs(Encoder.load(model, "cpu"), data) for model in models]
    task = _score.options(num_gpus=1 if use_gpu else 0)
    found: list[NDArray[np.float32]] = ray.get(task.remote(models, "cuda" if use_gpu else "cpu", data))
    return found


@ray.remote(num_cpus=1, max_calls=1)  # a process that stayed would hold its part of the GPU's memory
def _score(models: list[str], device: str, data: PairData) -> list[NDArray[np.float32]]:
    return [score_pairs(Encoder.load(model, device), data) for model in models]


def _schedule(config: Finetune, threads: int) -> Schedule:
    augment = config.freeze != "vision" if config.augment is None else config.augment
    rate, decay = config.vision_learning_rate, config.vision_weight_decay
    by_loss: Choice = "auroc" if config.loss == "pairs" else "recall"
    return Schedule(
        loss=config.loss,
        choose_by=by_loss if config.choose_by == "auto" else config.choose_by,
        epochs=config.epochs,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        learning_rate=config.learning_rate,
        vision_optimizer=config.vision_optimizer,
        vision_learning_rate=config.learning_rate if rate is None else rate,
        weight_decay=config.weight_decay,
        vision_weight_decay=config.weight_decay if decay is None else decay,
        warmup=config.warmup,
        gradient_clip=config.gradient_clip,
        label_smoothing=config.label_smoothing,
        average=config.average,
        patience=config.patience,
        precision=config.precision,
        augmentation=config.augmentation if augment else Augmentation.none(),
        freeze=config.freeze,
        new_text_head=config.text_model is not None,
        lora=config.lora,
        gradient_checkpointing=config.gradient_checkpointing,
        shard=config.shard,
        seed=config.seed,
        cache_bytes=int(config.cache_gb * 1e9),
        threads=threads,
        save_steps=config.save_steps,
        save_all=config.save_all_checkpoints,
    )


if __name__ == "__main__":
    command.main(Finetune, run, __doc__)
