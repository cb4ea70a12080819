"""Two towers of two checkpoints: both keep their weights, plain transformers loads the whole, and the frozen side means
what it meant."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import LAYERS, TEXTS
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    BertForMaskedLM,
    CLIPModel,
    CLIPVisionModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from data_jobs import text as normaliser
from data_jobs.errors import InputError
from train_jobs import losses, scratch, two_towers
from train_jobs.encoder import Encoder

SMALL = {"n_embd": 32, "n_layer": 1, "n_head": 4}


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.clip_vision(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(vision: Path, bert: Path) -> Encoder:
    return two_towers.build(vision, bert)


def _vit(folder: Path) -> Path:
    ViTModel(ViTConfig(**LAYERS, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _resnet(folder: Path) -> Path:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    tiny_models.clip_processor(size={"shortest_edge": 40}).save_pretrained(folder)
    return folder


def _roberta(folder: Path) -> Path:
    words = tiny_models.tokenizer(model_max_length=10**9)
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = RobertaConfig(
        **LAYERS, vocab_size=len(words), max_position_embeddings=40, type_vocab_size=1, **special
    )
    RobertaModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_clip_vision_tower_keeps_its_space(encoder: Encoder, vision: Path) -> None:
    """The older recipe: what a frozen vision tower pools, at unit norm."""
    photos = tiny_models.photos()
    pixels = torch.from_numpy(np.stack([encoder.pixels(photo) for photo in photos])).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(part)[:, None, None] for part in (encoder.spec.image_mean, encoder.spec.image_std)
    )
    with torch.inference_mode():
        pooled = CLIPVisionModel.from_pretrained(vision)((pixels - mean) / std).pooler_output
    np.testing.assert_allclose(encoder.images(photos), normalize(pooled, dim=-1).numpy(), atol=1e-5)
    assert encoder.spec.image_mean == (0.4, 0.5, 0.6)


def test_the_text_tower_and_its_tokenizer_are_taken(encoder: Encoder, bert: Path) -> None:
    theirs = AutoModel.from_pretrained(bert).state_dict()
    assert theirs.keys() == encoder.towers.model.text_model.state_dict().keys()
    for name, value in encoder.towers.model.text_model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)
    assert encoder.tokenizer.get_vocab() == tiny_models.tokenizer().get_vocab()
    assert encoder.spec.context_length == 40


def test_the_spec_says_whence(encoder: Encoder, vision: Path, bert: Path) -> None:
    spec = encoder.spec
    assert (spec.family, spec.base_model, spec.base_revision) == ("dual", f"{vision} + {bert}", None)
    assert (spec.embedding_dim, spec.image_size, spec.image_resize) == (32, 32, "crop")
    assert (spec.logit_bias, spec.weights_sha256) == (0, None)
    assert spec.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


@pytest.mark.parametrize(
    "make", [tiny_models.clip_vision, _vit, _resnet, tiny_models.clip, tiny_models.siglip]
)
def test_plain_transformers_loads_the_whole(make: Callable[[Path], Path], bert: Path, tmp_path: Path) -> None:
    encoder = two_towers.build(make(tmp_path / "vision"), bert)
    encoder.save(tmp_path / "model")
    photos, words = tiny_models.photos(), [normaliser.normalize(t) for t in TEXTS]
    images, texts = encoder.images(photos), encoder.texts(TEXTS)
    assert np.abs(images - images[0]).max() > 1e-3 and np.abs(texts - texts[0]).max() > 1e-3

    again = Encoder.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(again.images(photos), images)
    np.testing.assert_array_equal(again.texts(TEXTS), texts)
    model = VisionTextDualEncoderModel.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, encoder.towers.model.state_dict()[name], rtol=0, atol=0)
    processor = VisionTextDualEncoderProcessor.from_pretrained(tmp_path / "model")
    inputs = processor(text=words, images=photos, padding=True, return_tensors="pt")
    with torch.inference_mode():
        plain = model.get_text_features(inputs.input_ids, inputs.attention_mask).pooler_output
        np.testing.assert_allclose(normalize(plain, dim=-1).numpy(), texts, atol=1e-5)
        pooled = model.vision_model(inputs.pixel_values).pooler_output.flatten(1)
        theirs = normalize(model.visual_projection(pooled), dim=-1).numpy()
    assert np.einsum("nd,nd->n", theirs, images).min() > 0.999


def test_a_whole_clip_gives_its_tower_and_its_projection(clip: Path, bert: Path) -> None:
    whole, encoder = Encoder.load(clip, device="cpu"), two_towers.build(clip, bert)
    np.testing.assert_array_equal(encoder.images(tiny_models.photos()), whole.images(tiny_models.photos()))
    assert encoder.spec.embedding_dim == 24


def test_a_whole_siglip_gives_its_tower(bert: Path, tmp_path: Path) -> None:
    whole = Encoder.load(tiny_models.siglip(tmp_path), device="cpu")
    encoder = two_towers.build(tmp_path, bert)
    np.testing.assert_allclose(
        encoder.images(tiny_models.photos()), whole.images(tiny_models.photos()), atol=1e-6
    )
    assert (encoder.spec.image_resample, encoder.spec.pad_to_context) == ("bilinear", False)


def test_an_output_of_ours_gives_either_tower(encoder: Encoder, clip: Path, tmp_path: Path) -> None:
    encoder.save(tmp_path / "ours")
    as_vision = two_towers.build(tmp_path / "ours", "scratch:text", texts=TEXTS)
    np.testing.assert_array_equal(
        as_vision.images(tiny_models.photos()), encoder.images(tiny_models.photos())
    )
    assert as_vision.spec.image_mean == encoder.spec.image_mean
    as_text = two_towers.build(clip, tmp_path / "ours")
    ours, theirs = as_text.towers.model.text_model, encoder.towers.model.text_model
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=0)
    assert as_text.spec.context_length == encoder.spec.context_length


def test_embeddings_may_have_another_size(vision: Path, bert: Path) -> None:
    first, again, other = (two_towers.build(vision, bert, projection_dim=16, seed=seed) for seed in (1, 1, 2))
    photos = tiny_models.photos()
    assert first.images(photos).shape == (len(photos), 16) and first.spec.embedding_dim == 16
    np.testing.assert_array_equal(first.images(photos), again.images(photos))
    np.testing.assert_array_equal(first.texts(TEXTS), again.texts(TEXTS))
    assert np.abs(first.images(photos) - other.images(photos)).max() > 0.01


def test_the_seed_decides_what_is_new(vision: Path) -> None:
    texts = [
        two_towers.build(vision, "scratch:text", texts=TEXTS, seed=seed).texts(TEXTS) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert np.abs(texts[0] - texts[2]).max() > 0.01


def test_a_text_tower_from_scratch_starts_as_a_bag_of_words(vision: Path) -> None:
    encoder = two_towers.build(vision, "scratch:text", texts=TEXTS)
    same, shuffled, other = encoder.texts(["red mug lamp", "lamp red mug", "blue sofa floor"])
    assert same @ shuffled > 0.99 > same @ other + 0.1
    assert encoder.spec.context_length == scratch.CONTEXT_LENGTH
    assert encoder.tokenizer("ماگ")["input_ids"][1:-1] != encoder.tokenizer("مبل")["input_ids"][1:-1]


def test_a_frozen_vision_tower_teaches_the_text_tower(vision: Path) -> None:
    """Persian titles learn to meet the pictures of a tower that stays as it is."""
    titles = ["ماگ قرمز", "مبل آبی", "کیک شکلاتی", "چراغ سبز", "میز چوبی", "ظرف سفید", "گردو"]
    encoder = two_towers.build(vision, "scratch:text", texts=titles)
    photos = tiny_models.photos()
    images = torch.from_numpy(encoder.images(photos))
    towers, ids = encoder.towers, encoder.padded(encoder.token_ids(titles))
    trained = [*towers.model.text_model.parameters(), *towers.model.text_projection.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=3e-3)
    groups = torch.arange(len(titles))
    for _ in range(60):
        loss = losses.contrastive(images, towers.text(*ids), groups, groups, torch.tensor(100.0), 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (encoder.texts(titles) @ encoder.images(photos).T).argmax(1).tolist() == list(range(len(titles)))
    np.testing.assert_array_equal(encoder.images(photos), images.numpy())


def test_robertas_positions_start_behind_the_padding(vision: Path, tmp_path: Path) -> None:
    """Its 40 positions hold 39 tokens here, since the padding's id is 0; one more would be out of range."""
    encoder = two_towers.build(vision, _roberta(tmp_path))
    assert encoder.spec.context_length == 39
    assert encoder.texts([" ".join(["mug"] * 500)]).shape == (1, 32)


def test_a_missing_pooler_is_made(vision: Path, bert: Path, tmp_path: Path) -> None:
    """As BERTs come that were trained on masked words alone."""
    shutil.copytree(bert, tmp_path / "masked")
    model = AutoModel.from_pretrained(bert, add_pooling_layer=False)
    masked = BertForMaskedLM(model.config)
    masked.bert.load_state_dict(model.state_dict())
    masked.save_pretrained(tmp_path / "masked")
    first, again = (two_towers.build(vision, tmp_path / "masked", seed=3).texts(TEXTS) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def _text_model(folder: Path, kind: Any, config: Any) -> Path:
    kind(config).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


UNPOOLED = {
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(dim=32, n_layers=1, n_heads=4, hidden_dim=64, vocab_size=400),
    ),
    "gpt2": (GPT2Model, GPT2Config(**SMALL, vocab_size=400)),
    "t5": (T5Model, T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=400)),
}


@pytest.mark.parametrize("name", UNPOOLED)
def test_a_text_model_that_pools_nothing_is_refused(name: str, vision: Path, tmp_path: Path) -> None:
    folder = _text_model(tmp_path, *UNPOOLED[name])
    with pytest.raises(InputError, match=f"'{name}'.*(no pooled output|with a decoder)") as refusal:
        two_towers.build(vision, folder)
    assert refusal.value.code == "not_a_text_model"
    assert "XLM-R" in refusal.value.suggestion


def test_towers_in_each_others_place_are_refused(vision: Path, bert: Path) -> None:
    with pytest.raises(InputError, match="takes input_ids") as refusal:
        two_towers.build(bert, bert)
    assert refusal.value.code == "not_a_vision_model"
    with pytest.raises(InputError, match="takes pixel_values") as refusal:
        two_towers.build(vision, vision)
    assert refusal.value.code == "not_a_text_model"


def test_siglips_that_do_not_fit_are_refused(vision: Path, bert: Path, tmp_path: Path) -> None:
    for check in (two_towers.check, two_towers.build):
        with pytest.raises(InputError, match="NaFlex") as refusal:
            check(tiny_models.siglip2(tmp_path / "naflex"), bert)
        assert refusal.value.code == "not_a_vision_model"
        with pytest.raises(InputError, match="padding") as refusal:
            check(vision, tiny_models.siglip(tmp_path / "siglip"))
        assert refusal.value.code == "not_a_text_model"


def test_a_processor_of_another_size_is_refused(vision: Path, bert: Path, tmp_path: Path) -> None:
    shutil.copytree(vision, tmp_path / "vision")
    tiny_models.clip_processor(48).save_pretrained(tmp_path / "vision")
    with pytest.raises(InputError, match="48 pixels") as refusal:
        two_towers.build(tmp_path / "vision", bert)
    assert refusal.value.code == "not_a_vision_model"


@pytest.mark.parametrize(
    ("lacking", "code"),
    [
        ("preprocessor_config.json", "no_processor"),
        ("tokenizer.json", "no_tokenizer"),
        ("model.safetensors", "model_not_found"),
    ],
)
def test_what_is_missing_is_named(lacking: str, code: str, vision: Path, bert: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "vision", tmp_path / "bert"]
    for source, folder in zip((vision, bert), folders, strict=True):
        shutil.copytree(source, folder)
        for path in folder.glob(lacking):
            path.unlink()
    with pytest.raises(InputError) as refusal:
        two_towers.build(*folders)
    assert refusal.value.code == code


def test_what_can_be_checked_beforehand_is(vision: Path, bert: Path) -> None:
    two_towers.check(vision, bert)
    two_towers.check(vision, "scratch:text")
    for names in ((vision, "/no/such/model"), ("/no/such/model", bert)):
        with pytest.raises(InputError, match="/no/such/model") as refusal:
            two_towers.check(*names)
        assert refusal.value.code == "model_not_found"
    with pytest.raises(InputError, match="scratch:words") as refusal:
        two_towers.check(vision, "scratch:words")
    assert refusal.value.code == "unknown_recipe"


def test_a_whole_model_without_a_part_is_refused(clip: Path, bert: Path, tmp_path: Path) -> None:
    shutil.copytree(clip, tmp_path / "clip")
    state = CLIPModel.from_pretrained(clip).state_dict()
    del state["visual_projection.weight"]
    CLIPModel.from_pretrained(clip).save_pretrained(tmp_path / "clip", state_dict=state)
    with pytest.raises(InputError, match=r"visual_projection\.weight") as refusal:
        two_towers.build(tmp_path / "clip", bert)
    assert refusal.value.code == "incomplete_weights"
