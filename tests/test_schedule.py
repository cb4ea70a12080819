"""Schedule: learning rates by step, and what is decayed and by whom it is trained."""

import math

import pytest
import tiny
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from train_jobs.encoder import Encoder
from train_jobs.schedule import set_learning_rates

KINDS = ("clip", "dual", "siglip")


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    plan = tiny.schedule(warmup=0.2)
    found = [plan.factor(step, 10) for step in range(10)]
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert found[4] == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert found[6] == pytest.approx(0.5)
    assert found[9] == pytest.approx(0.0380602, rel=1e-5)  # (1 + cos 7/8 pi) / 2
    assert found[1:] == sorted(found[1:], reverse=True)


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [(0.0, 1, [1.0]), (0.0, 3, [1.0, 1.0, 0.5]), (1.0, 4, [0.25, 0.5, 0.75, 1.0]), (0.01, 2, [1.0, 1.0])],
)
def test_the_edges_of_the_schedule(warmup: float, steps: int, expected: list[float]) -> None:
    plan = tiny.schedule(warmup=warmup)
    assert [plan.factor(step, steps) for step in range(steps)] == pytest.approx(expected)


def _decays(model: Encoder, optimisers: list[torch.optim.Optimizer]) -> dict[str, float]:
    """Weight decay by parameter name; each parameter is in one group of one optimiser."""
    names = {id(parameter): name for name, parameter in model.towers.named_parameters()}
    found: dict[str, float] = {}
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                assert name not in found
                found[name] = group["weight_decay"]
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_matrices_and_kernels_decay(kind: str, optimizer: str) -> None:
    model = tiny.encoder(kind)
    plan = tiny.schedule(vision_optimizer=optimizer, weight_decay=0.2, vision_weight_decay=0.3)
    decays = _decays(model, plan.optimisers(model.towers))
    assert decays.keys() == {name for name, _ in model.towers.named_parameters()}
    for name, decay in decays.items():
        if any(part in name.lower() for part in ("norm", "bias", "logit", "class_embedding", "probe")):
            assert decay == 0 or "probe" in name, name
        else:
            assert decay == (0.3 if "vision_model" in name else 0.2), name
    assert sum(decay == 0 for decay in decays.values()) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_weights_without_gradient_shrink_only_where_they_decay(kind: str) -> None:
    model = tiny.encoder(kind)
    before = tiny.state_of(model)
    optimisers = tiny.schedule(
        learning_rate=0.1, weight_decay=0.5, vision_learning_rate=0.2, vision_weight_decay=0.4
    ).optimisers(model.towers)
    for parameter in model.towers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimiser in optimisers:
        optimiser.step()
    for name, parameter in model.towers.named_parameters():
        shrunk = (1 - 0.2 * 0.4 if "vision_model" in name else 1 - 0.1 * 0.5) if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk, msg=name)


def test_sgd_trains_the_vision_tower_only() -> None:
    model = tiny.encoder("dual")
    sgd, adamw = tiny.schedule(vision_optimizer="sgd").optimisers(model.towers)
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    assert _decays(model, [sgd]).keys() == {
        name for name, _ in model.towers.named_parameters() if "vision_model" in name
    }
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in sgd.param_groups)
    (only,) = tiny.schedule().optimisers(model.towers)
    assert isinstance(only, torch.optim.AdamW)


def test_what_is_frozen_is_given_to_no_optimiser() -> None:
    model = tiny.encoder("dual")
    model.towers.model.vision_model.requires_grad_(False)
    (only,) = tiny.schedule(vision_optimizer="sgd").optimisers(model.towers)
    assert isinstance(only, torch.optim.AdamW)
    assert not any("vision_model" in name for name in _decays(model, [only]))


def test_every_group_keeps_its_own_peak() -> None:
    plan = tiny.schedule(vision_optimizer="sgd", learning_rate=0.5, vision_learning_rate=0.25)
    sgd, adamw = plan.optimisers(tiny.encoder("dual").towers)
    for factor in (1.0, 0.1, 0.5):
        set_learning_rates([sgd, adamw], factor)
        assert {group["lr"] for group in sgd.param_groups} == {0.25 * factor}
        assert {group["lr"] for group in adamw.param_groups} == {0.5 * factor}


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_decides_what_matrices_are_multiplied_in(precision: str, dtype: torch.dtype) -> None:
    with tiny.schedule(precision=precision).autocast(torch.device("cpu"))():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(("precision", "flash"), [("float32", True), ("bfloat16", False)])
def test_attention_on_cpus_is_not_by_the_kernel_that_is_slow_in_bfloat16(precision: str, flash: bool) -> None:
    plan, device = tiny.schedule(precision=precision), torch.device("cpu")
    query = torch.ones(1, 2, 4, 8, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as run, plan.attention(device):
        with plan.autocast(device)():
            attended = scaled_dot_product_attention(query, query, query)
        attended.sum().backward()
    assert any("flash_attention" in event.key for event in run.key_averages()) == flash
