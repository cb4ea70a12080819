"""Gradients: the same from one process or two, at once or in micro-batches, with dropout and batch norm as they are."""

import copy
import functools
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from train_jobs import batches as batches_module
from train_jobs import gradients, losses, trainable
from train_jobs.augment import Augmentation
from train_jobs.batches import Batch, Batches
from train_jobs.encoder import Encoder

CASES = (
    "contrastive", "contrastive, smoothed", "contrastive, mixed", "contrastive without bank",
    "pairs", "pairs, mixed", "sigmoid",
)  # fmt: skip
Gradients = dict[str, np.ndarray]


def _one_step(case: str, accumulate: int) -> tuple[float, Gradients]:
    """Loss and gradients of a run's only step over one fixed global batch of 16, from the trainer itself."""
    loss = case.split()[0].strip(",")
    plan = tiny.schedule(
        loss=loss,
        label_smoothing=0.1 if case.endswith("smoothed") else 0.0,
        epochs=1,
        batch_size=16,
        accumulate=accumulate,
        gradient_clip=1e9,
        augmentation=Augmentation(cutmix=1.0 if case.endswith("mixed") else 0.0),
    )
    rows = tiny.labelled(8, each=2) if loss == "pairs" else tiny.pairs(16, things=11)
    limit = batches_module.TEXT_BANK_LIMIT
    batches_module.TEXT_BANK_LIMIT = 4 if case.endswith("without bank") else limit
    model = tiny.encoder()
    try:
        with tempfile.TemporaryDirectory() as folder:
            history = tiny.train(model, plan, Path(folder), rows=rows)
    finally:
        batches_module.TEXT_BANK_LIMIT = limit
    return history[0]["train_loss"], tiny.gradients_of(model)


def _in_both() -> dict[tuple[str, int], tuple[float, Gradients]]:
    return {(case, accumulate): _one_step(case, accumulate) for case in CASES for accumulate in (1, 2)}


@functools.cache
def _two_workers() -> list[dict[tuple[str, int], tuple[float, Gradients]]]:
    return tiny.both(_in_both)


@functools.cache
def _alone(case: str) -> tuple[float, Gradients]:
    return _one_step(case, 1)


def _assert_same(found: tuple[float, Gradients], case: str) -> None:
    """Within 1e-5 of each parameter's largest gradient; of a millionth of all where it is nothing but rounding."""
    loss, expected = _alone(case)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert found[1].keys() == expected.keys()
    largest = max(abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        bound = 1e-5 * abs(gradient).max() + 1e-6 * largest
        assert abs(found[1][name] - gradient).max() < bound, name
    for name in ("model.logit_scale", "logit_bias"):
        np.testing.assert_allclose(found[1][name], expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_there_are_gradients_to_compare(case: str) -> None:
    _, found = _alone(case)
    assert abs(found["model.logit_scale"]).max() > 1e-3
    assert (abs(found["logit_bias"]).max() > 1e-3) == case.startswith(("pairs", "sigmoid"))
    for name in ("model.vision_model.embeddings.patch_embedding.weight", "model.text_projection.weight"):
        assert abs(found[name]).max() > 1e-3


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_micro_batches_give_the_gradients_of_the_whole_batch(case: str, accumulate: int) -> None:
    _assert_same(_one_step(case, accumulate), case)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_two_workers_give_the_gradients_of_one(case: str, accumulate: int) -> None:
    for worker in _two_workers():
        _assert_same(worker[case, accumulate], case)


# What depends on chance or on the batch, against one graph over the same micro-batches.


def _micro_batches(model: Encoder, count: int) -> list[Batch]:
    plan = tiny.schedule(accumulate=count)
    return next(Batches(model, tiny.pairs(16, things=11), plan, None, None).from_step(0, 1))


def _loss(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, batch: Batch) -> Tensor:
    return losses.contrastive(images, texts, batch.image_groups, batch.text_groups, scale)


def _in_one_graph(model: Encoder, parts: Sequence[Batch]) -> None:
    made = [model.towers(part.images, part.texts) for part in parts]
    images, texts = (torch.cat([part[side] for part in made]) for side in (0, 1))
    groups = (torch.cat([getattr(p, name) for p in parts]) for name in ("image_groups", "text_groups"))
    losses.contrastive(images, texts, *groups, made[0][2]).backward()


def _assert_close(found: Gradients, expected: Gradients) -> None:
    assert found.keys() - {"logit_bias"} == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("kind", "checkpointing"), [("clip", False), ("clip", True), ("dual", False)])
def test_the_second_pass_drops_out_the_same_as_the_first(kind: str, checkpointing: bool) -> None:
    model = tiny.encoder(kind, dropout=0.5)
    trainable.prepare(model, tiny.schedule(gradient_checkpointing=checkpointing))
    parts = _micro_batches(model, 3)
    model.towers.train()
    found = {}
    for seed in (5, 6):
        model.towers.zero_grad()
        torch.manual_seed(seed)
        gradients.backward(model.towers, parts, _loss, nullcontext)
        found[seed] = tiny.gradients_of(model)
    model.towers.zero_grad()
    torch.manual_seed(6)
    _in_one_graph(model, parts)
    _assert_close(found[6], tiny.gradients_of(model))
    name = "model.text_projection.weight"
    assert abs(found[5][name] - found[6][name]).max() > 1e-3  # dropout was on


def test_batch_statistics_move_once_and_carry_the_gradients_of_one_graph() -> None:
    model = tiny.encoder("dual")
    parts = _micro_batches(model, 3)
    model.towers.train()
    twin = copy.deepcopy(model)
    gradients.backward(model.towers, parts, _loss, nullcontext)
    _in_one_graph(twin, parts)
    _assert_close(tiny.gradients_of(model), tiny.gradients_of(twin))
    norms = [module for module in model.towers.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.num_batches_tracked == 3 and norm.track_running_stats for norm in norms)
    for (name, found), expected in zip(model.towers.named_buffers(), twin.towers.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


def test_gradients_are_added_to_those_that_are_there() -> None:
    model = tiny.encoder()
    parts = _micro_batches(model, 2)
    once: Gradients = {}
    for _ in range(2):
        gradients.backward(model.towers, parts, _loss, nullcontext)
        once = once or tiny.gradients_of(model)
    name = "model.logit_scale"
    assert tiny.gradients_of(model)[name] == pytest.approx(2 * once[name], rel=1e-5)
