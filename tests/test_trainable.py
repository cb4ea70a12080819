"""What of a model is trained, and that it comes back as plain weights."""

import copy
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import CLIPModel

from data_jobs.errors import InputError
from train_jobs import trainable
from train_jobs.augment import Augmentation
from train_jobs.encoder import Encoder
from train_jobs.schedule import Lora, Schedule

PIXELS = np.random.default_rng(0).integers(0, 256, (5, tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8)
WORDS = [tiny.words(thing) for thing in range(6)]


def _parts(model: Encoder) -> dict[str, set[bool]]:
    """Whether the parameters of each part are trained: {True}, {False}, or both."""
    found: dict[str, set[bool]] = {}
    for name, parameter in model.towers.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        found.setdefault(part, set()).add(parameter.requires_grad)
    return found


def _forward(model: Encoder) -> Tensor:
    """A number that everything has a part in."""
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    images, texts, scale, bias = model.towers(pixels, model.padded(model.token_ids(WORDS)))
    weights = torch.linspace(-1, 1, tiny.WIDTH)
    return (images @ weights).sum() * scale + (texts @ weights).square().sum() + bias


@pytest.mark.parametrize("kind", ["clip", "dual"])
@pytest.mark.parametrize(
    ("freeze", "new_text_head", "frozen"),
    [
        ("none", False, set()),
        ("none", True, set()),
        ("vision", False, {"vision_model", "visual_projection"}),
        ("vision", True, {"vision_model", "visual_projection"}),
        ("text", False, {"text_model", "text_projection"}),
        ("text", True, {"text_model"}),
    ],
)
def test_a_frozen_tower_rests_with_its_head_unless_that_is_new(
    kind: str, freeze: str, new_text_head: bool, frozen: set[str]
) -> None:
    model = tiny.encoder(kind)
    trainable.prepare(model, tiny.schedule(freeze=freeze, new_text_head=new_text_head))
    parts = {
        "vision_model",
        "visual_projection",
        "text_model",
        "text_projection",
        "logit_scale",
        "logit_bias",
    }
    assert _parts(model) == {part: {part not in frozen} for part in parts}


@pytest.mark.parametrize("freeze", ["vision", "text"])
def test_a_siglip_has_no_heads_and_trains_its_own_bias(freeze: str) -> None:
    model = tiny.encoder("siglip")
    trainable.prepare(model, tiny.schedule(freeze=freeze))
    parts = {"vision_model", "text_model", "logit_scale", "logit_bias"}
    assert _parts(model) == {part: {part != f"{freeze}_model"} for part in parts}


@pytest.mark.parametrize("kind", ["clip", "dual", "siglip"])
@pytest.mark.parametrize("freeze", ["none", "vision", "text"])
def test_a_frozen_tower_stays_in_evaluation_mode(kind: str, freeze: str) -> None:
    model = tiny.encoder(kind, dropout=0.5)
    plan = tiny.schedule(freeze=freeze)
    trainable.prepare(model, plan)
    trainable.training_mode(model.towers, plan)
    for name in ("vision", "text"):
        modes = {module.training for module in trainable.tower(model.towers, name).modules()}
        assert modes == {name != freeze}


def test_statistics_of_a_frozen_tower_do_not_move() -> None:
    for freeze in ("vision", "none"):
        model = tiny.encoder("dual")
        plan = tiny.schedule(freeze=freeze)
        before = tiny.state_of(model)
        trainable.training_mode(model.towers, plan)
        _forward(model)
        moved = [
            name for name, value in model.towers.state_dict().items() if not torch.equal(value, before[name])
        ]
        assert (moved == []) == (freeze == "vision")
        assert all("running" in name or "num_batches" in name for name in moved)


def _step(model: Encoder, plan: Schedule) -> None:
    """One large step on everything that is trained."""
    trainable.training_mode(model.towers, plan)
    for optimiser in plan.optimisers(model.towers):
        for _ in range(2):
            model.towers.zero_grad()
            _forward(model).backward()
            optimiser.step()


LORA = Lora(rank=2, alpha=8, dropout=0.3)


@pytest.mark.parametrize(
    ("kind", "freeze"),
    [(kind, freeze) for kind in ("clip", "siglip") for freeze in ("none", "vision", "text")]
    + [("dual", "none"), ("dual", "vision")],
)
def test_lora_trains_adapters_scale_and_bias_only(kind: str, freeze: str) -> None:
    model = tiny.encoder(kind)
    trainable.prepare(model, tiny.schedule(freeze=freeze, lora=LORA))
    trained = [name for name, parameter in model.towers.named_parameters() if parameter.requires_grad]
    adapters = [name for name in trained if "lora_" in name]
    assert len(trained) == len(adapters) + 2
    assert (
        sum("logit_scale" in name for name in trained) == sum("logit_bias" in name for name in trained) == 1
    )
    adapted = {tower for tower in ("vision", "text") if any(f"{tower}_model" in name for name in adapters)}
    assert adapted == {"vision", "text"} - {freeze} - ({"vision"} if kind == "dual" else set())
    _forward(model).backward()
    unused = [name for name in trained if model.towers.get_parameter(name).grad is None]
    assert unused == []  # DDP would wait for them for ever


def test_a_new_text_head_is_trained_beside_the_adapters() -> None:
    model = tiny.encoder()
    trainable.prepare(model, tiny.schedule(freeze="vision", new_text_head=True, lora=LORA))
    trained = [name for name, p in model.towers.named_parameters() if p.requires_grad and "lora_" not in name]
    assert {name.removeprefix("model.base_model.model.") for name in trained} == {
        "text_projection.weight", "logit_scale", "logit_bias",
    }  # fmt: skip


def test_adapters_start_as_the_seed_says_and_change_nothing() -> None:
    plain = tiny.encoder().images(PIXELS)
    starts = []
    for seed in (1, 1, 2):
        model = tiny.encoder()
        torch.rand(seed)  # whatever was drawn before
        trainable.prepare(model, tiny.schedule(lora=LORA, seed=seed))
        np.testing.assert_allclose(model.images(PIXELS), plain, atol=1e-6)
        starts.append(next(p for name, p in model.towers.named_parameters() if "lora_A" in name))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("kind", ["clip", "dual", "siglip"])
def test_merged_weights_embed_as_the_adapted_model_does(kind: str, tmp_path: Path) -> None:
    model, plan = tiny.encoder(kind), tiny.schedule(lora=LORA, weight_decay=0.0)
    plain = model.texts(WORDS)
    trainable.prepare(model, plan)
    _step(model, plan)
    model.towers.eval()
    images, texts = model.images(PIXELS), model.texts(WORDS)
    assert abs(texts - plain).max() > 0.05
    merged = trainable.merged(model)
    np.testing.assert_allclose(merged.images(PIXELS), images, atol=1e-5)
    np.testing.assert_allclose(merged.texts(WORDS), texts, atol=1e-5)
    assert isinstance(model.towers.model, PeftModel) and not isinstance(merged.towers.model, PeftModel)
    np.testing.assert_allclose(model.texts(WORDS), texts, atol=1e-6)  # and may be trained on

    merged.save(tmp_path / "model")
    loaded = Encoder.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(loaded.images(PIXELS), images, atol=1e-5)
    np.testing.assert_allclose(loaded.texts(WORDS), texts, atol=1e-5)
    assert loaded.spec.logit_scale == pytest.approx(model.towers.scale().item())
    assert loaded.spec.logit_bias == pytest.approx(model.towers.logit_bias.item())
    assert loaded.spec.logit_bias != 0


def test_plain_transformers_loads_what_was_merged(tmp_path: Path) -> None:
    model, plan = tiny.encoder(), tiny.schedule(lora=LORA)
    trainable.prepare(model, plan)
    _step(model, plan)
    model.towers.eval()
    trainable.merged(model).save(tmp_path / "model")
    loaded, facts = CLIPModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(facts.values())
    pixels = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        pooled = loaded.vision_model(pixel_values=pixels).pooler_output
        found = nn.functional.normalize(loaded.visual_projection(pooled), dim=-1)
    np.testing.assert_allclose(found, model.images(PIXELS), atol=1e-5)


def test_what_has_no_adapters_is_itself() -> None:
    model = tiny.encoder()
    assert trainable.merged(model) is model


def test_convolutions_cannot_be_adapted() -> None:
    with pytest.raises(InputError, match="no linear layer") as refusal:
        trainable.prepare(tiny.encoder("dual"), tiny.schedule(freeze="text", lora=LORA))
    assert refusal.value.code == "cannot_adapt"


@pytest.mark.parametrize("lora", [Lora(), LORA])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_recomputed_activations_give_the_same_gradients(kind: str, lora: Lora) -> None:
    """With dropout, which is drawn once."""
    plain = tiny.encoder(kind, dropout=0.3)
    sparing = copy.deepcopy(plain)
    found = []
    for model, checkpointing in ((plain, False), (sparing, True)):
        plan = tiny.schedule(gradient_checkpointing=checkpointing, lora=lora)
        trainable.prepare(model, plan)
        trainable.training_mode(model.towers, plan)
        calls = [0]
        layer = trainable.tower(model.towers, "vision").encoder.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1))
        torch.manual_seed(4)
        _forward(model).backward()
        assert calls == [2 if checkpointing else 1]
        found.append(tiny.gradients_of(model))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_residual_network_cannot_recompute() -> None:
    with pytest.raises(InputError, match="VisionTextDualEncoderModel") as refusal:
        trainable.prepare(tiny.encoder("dual"), tiny.schedule(gradient_checkpointing=True))
    assert refusal.value.code == "cannot_checkpoint"


def test_a_parameter_for_masked_pictures_is_waited_for_by_nobody() -> None:
    model = tiny.encoder("dual")
    model.towers.model.vision_model.mask_token = torch.nn.Parameter(torch.zeros(1, 1, 8))
    trainable.prepare(model, tiny.schedule())
    assert not model.towers.model.vision_model.mask_token.requires_grad


def test_pictures_of_two_things_have_no_labels_for_sigmoid() -> None:
    with pytest.raises(InputError, match="no labels") as refusal:
        trainable.prepare(
            tiny.encoder(), tiny.schedule(loss="sigmoid", augmentation=Augmentation(cutmix=0.5))
        )
    assert refusal.value.code == "cannot_mix"
