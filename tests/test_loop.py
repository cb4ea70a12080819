"""Training: as a loop written by hand, on any number of workers, and the same to the bit when it was interrupted."""

import copy
import functools
import itertools
import math
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from data_jobs.errors import InputError
from train_jobs import losses, metrics, trainable, workers
from train_jobs.augment import Augmentation
from train_jobs.batches import Batches
from train_jobs.encoder import Encoder
from train_jobs.loop import STATES, Event, Training
from train_jobs.pairdata import PairData, score_pairs
from train_jobs.runstate import RunState
from train_jobs.schedule import Lora, Schedule, set_learning_rates
from train_jobs.validation import Validation

EXACT = (
    "epoch",
    "step",
    "train_loss",
    "val_auroc",
    "val_recall",
    "learning_rate",
    "logit_scale",
    "score",
    "best",
)
History = list[dict[str, float]]


def _exact(history: History) -> History:
    """The history without what a clock says."""
    return [{name: epoch[name] for name in EXACT} for epoch in history]


def _weights(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name / "model.safetensors").read_bytes() for name in ("best_model", "final_model")
    }


# Against a loop written by hand.


def _by_hand(model: Encoder, plan: Schedule, rows: PairData) -> tuple[list[float], dict[str, Tensor]]:
    """Mean loss of every epoch, and the averaged weights at the end, of contrastive training without shortcuts."""
    towers = model.towers
    batches = Batches(model, rows, plan, None, None)
    steps = plan.epochs * batches.per_epoch
    trainable.prepare(model, plan)
    optimisers = plan.optimisers(towers)
    found, average = [], tiny.state_of(model)
    for step, (batch,) in enumerate(batches.from_step(0, steps)):
        trainable.training_mode(towers, plan)
        towers.zero_grad()
        images, texts, scale, _ = towers(batch.images, batch.texts)
        loss = losses.contrastive(images, texts, batch.image_groups, batch.text_groups, scale)
        loss.backward()
        gradients = [p.grad for p in towers.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients))
        for gradient in gradients:
            gradient *= min(1.0, plan.gradient_clip / norm)
        set_learning_rates(optimisers, plan.factor(step, steps))
        for optimiser in optimisers:
            optimiser.step()
        found.append(loss.item())
        kept = 0.0 if step == 0 else min(plan.average, (1 + step) / (10 + step))
        for name, value in towers.state_dict().items():
            if value.is_floating_point():
                average[name] = kept * average[name] + (1 - kept) * value
            else:
                average[name] = value.clone()
    return np.reshape(found, (plan.epochs, -1)).mean(1).tolist(), average


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("clip", {}),
        ("clip", {"gradient_clip": 0.05, "warmup": 0.5, "average": 0.9}),
        ("dual", {"vision_optimizer": "sgd", "average": 0.3}),
        ("siglip", {}),
        ("clip", {"freeze": "vision", "augmentation": Augmentation.none()}),
        ("dual", {"freeze": "vision", "augmentation": Augmentation.none(), "new_text_head": True}),
        ("dual", {"freeze": "vision"}),
        ("clip", {"freeze": "text"}),
    ],
)
def test_a_run_is_what_a_plain_loop_does(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Frozen towers, whose features are cached, are in the plain loop computed anew in every step."""
    plan, rows = tiny.schedule(**changes), tiny.pairs(24, things=12)
    expected, weights = _by_hand(tiny.encoder(kind), plan, rows)
    history = tiny.train(tiny.encoder(kind), plan, tmp_path, rows=rows)
    assert [epoch["train_loss"] for epoch in history] == pytest.approx(expected, rel=2e-4)
    final, hand = Encoder.load(tmp_path / "final_model", device="cpu"), tiny.encoder(kind)
    hand.towers.load_state_dict(weights)
    cosines = [score_pairs(model, tiny.VALIDATION) for model in (final, hand)]
    np.testing.assert_allclose(*cosines, atol=2e-3)
    untrained = score_pairs(tiny.encoder(kind), tiny.VALIDATION)
    assert abs(cosines[0] - untrained).max() > 0.05


@pytest.mark.parametrize(("augmentation", "factor"), [(Augmentation.none(), 0), (Augmentation(), 1)])
def test_a_frozen_vision_tower_sees_each_picture_once(
    augmentation: Augmentation, factor: int, tmp_path: Path
) -> None:
    """24 pictures to train and 14 to validate, in three epochs; with random views those to train every time."""
    model, seen = tiny.encoder(), [0]
    model.towers.model.vision_model.register_forward_hook(
        lambda module, args, out: seen.__setitem__(0, seen[0] + len(out.pooler_output))
    )
    tiny.train(model, tiny.schedule(freeze="vision", augmentation=augmentation, epochs=3), tmp_path)
    assert seen[0] == 14 + (24 * 3 if factor else 24)


# What a run says and leaves.


def test_what_happens_is_told_in_order(tmp_path: Path) -> None:
    events: list[Event] = []
    epochs: History = []
    history = tiny.train(
        tiny.encoder(),
        tiny.schedule(save_steps=2),
        tmp_path,
        progress=events.append,
        end_of_epoch=epochs.append,
    )
    assert events[0] == {"kind": "start", "resumed_step": 0, "steps": 6, "workers": 1}
    kinds = [(event["kind"], event["step"]) for event in events[1:] if event["kind"] != "step"]
    assert kinds == [
        ("checkpoint", 2), ("epoch", 3), ("checkpoint", 3), ("checkpoint", 4), ("epoch", 6), ("checkpoint", 6),
    ]  # fmt: skip
    steps = {event["step"]: event for event in events if event["kind"] == "step"}
    assert {3, 6} <= set(steps)  # more only where steps take seconds
    for step, epoch in ((3, 1), (6, 2)):
        told = steps[step]
        assert (told["epoch"], told["epochs"], told["steps"]) == (epoch, 2, 6)
        assert told["loss"] == pytest.approx(history[epoch - 1]["train_loss"])
        assert told["samples_per_s"] > 0 and 0 <= told["data_wait"] <= 1
    assert [{"kind": "epoch", **epoch} for epoch in history] == [e for e in events if e["kind"] == "epoch"]
    assert epochs == history


def test_what_a_run_leaves(tmp_path: Path) -> None:
    tiny.train(tiny.encoder(), tiny.schedule(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best_model", STATES, "final_model"]
    every = tmp_path / "every"
    tiny.train(tiny.encoder(), tiny.schedule(save_all=True, save_steps=2), every)
    assert {path.name for path in every.glob("checkpoint_*")} == {
        "checkpoint_epoch_1", "checkpoint_epoch_2", "checkpoint_step_2", "checkpoint_step_4",
    }  # fmt: skip
    for name in ("best_model", "final_model"):
        assert _weights(every)[name] == _weights(tmp_path)[name]


@pytest.mark.parametrize("choose_by", ["auroc", "recall"])
def test_the_best_model_is_that_of_the_best_epoch(choose_by: str, tmp_path: Path) -> None:
    plan = tiny.schedule(choose_by=choose_by, save_all=True, epochs=5, learning_rate=0.03)
    history = tiny.train(tiny.encoder(seed=2), plan, tmp_path)
    for epoch in history:
        assert epoch["score"] == epoch[f"val_{choose_by}"]
    scores = [epoch["score"] for epoch in history]
    least = 1e-12 if choose_by == "auroc" else -0.5 / 6 - 1e-9  # of six texts a single one decides nothing
    assert [epoch["best"] for epoch in history] == [
        float(score >= max(scores[:n], default=-1) + least) for n, score in enumerate(scores)
    ]
    best = max(number for number, epoch in enumerate(history, 1) if epoch["best"])
    same = tmp_path / f"checkpoint_epoch_{best}" / "model.safetensors"
    assert _weights(tmp_path)["best_model"] == same.read_bytes()


def test_the_models_are_those_that_were_judged(tmp_path: Path) -> None:
    """Averaged, with their scale and bias; and only the average is."""
    model = tiny.encoder("dual")
    history = tiny.train(model, tiny.schedule(average=0.9, loss="pairs"), tmp_path, rows=_labelled())
    final = Encoder.load(tmp_path / "final_model", device="cpu")
    found = metrics.auroc(score_pairs(final, tiny.VALIDATION), tiny.VALIDATION.labels)
    assert found == pytest.approx(history[-1]["val_auroc"])
    assert final.spec.logit_scale == pytest.approx(final.towers.scale().item())
    assert final.spec.logit_bias == final.towers.logit_bias.item() != model.towers.logit_bias.item() != 0


def test_what_was_true_of_the_start_is_not_said_of_what_comes_of_it(tmp_path: Path) -> None:
    model = tiny.encoder()
    model.spec = model.spec.replace(metrics={"auroc": 0.99}, data_fingerprint="another")
    tiny.train(model, tiny.schedule(save_all=True), tmp_path)
    for name in ("best_model", "final_model", "checkpoint_epoch_1"):
        spec = Encoder.load(tmp_path / name, device="cpu").spec
        assert spec.metrics == {} and spec.data_fingerprint == "tiny"


def test_training_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "vision_learning_rate": 1e-12}
    history = tiny.train(tiny.encoder(), tiny.schedule(patience=2, epochs=9, **still), tmp_path)
    assert [epoch["best"] for epoch in history] == [1.0, 0.0, 0.0]  # by AUROC, of equals the first
    assert {"best_model", "final_model"} < set(os.listdir(tmp_path))


def test_a_loss_that_explodes_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "vision_learning_rate": 1e30}
    with pytest.raises(InputError, match="in step 2") as refusal:
        tiny.train(tiny.encoder(), tiny.schedule(**wild), tmp_path)
    assert refusal.value.code == "diverged" and "--learning-rate" in refusal.value.suggestion


def test_bfloat16_is_for_the_passes_only(tmp_path: Path) -> None:
    full = tiny.train(tiny.encoder(), tiny.schedule(), tmp_path / "full")
    model = tiny.encoder()
    half = tiny.train(model, tiny.schedule(precision="bfloat16", accumulate=2), tmp_path / "half")
    assert half[0]["train_loss"] == pytest.approx(full[0]["train_loss"], rel=0.02)
    assert half[0]["train_loss"] != full[0]["train_loss"]
    assert {parameter.dtype for parameter in model.towers.parameters()} == {torch.float32}


# The first bias of `pairs` and `sigmoid`.


def _labelled(count: int = 24) -> PairData:
    return tiny.pairs(count, things=12, mismatches=tuple(range(0, count, 3)))


def test_pairs_start_where_match_and_mismatch_are_as_likely_as_in_the_data(tmp_path: Path) -> None:
    model, rows = tiny.encoder(), _labelled()
    Training(model, rows, tiny.VALIDATION, tiny.schedule(loss="pairs"), tmp_path)
    cosines = score_pairs(model, rows)
    middle = (cosines[rows.labels == 1].mean() + cosines[rows.labels == 0].mean()) / 2
    logit = model.towers.scale().item() * float(middle) + model.towers.logit_bias.item()
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(16 / 24, rel=1e-4)


def test_sigmoid_starts_with_one_match_among_its_texts(tmp_path: Path) -> None:
    model, rows = tiny.encoder(), tiny.pairs(24, things=12)
    Training(model, rows, tiny.VALIDATION, tiny.schedule(loss="sigmoid"), tmp_path)
    both = rows.with_mismatches(0)
    cosines = score_pairs(model, both)
    middle = (cosines[both.labels == 1].mean() + cosines[both.labels == 0].mean()) / 2
    logit = model.towers.scale().item() * float(middle) + model.towers.logit_bias.item()
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(
        1 / 12, abs=0.02
    )  # the sample is drawn in another order


def test_rare_matches_leave_a_finite_bias(tmp_path: Path) -> None:
    rows = tiny.pairs(301, things=12, mismatches=tuple(range(1, 301)))
    model = tiny.encoder()
    Training(model, rows, tiny.VALIDATION, tiny.schedule(loss="pairs"), tmp_path)
    assert model.towers.logit_bias.item() != 0 and math.isfinite(model.towers.logit_bias.item())


def test_a_bias_that_is_there_is_kept(tmp_path: Path) -> None:
    model = tiny.encoder("siglip")
    model.towers.logit_bias.data.fill_(-12.5)
    Training(model, _labelled(), tiny.VALIDATION, tiny.schedule(loss="pairs"), tmp_path)
    assert model.towers.logit_bias.item() == -12.5
    model = tiny.encoder()
    Training(model, _labelled(), tiny.VALIDATION, tiny.schedule(), tmp_path)
    assert model.towers.logit_bias.item() == 0  # contrastive training has no use for one


# Interrupted and resumed.


class KilledError(Exception):
    """Stands for whatever ends a process."""


def _stopping(kind: str, count: int) -> Callable[[Event], None]:
    """Raise KilledError at the `count`th event of a kind."""
    coming = itertools.count(1)

    def progress(event: Event) -> None:
        if event["kind"] == kind and next(coming) == count:
            raise KilledError

    return progress


ADAPTED = Lora(rank=2, dropout=0.3)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "dropout, average, accumulate": ("dual", {"average": 0.9, "accumulate": 2}),
    "sgd and adamw": ("dual", {"vision_optimizer": "sgd"}),
    "lora": ("clip", {"lora": ADAPTED, "average": 0.9, "gradient_checkpointing": True}),
    "frozen": ("dual", {"freeze": "vision", "augmentation": Augmentation.none(), "choose_by": "recall"}),
    "pairs": ("siglip", {"loss": "pairs"}),
    "sigmoid": ("clip", {"loss": "sigmoid", "accumulate": 2}),
    "patience": ("clip", {"patience": 1, "epochs": 6, "learning_rate": 0.03}),
    "cutmix": ("clip", {"augmentation": Augmentation(cutmix=0.5)}),
    "pairs, cutmix": ("clip", {"loss": "pairs", "augmentation": Augmentation(cutmix=0.5)}),
}
STOPS = {
    "in the first epoch": [("checkpoint", 1)],
    "after an epoch": [("checkpoint", 2)],
    "twice, in the middle of epochs": [("checkpoint", 3), ("checkpoint", 2)],
    "before an epoch is saved": [("epoch", 2)],
    "before anything is saved": [("epoch", 1)],
    "when all is done but the last model": [("checkpoint", 6)],
}


def _run(name: str, folder: Path, progress: Callable[[Event], None] = lambda event: None) -> History:
    """Three epochs of three steps from a fresh model; a state after steps 2, 3, 4, 6, 8 and 9."""
    kind, changes = RUNS[name]
    plan = tiny.schedule(**{"epochs": 3, "save_steps": 2} | changes)
    rows = _labelled() if plan.loss == "pairs" else tiny.pairs(24, things=12)
    return tiny.train(tiny.encoder(kind, dropout=0.3), plan, folder, rows=rows, progress=progress)


@functools.cache
def _undisturbed(name: str) -> tuple[History, dict[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(name, Path(folder)), _weights(Path(folder))


def _interrupted(name: str, folder: Path, stops: list[tuple[str, int]]) -> History:
    for stop in stops:
        with pytest.raises(KilledError):
            _run(name, folder, _stopping(*stop))
    return _run(name, folder)


@pytest.mark.parametrize(
    ("name", "stop"),
    [("dropout, average, accumulate", stop) for stop in STOPS]
    + [(name, "twice, in the middle of epochs") for name in list(RUNS)[1:] if name != "patience"]
    + [("patience", "after an epoch"), ("lora", "before anything is saved")],
)
def test_an_interrupted_run_ends_as_the_undisturbed_one_to_the_bit(
    name: str, stop: str, tmp_path: Path
) -> None:
    history, weights = _undisturbed(name)
    assert _exact(_interrupted(name, tmp_path, STOPS[stop])) == _exact(history)
    assert _weights(tmp_path) == weights


def test_the_runs_that_are_compared_are_not_all_the_same() -> None:
    assert len({_undisturbed(name)[1]["final_model"] for name in RUNS}) == len(RUNS)
    assert len(_undisturbed("patience")[0]) < 6


def test_a_run_resumes_where_it_was_saved(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        _run("sigmoid", tmp_path, _stopping("checkpoint", 3))
    events: list[Event] = []
    _run("sigmoid", tmp_path, events.append)
    assert events[0]["resumed_step"] == 4
    assert [event["step"] for event in events if event["kind"] == "checkpoint"] == [6, 8, 9]


def test_a_damaged_state_costs_the_steps_since_the_one_before(tmp_path: Path) -> None:
    history, weights = _undisturbed("sigmoid")
    with pytest.raises(KilledError):
        _run("sigmoid", tmp_path, _stopping("checkpoint", 4))
    newest = tmp_path / STATES / "step_00000006" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    events: list[Event] = []
    assert _exact(_run("sigmoid", tmp_path, events.append)) == _exact(history)
    assert events[0]["resumed_step"] == 4
    assert _weights(tmp_path) == weights


def test_a_finished_run_that_is_asked_again_trains_no_more(tmp_path: Path) -> None:
    history = _run("sigmoid", tmp_path)
    events: list[Event] = []
    assert _run("sigmoid", tmp_path, events.append) == history
    assert [event["kind"] for event in events] == ["start"]


# Two workers.


def _of_two(name: str, folder: Path, stops: list[tuple[str, int]]) -> History:
    """One worker's history of a run that is interrupted at each stop. What rank 0 reports stops both."""
    return _exact(_interrupted(name, folder, stops))


def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    plan = tiny.schedule()
    alone = tiny.train(tiny.encoder(), plan, tmp_path / "one")
    found = tiny.both(_train, plan, tmp_path / "two")
    assert found[0] == found[1]
    for epoch, expected in zip(found[0], _exact(alone), strict=True):
        assert epoch["train_loss"] == pytest.approx(expected["train_loss"], rel=2e-4)
        assert epoch["val_auroc"] == pytest.approx(
            expected["val_auroc"], abs=0.05
        )  # a pair may change places
        assert epoch["logit_scale"] == pytest.approx(expected["logit_scale"], rel=1e-4)
    cosines = [
        score_pairs(Encoder.load(tmp_path / name / "final_model", device="cpu"), tiny.VALIDATION)
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(*cosines, atol=2e-3)


def _train(plan: Schedule, folder: Path, kind: str = "clip") -> History:
    rows = _labelled() if plan.loss == "pairs" else None
    return _exact(tiny.train(tiny.encoder(kind), plan, folder, rows=rows))


@pytest.mark.parametrize("name", ["dropout, average, accumulate", "sgd and adamw"])
def test_two_workers_judge_the_model_that_is_saved(name: str, tmp_path: Path) -> None:
    """Each has batch statistics of its own while it trains; the saved ones are rank 0's."""
    found = tiny.both(_of_two, name, tmp_path, [])
    assert found[0] == found[1]
    final = Encoder.load(tmp_path / "final_model", device="cpu")
    measured = Validation(final, tiny.VALIDATION, tiny.schedule()).measure(final)
    assert measured == pytest.approx({key: found[0][-1][key] for key in measured})


@pytest.mark.parametrize("name", ["dropout, average, accumulate", "lora"])
def test_two_interrupted_workers_end_as_undisturbed_ones_to_the_bit(name: str, tmp_path: Path) -> None:
    undisturbed = tiny.both(_of_two, name, tmp_path / "undisturbed", [])
    resumed = tiny.both(_of_two, name, tmp_path / "resumed", STOPS["twice, in the middle of epochs"])
    assert resumed == undisturbed
    assert _weights(tmp_path / "resumed") == _weights(tmp_path / "undisturbed")


def test_one_worker_goes_on_where_two_were_stopped(tmp_path: Path) -> None:
    plan = tiny.schedule(epochs=3, save_steps=2)
    tiny.both(_stop_two, plan, tmp_path)
    resumed = tiny.train(tiny.encoder(), plan, tmp_path)
    alone = tiny.train(tiny.encoder(), plan, tmp_path / "alone")
    for epoch, expected in zip(resumed, alone, strict=True):
        assert epoch["train_loss"] == pytest.approx(expected["train_loss"], rel=5e-4)


@pytest.mark.parametrize(
    ("kind", "loss"), [("clip", "contrastive"), ("dual", "contrastive"), ("clip", "pairs")]
)
def test_sharded_towers_learn_what_whole_ones_do(kind: str, loss: str, tmp_path: Path) -> None:
    plan = tiny.schedule(loss=loss, epochs=3, save_steps=2, accumulate=2, gradient_clip=0.5)
    whole = tiny.both(_train, plan, tmp_path / "whole", kind)
    sharded = replace(plan, shard=True)
    found = tiny.both(_train, sharded, tmp_path / "sharded", kind)
    assert found[0] == found[1]
    for epoch, expected in zip(found[0], whole[0], strict=True):
        assert epoch["train_loss"] == pytest.approx(expected["train_loss"], rel=2e-4)
    cosines = [
        score_pairs(Encoder.load(tmp_path / name / "final_model", device="cpu"), tiny.VALIDATION)
        for name in ("whole", "sharded")
    ]
    np.testing.assert_allclose(*cosines, atol=2e-3)


@pytest.mark.parametrize("alone", [False, True])
def test_a_sharded_run_goes_on_where_it_was_stopped(alone: bool, tmp_path: Path) -> None:
    """With as many workers, to the bit; or with a single one, which has the towers whole."""
    plan = tiny.schedule(epochs=3, save_steps=2, shard=True)
    undisturbed = tiny.both(_train, plan, tmp_path / "undisturbed")[0]
    tiny.both(_stop_two, plan, tmp_path / "stopped")
    resume = functools.partial(_train, plan, tmp_path / "stopped")
    found = resume() if alone else tiny.both(resume)[0]
    for epoch, expected in zip(found, undisturbed, strict=True):
        assert epoch["train_loss"] == pytest.approx(expected["train_loss"], rel=5e-4 if alone else 0)


def _stop_two(plan: Schedule, folder: Path) -> None:
    with pytest.raises(KilledError):
        tiny.train(tiny.encoder(), plan, folder, progress=_stopping("checkpoint", 3))


def _train_without_room(folder: Path, limit: int) -> tuple[str, int | None]:
    """The error of a run whose rank 0 may write `limit` bytes a file after its first epoch, and the step kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill_the_disk(epoch: dict[str, float]) -> None:
        if workers.rank() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    try:
        tiny.train(tiny.encoder(), tiny.schedule(save_all=True), folder, end_of_epoch=fill_the_disk)
    except OSError as error:
        found = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state = RunState.latest(folder / STATES)
    return found, None if state is None else state.step


@pytest.mark.parametrize("what", ["model", "state"])
def test_a_full_disk_is_an_error_of_all_workers_and_the_run_goes_on_when_there_is_room(
    what: str, tmp_path: Path
) -> None:
    undisturbed = tiny.both(_train, tiny.schedule(save_all=True), tmp_path / "undisturbed")
    size = len(_weights(tmp_path / "undisturbed")["final_model"])
    folder = tmp_path / "full"
    found = tiny.both(_train_without_room, folder, size // 2 if what == "model" else size + 2000)
    assert found[0] == found[1]
    message, kept = found[0]
    assert "could not be written" in message and "File too large" in message
    assert str(folder) in message and (STATES in message) == (what == "state")
    assert kept == 3
    assert not [path for path in folder.rglob("*") if ".writing-" in path.name]
    assert tiny.both(_train, tiny.schedule(save_all=True), folder) == undisturbed
    assert _weights(folder) == _weights(tmp_path / "undisturbed")


def test_a_run_shows_no_trace_of_what_was_random_before(tmp_path: Path) -> None:
    """Dropout and adapters follow from the seed and the step."""
    for name in ("lora", "dropout, average, accumulate"):
        torch.rand(7)
        folder = tmp_path / "again"
        assert _exact(_run(name, folder)) == _exact(_undisturbed(name)[0])
        shutil.rmtree(folder)


def test_the_encoder_that_was_given_is_trained_in_place(tmp_path: Path) -> None:
    model = tiny.encoder()
    before = copy.deepcopy(tiny.state_of(model))
    tiny.train(model, tiny.schedule(), tmp_path)
    assert any(not torch.equal(value, before[name]) for name, value in tiny.state_of(model).items())
    final = Encoder.load(tmp_path / "final_model", device="cpu")
    np.testing.assert_allclose(
        score_pairs(final, tiny.VALIDATION), score_pairs(model, tiny.VALIDATION), atol=1e-6
    )
