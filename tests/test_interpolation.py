"""WiSE-FT: the ends are the models themselves, the middle is the mean, and unlike models are refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_jobs.errors import InputError
from train_jobs import scratch
from train_jobs.encoder import Encoder
from train_jobs.interpolation import interpolate
from train_jobs.spec import Calibration, Estimate, Threshold

TEXTS = ["a red mug", "a wooden chair", "ماگ قرمز", "صندلی چوبی با پایهٔ بلند", "A brown dotted bottle."]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
CALIBRATION = Calibration(
    "platt", 30.0, -8.0, (), 400, 0.5, 0.5, 0.02, (0.3,) * 21, (0.1,) * 21, "fingerprint"
)
THRESHOLD = Threshold(0.27, 0.26, 0.28, "youden", 0.5, Estimate(0.9, 0.8, 0.95), Estimate(0.8, 0.7, 0.9))


def made(recipe: str, seed: int) -> Encoder:
    """Weights of its own, batch statistics and counters too, a bias and a calibration."""
    encoder = scratch.build(recipe, TEXTS, seed)
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for name, tensor in encoder.towers.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(seed + 7)
            elif "running_" in name:
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("logit_scale"):
                tensor.fill_(2.0 + seed)
        encoder.towers.logit_bias.fill_(-1.0 - seed)
    encoder.spec = encoder.spec.replace(
        logit_scale=float(np.exp(2.0 + seed)),
        logit_bias=-1.0 - seed,
        calibration=CALIBRATION,
        threshold=THRESHOLD,
        metrics={"auroc": 0.9},
        data_fingerprint="fine" if seed else None,
    )
    return encoder


@pytest.fixture(scope="module", params=sorted(scratch.RECIPES))
def pair(request: pytest.FixtureRequest) -> tuple[Encoder, Encoder]:
    return made(request.param, 0), made(request.param, 1)


def embeddings(encoder: Encoder) -> np.ndarray:
    size = encoder.spec.image_size
    return np.concatenate([encoder.images(PIXELS[:, :size, :size]), encoder.texts(TEXTS)])


def test_the_ends_are_the_models_themselves(pair: tuple[Encoder, Encoder]) -> None:
    for alpha, original in zip((0, 1), pair, strict=True):
        before = embeddings(original)
        found = interpolate(*pair, alpha)
        np.testing.assert_array_equal(embeddings(found), before)
        np.testing.assert_array_equal(embeddings(original), before)
        assert (
            found.spec == original.spec
        )  # calibrated as it was: these are the weights it was calibrated with


@pytest.mark.parametrize("alpha", [0.5, 0.25])
def test_between_every_floating_tensor_is_the_weighted_mean(
    pair: tuple[Encoder, Encoder], alpha: float
) -> None:
    a, b = pair
    states = [encoder.towers.state_dict() for encoder in (a, b, interpolate(a, b, alpha))]
    assert any(name.endswith("logit_scale") for name in states[2]) and "logit_bias" in states[2]
    for name, mixed in states[2].items():
        first, second = states[0][name], states[1][name]
        if mixed.is_floating_point():
            torch.testing.assert_close(mixed, (1 - alpha) * first + alpha * second)
        else:
            assert torch.equal(mixed, second), name


def test_facts_of_a_mixture(pair: tuple[Encoder, Encoder], tmp_path: Path) -> None:
    """Not calibrated, with its own scale and bias, and what is saved is what was mixed."""
    mixed = interpolate(*pair, 0.5)
    assert mixed.spec.calibration is None and mixed.spec.threshold is None and mixed.spec.metrics == {}
    assert mixed.spec.logit_scale == pytest.approx(np.exp(2.5))
    assert mixed.towers.scale().item() == pytest.approx(mixed.spec.logit_scale)
    assert mixed.spec.logit_bias == mixed.towers.logit_bias.item() == -1.5
    recipe = pair[0].spec.base_model
    assert mixed.spec.base_model == f"0.5 * ({recipe}) + 0.5 * ({recipe})"
    assert mixed.spec.data_fingerprint == "fine"
    spec = mixed.save(tmp_path / "mixed")
    again = Encoder.load(tmp_path / "mixed", "cpu")
    assert again.spec == spec
    np.testing.assert_allclose(embeddings(again), embeddings(mixed), atol=1e-6)
    assert not np.allclose(embeddings(mixed), embeddings(pair[0]), atol=1e-2)


def other_mean(encoder: Encoder) -> None:
    encoder.spec = encoder.spec.replace(image_mean=(0.4, 0.5, 0.5))


def other_activation(encoder: Encoder) -> None:
    encoder.towers.model.config.vision_config.hidden_act = "quick_gelu"


def other_shape(encoder: Encoder) -> None:
    encoder.towers.model.visual_projection = torch.nn.Linear(160, 64, bias=False)


def other_tokenizer(encoder: Encoder) -> None:
    encoder.tokenizer = scratch.train_tokenizer(["other words", "کلمه‌های دیگر"], vocabulary=280)


def case_kept(encoder: Encoder) -> None:
    """The same vocabulary, cut otherwise."""
    encoder.tokenizer = copy.deepcopy(encoder.tokenizer)
    encoder.tokenizer.backend_tokenizer.normalizer = None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_mean, "image_mean: (0.5, 0.5, 0.5) and (0.4, 0.5, 0.5)"),
        (other_activation, "config.json's vision_config.hidden_act: gelu and quick_gelu"),
        (other_shape, "the tensor model.visual_projection.weight: (128, 160) and (64, 160)"),
        (other_tokenizer, "the tokenizer's "),
        (case_kept, 'how they cut "A brown dotted bottle'),
    ],
)
def test_unlike_models_are_refused_with_the_first_difference(
    change: Callable[[Encoder], None], said: str
) -> None:
    a, b = made("scratch:tiny-clip", 0), made("scratch:tiny-clip", 1)
    interpolate(a, b, 0.5)
    change(b)
    with pytest.raises(InputError) as refused:
        interpolate(a, b, 0.5)
    assert refused.value.code == "not_the_same_architecture"
    assert said in refused.value.message


def test_families_do_not_mix() -> None:
    with pytest.raises(InputError, match="family: clip and dual"):
        interpolate(made("scratch:tiny-clip", 0), made("scratch:resnet", 0), 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_beyond_the_ends_is_refused(alpha: float, pair: tuple[Encoder, Encoder]) -> None:
    with pytest.raises(InputError, match="within 0 and 1"):
        interpolate(*pair, alpha)
