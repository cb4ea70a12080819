"""SigLIP, SigLIP 2 and the rest: what plain transformers computes with its own processor, and back again."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from tiny_models import SIGLIP_BIAS, SIGLIP_SCALE, TEXTS
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    Siglip2Model,
    Siglip2Processor,
    SiglipModel,
    SiglipProcessor,
)

from data_jobs import text
from train_jobs.encoder import Encoder
from train_jobs.spec import FILE, ModelSpec

SIGLIPS = {"siglip": tiny_models.siglip, "siglip2": tiny_models.siglip2}
ALL: dict[str, Callable[[Path], Path]] = {**SIGLIPS, "clip": tiny_models.clip}
PLAIN = {"siglip": (SiglipModel, SiglipProcessor), "siglip2": (Siglip2Model, Siglip2Processor)}


@pytest.fixture(scope="module", params=SIGLIPS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SIGLIPS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return Encoder.load(folder, device="cpu")


def _plain(folder: Path, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and text embeddings and logits by transformers, asked as its documentation says for SigLIP."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    # Not through the whole processor: Siglip2Processor asks for 16 pixels a patch whatever the checkpoint says.
    pixels = processor.image_processor(images=images, return_tensors="pt")
    ids = processor.tokenizer(
        [text.normalize(words) for words in TEXTS], padding="max_length", max_length=64, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        pictures = normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
        texts = normalize(model.get_text_features(ids).pooler_output, dim=-1)
        logits = model(input_ids=ids, **pixels).logits_per_image
    return pictures.numpy(), texts.numpy(), logits.numpy()


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", a, b)


def test_embeddings_are_those_of_plain_transformers(folder: Path, encoder: Encoder) -> None:
    photos = tiny_models.photos()
    if encoder.spec.family == "siglip2":  # NaFlex keeps the shape of a picture; we feed it squares
        photos = [photo.resize((max(photo.size),) * 2) for photo in photos]
    images, texts, _ = _plain(folder, photos)
    assert _cosines(encoder.images(photos), images).min() > 0.9999
    np.testing.assert_allclose(encoder.texts(TEXTS), texts, atol=1e-6)
    assert len(np.unique(texts.round(5), axis=0)) == len(TEXTS)
    assert np.abs(images - images[0]).max() > 0.01


def test_of_ready_pixels_they_are_equal_and_so_are_the_logits(folder: Path, encoder: Encoder) -> None:
    ready = [Image.fromarray(pixels) for pixels in map(encoder.pixels, tiny_models.photos())]
    images, texts, logits = _plain(folder, ready)
    ours, words = encoder.images(ready), encoder.texts(TEXTS)
    np.testing.assert_allclose(ours, images, atol=1e-6)
    np.testing.assert_allclose(words, texts, atol=1e-6)
    scaled = encoder.towers.scale().item() * ours @ words.T + encoder.towers.logit_bias.item()
    np.testing.assert_allclose(scaled, logits, atol=5e-4)


def test_the_spec_says_what_siglip_needs(encoder: Encoder) -> None:
    spec = encoder.spec
    assert (spec.image_size, spec.image_shortest, spec.image_resize) == (32, 32, "squash")
    assert (spec.image_resample, spec.image_mean) == ("bilinear", (0.5, 0.5, 0.5))
    assert (spec.embedding_dim, spec.context_length, spec.pad_to_context) == (32, 64, True)
    assert spec.logit_scale == pytest.approx(SIGLIP_SCALE)
    assert spec.logit_bias == pytest.approx(SIGLIP_BIAS)


def test_a_scale_beyond_clips_bound_is_kept(encoder: Encoder) -> None:
    assert encoder.towers.scale().item() == pytest.approx(SIGLIP_SCALE, rel=1e-5)
    assert encoder.towers.scale().shape == ()


def test_padding_is_to_the_context_and_attended_to(encoder: Encoder) -> None:
    ids = encoder.token_ids(["a mug", "lamp"])
    batch, mask = encoder.padded(ids)
    assert batch.shape == mask.shape == (2, 64)
    assert mask.min() == 1
    assert (batch[0, len(ids[0]) :] == encoder.tokenizer.pad_token_id).all()


def test_a_tokenizer_that_pads_on_the_left_does(tmp_path: Path) -> None:
    """As Siglip2Tokenizer does unless told otherwise."""
    encoder = Encoder.load(tiny_models.siglip(tmp_path, padding_side="left"), device="cpu")
    assert encoder.padded(encoder.token_ids(["a mug"]))[0][0, 0] == encoder.tokenizer.pad_token_id
    np.testing.assert_allclose(encoder.texts(TEXTS), _plain(tmp_path, tiny_models.photos())[1], atol=1e-6)


def test_a_long_text_is_cut_to_the_context(encoder: Encoder) -> None:
    (ids,) = encoder.token_ids([" ".join(["mug sofa"] * 200)])
    assert len(ids) == 64
    assert encoder.padded([ids])[0].shape == (1, 64)


def test_a_trained_bias_is_written_into_the_model(encoder: Encoder, tmp_path: Path) -> None:
    with torch.no_grad():
        encoder.towers.logit_bias.fill_(-3.5)
        encoder.towers.model.logit_scale.fill_(5.0)
    spec = encoder.save(tmp_path / "model")
    assert (spec.logit_bias, spec.logit_scale) == (-3.5, pytest.approx(np.exp(5)))
    plain = AutoModel.from_pretrained(tmp_path / "model")
    assert plain.logit_bias.item() == -3.5
    assert Encoder.load(tmp_path / "model", device="cpu").towers.logit_bias.item() == -3.5


def test_every_parameter_is_in_the_graph_once(encoder: Encoder) -> None:
    """DDP waits for the gradient of each parameter; a bias that nothing reads would hang it."""
    towers = copy.deepcopy(encoder.towers)
    names = [name for name, _ in towers.named_parameters()]
    assert "logit_bias" in names and "model.logit_bias" not in names
    pixels = torch.from_numpy(encoder.pixels(tiny_models.photos()[0]))[None].permute(0, 3, 1, 2)
    images, texts, scale, bias = towers(pixels, encoder.padded(encoder.token_ids(["a mug"])))
    assert bias.shape == ()
    (scale * (images * texts).sum() + bias).backward()
    assert [name for name, parameter in towers.named_parameters() if parameter.grad is None] == []


def test_a_saved_directory_is_for_plain_transformers(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model")
    model_class, processor_class = PLAIN[encoder.spec.family]
    model = model_class.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, encoder.towers.model.state_dict()[name], rtol=0, atol=0)
    processor = processor_class.from_pretrained(tmp_path / "model")
    assert processor.tokenizer("a mug")["input_ids"] == encoder.token_ids(["a mug"])[0]
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == encoder.tokenizer.get_vocab()
    again = Encoder.load(tmp_path / "model", device="cpu")
    assert again.spec == encoder.spec == ModelSpec.read(tmp_path / "model")
    photos = tiny_models.photos()
    np.testing.assert_array_equal(again.images(photos), encoder.images(photos))
    np.testing.assert_array_equal(again.texts(TEXTS), encoder.texts(TEXTS))
    (tmp_path / "model" / FILE).unlink()  # and without our facts, by transformers' alone
    as_theirs = Encoder.load(tmp_path / "model", device="cpu").spec
    assert as_theirs.replace(base_model=again.spec.base_model) == again.spec


@pytest.mark.parametrize("family", ALL)
def test_a_checkpoint_in_bfloat16_is_used_in_float32(family: str, tmp_path: Path) -> None:
    folder = ALL[family](tmp_path / "theirs")
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    loaded = Encoder.load(folder, device="cpu")
    assert {parameter.dtype for parameter in loaded.towers.parameters()} == {torch.float32}
    loaded.save(tmp_path / "ours")
    again = Encoder.load(tmp_path / "ours", device="cpu")
    np.testing.assert_array_equal(again.texts(TEXTS), loaded.texts(TEXTS))
    np.testing.assert_array_equal(again.images(tiny_models.photos()), loaded.images(tiny_models.photos()))


@pytest.mark.parametrize("family", ALL)
def test_weights_may_be_shared(family: str, tmp_path: Path) -> None:
    """One tensor under two names is written once, and is one again in what transformers loads."""
    encoder = Encoder.load(ALL[family](tmp_path / "theirs"), device="cpu")
    vision = encoder.towers.model.vision_model
    layers = vision.encoder.layers
    layers[1].mlp.fc1.weight = layers[0].mlp.fc1.weight
    expected = encoder.images(tiny_models.photos())
    encoder.save(tmp_path / "ours")
    again = Encoder.load(tmp_path / "ours", device="cpu")
    np.testing.assert_array_equal(again.images(tiny_models.photos()), expected)


@pytest.mark.parametrize("family", ALL)
def test_pooled_features_stand_for_pictures_and_texts(family: str, tmp_path: Path) -> None:
    encoder = Encoder.load(ALL[family](tmp_path), device="cpu")
    pixels = torch.from_numpy(np.stack([encoder.pixels(photo) for photo in tiny_models.photos()]))
    pixels, ids = pixels.permute(0, 3, 1, 2), encoder.padded(encoder.token_ids(TEXTS))
    with torch.inference_mode():
        towers = encoder.towers
        whole = towers(pixels, ids)
        pooled = towers(towers.pool_images(pixels), towers.pool_texts(*ids))
    for ours, theirs in zip(pooled, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
