"""Encoder: the same numbers whatever the batch, after saving, and in plain transformers."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    VisionTextDualEncoderModel,
)

from data_jobs import text
from data_jobs.errors import InputError
from train_jobs import scratch
from train_jobs.devices import choose_device
from train_jobs.encoder import Encoder
from train_jobs.spec import FILE, QUANTILES, Calibration, Estimate, ModelSpec, Threshold

TEXTS = [
    "a mug", "a plain blue sofa beside a lamp on a wooden floor", "ماگ قرمز", "lamp",
    "کیک شکلاتی با گردو و خامه در ظرف سفید روی میز چوبی", "a red mug on wood", "",
]  # fmt: skip
SIZES = [(91, 37), (64, 64), (33, 200), (299, 301), (17, 20), (1, 1), (500, 3), (63, 65), (65, 64)]

CALIBRATION = Calibration(
    method="platt",
    slope=31.4,
    intercept=-8.1,
    knots=(),
    pairs=400,
    sample_prevalence=0.5,
    prevalence=0.5,
    ece=0.02,
    match_quantiles=tuple(0.3 + step / 100 for step in range(QUANTILES)),
    mismatch_quantiles=tuple(0.1 + step / 100 for step in range(QUANTILES)),
    data_fingerprint=None,
)


def _photos(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Image.Image]:
    """Random pixels: nothing is smooth, so that one pixel's shift shows."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


PHOTOS = _photos()


@pytest.fixture(scope="module", params=sorted(scratch.RECIPES))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return scratch.build(request.param, TEXTS)


@pytest.fixture(scope="module")
def clip() -> Encoder:
    return scratch.build("scratch:tiny-clip", TEXTS)


@pytest.fixture(scope="module")
def saved(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `encoder` on disk, with a calibration, a threshold and a bias."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    spec = encoder.spec.replace(
        calibration=CALIBRATION,
        threshold=Threshold(
            0.27, 0.26, 0.28, "youden", 0.5, Estimate(0.95, 0.91, 0.98), Estimate(0.84, 0.77, 0.9)
        ),
        logit_bias=-1.5,
        metrics={"auroc": 0.98},
    )
    Encoder(encoder.towers.model, encoder.tokenizer, spec, device="cpu").save(folder)
    return folder


@pytest.fixture
def clip_folder(clip: Encoder, tmp_path: Path) -> Path:
    """A saved model to break."""
    Encoder(clip.towers.model, clip.tokenizer, clip.spec, device="cpu").save(tmp_path / "model")
    return tmp_path / "model"


def test_embeddings_are_unit_float32(encoder: Encoder) -> None:
    for rows, count in ((encoder.images(PHOTOS), len(PHOTOS)), (encoder.texts(TEXTS), len(TEXTS))):
        assert rows.dtype == np.float32
        assert rows.shape == (count, encoder.spec.embedding_dim)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    for rows in (encoder.images([]), encoder.texts([]), encoder.images(np.empty((0, 8, 8, 3), np.uint8))):
        assert rows.shape == (0, encoder.spec.embedding_dim)
        assert rows.dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_texts_keep_their_order_and_ignore_their_neighbours(encoder: Encoder, batch_size: int) -> None:
    """Batches are of like length, so rows travel; and the padding of a longer neighbour must not count."""
    other = Encoder(encoder.towers.model, encoder.tokenizer, encoder.spec, "cpu", batch_size)
    alone = np.concatenate([encoder.texts([words]) for words in TEXTS])
    assert len(np.unique(alone.round(5), axis=0)) == len(TEXTS)
    np.testing.assert_allclose(other.texts(TEXTS), alone, atol=1e-5)
    np.testing.assert_allclose(other.texts(TEXTS[::-1]), alone[::-1], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_images_do_not_depend_on_the_batch(encoder: Encoder, batch_size: int) -> None:
    other = Encoder(encoder.towers.model, encoder.tokenizer, encoder.spec, "cpu", batch_size)
    alone = np.concatenate([encoder.images([photo]) for photo in PHOTOS])
    np.testing.assert_allclose(other.images(PHOTOS), alone, atol=1e-5)


def test_ready_pixels_equal_pictures(encoder: Encoder) -> None:
    pixels = np.stack([encoder.pixels(photo) for photo in PHOTOS])
    assert pixels.shape == (len(PHOTOS), encoder.spec.image_size, encoder.spec.image_size, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(encoder.images(pixels), encoder.images(PHOTOS))


@pytest.mark.parametrize(
    ("arabic", "persian"),
    [
        ("كيك شكلاتي", "کیک شکلاتی"),
        ("۱۲ فنجان", "12 فنجان"),
        ("  a\tred  mug\n", "a red mug"),
        ("مـــاگ", "ماگ"),
    ],
)
def test_texts_equal_to_a_reader_have_equal_embeddings(encoder: Encoder, arabic: str, persian: str) -> None:
    first, second, other = encoder.texts([arabic]), encoder.texts([persian]), encoder.texts(["a blue sofa"])
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-3


def test_images_are_embedded_without_gradients_and_in_evaluation_mode(encoder: Encoder) -> None:
    assert not encoder.towers.training
    np.testing.assert_array_equal(encoder.images(PHOTOS[:2]), encoder.images(PHOTOS[:2]))


def test_saving_and_loading_changes_nothing(encoder: Encoder, saved: Path) -> None:
    again = Encoder.load(saved, device="cpu")
    np.testing.assert_array_equal(again.images(PHOTOS), encoder.images(PHOTOS))
    np.testing.assert_array_equal(again.texts(TEXTS), encoder.texts(TEXTS))
    written = ModelSpec.read(saved)
    assert again.spec == written
    assert written is not None and written.threshold is not None and written.calibration is not None
    assert written.threshold.value == 0.27
    assert again.towers.logit_bias.item() == -1.5
    assert again.towers.scale().item() == pytest.approx(encoder.spec.logit_scale, rel=1e-4)


def test_save_tells_the_spec_it_wrote(encoder: Encoder, saved: Path, tmp_path: Path) -> None:
    again = Encoder.load(saved, device="cpu")
    spec = again.save(tmp_path / "copy")
    assert spec == again.spec == ModelSpec.read(tmp_path / "copy")
    assert spec.model_hash == Encoder.load(saved, device="cpu").spec.model_hash  # same weights, same vectors
    assert spec.weights_sha256 is not None


def test_save_replaces_a_model_only_when_told(clip_folder: Path) -> None:
    again = Encoder.load(clip_folder, device="cpu")
    with pytest.raises(InputError) as refusal:
        again.save(clip_folder)
    assert refusal.value.code == "output_exists"
    again.save(clip_folder, overwrite=True)
    (clip_folder.parent / "notes").mkdir()
    (clip_folder.parent / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(InputError) as refusal:
        again.save(clip_folder.parent / "notes", overwrite=True)
    assert refusal.value.code == "not_an_artefact"


def _plain_clip(folder: Path, photos: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Image and text embeddings by plain transformers, which normalises no text."""
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    words = [text.normalize(t) for t in TEXTS]
    inputs = processor(text=words, images=list(photos), return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = model(**inputs)
    return out.image_embeds.numpy(), out.text_embeds.numpy()


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", [64, 48])
def test_plain_transformers_computes_the_same_embeddings(
    clip: Encoder, tmp_path: Path, resize: str, size: int
) -> None:
    spec = clip.spec.replace(image_resize=resize, image_mean=(0.48, 0.46, 0.41), image_std=(0.27, 0.26, 0.28))
    model = clip.towers.model
    if size != spec.image_size:  # another model of another size: vision positions depend on it
        config = CLIPConfig.from_dict(model.config.to_dict())
        config.vision_config.image_size = size
        model, spec = CLIPModel(config).eval(), spec.replace(image_size=size)
    mine = Encoder(model, clip.tokenizer, spec, device="cpu")
    mine.save(tmp_path / "model")
    photos = _photos([(w, h) for w, h in SIZES if max(w, h) < 40 * min(w, h)])
    images, texts = _plain_clip(tmp_path / "model", photos)
    assert np.einsum("nd,nd->n", mine.images(photos), images).min() > 0.9999
    np.testing.assert_allclose(mine.texts(TEXTS), texts, atol=5e-6)


def test_a_saved_directory_is_for_plain_transformers(encoder: Encoder, saved: Path) -> None:
    tokenizer, processor = AutoTokenizer.from_pretrained(saved), AutoImageProcessor.from_pretrained(saved)
    assert tokenizer("a red mug")["input_ids"] == encoder.token_ids(["a red mug"])[0]
    pixels = processor(PHOTOS[0], return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    expected = (encoder.pixels(PHOTOS[0]) / 255 - encoder.spec.image_mean) / encoder.spec.image_std
    assert np.abs(pixels - expected).mean() < 1e-3
    model_class = {"clip": CLIPModel, "dual": VisionTextDualEncoderModel}[encoder.spec.family]
    model = model_class.from_pretrained(saved)
    ours = encoder.towers.model.state_dict()
    assert model.state_dict().keys() == ours.keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, ours[name], rtol=0, atol=0)


def test_a_saved_text_tower_computes_the_same_in_plain_transformers(encoder: Encoder, saved: Path) -> None:
    model_class = {"clip": CLIPModel, "dual": VisionTextDualEncoderModel}[encoder.spec.family]
    model, tokenizer = model_class.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    with torch.inference_mode():
        out = model.get_text_features(**tokenizer(TEXTS, return_tensors="pt", padding=True))
    rows = torch.nn.functional.normalize(out.pooler_output, dim=-1).numpy()
    np.testing.assert_allclose(encoder.texts(TEXTS), rows, atol=1e-4)


def test_a_changed_weight_is_noticed(clip_folder: Path) -> None:
    path = clip_folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last byte is a weight's: the file stays readable
    path.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256") as refusal:
        Encoder.load(clip_folder)
    assert refusal.value.code == "weights_changed"


def test_a_broken_spec_is_refused(clip_folder: Path) -> None:
    facts = json.loads((clip_folder / FILE).read_text())
    del facts["threshold"]
    (clip_folder / FILE).write_text(json.dumps(facts))
    with pytest.raises(InputError, match="threshold") as refusal:
        Encoder.load(clip_folder)
    assert refusal.value.code == "bad_spec"
    (clip_folder / FILE).write_text(json.dumps(facts | {"threshold": None, "text_normalizer": "fa-0"}))
    with pytest.raises(InputError) as refusal:
        Encoder.load(clip_folder)
    assert refusal.value.code == "normalizer_mismatch"


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"'bert'.*clip") as refusal:
        Encoder.load(tmp_path)
    assert refusal.value.code == "unsupported_model"


def _plain_checkpoint(folder: Path, clip: Encoder, **processing: Any) -> Path:
    """What somebody else's CLIP looks like: no spec.json, cropped pictures of 32 pixels, 20 tokens."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {
        name: getattr(clip.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    model = CLIPModel(
        CLIPConfig(
            text_config={
                **tower, **special, "vocab_size": len(clip.tokenizer), "max_position_embeddings": 20,
            },
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            projection_dim=24,
            logit_scale_init_value=3.0,
        )
    )  # fmt: skip
    model.eval().save_pretrained(folder)
    square = {"height": 32, "width": 32}
    facts = {"size": {"shortest_edge": 32}, "crop_size": square, "image_mean": [0.4, 0.5, 0.6]} | processing
    CLIPProcessor(CLIPImageProcessorPil(**facts), clip.tokenizer).save_pretrained(folder)
    return folder


def test_a_plain_checkpoint_gets_its_spec_from_its_configuration(clip: Encoder, tmp_path: Path) -> None:
    loaded = Encoder.load(_plain_checkpoint(tmp_path, clip), device="cpu")
    spec = loaded.spec
    assert spec.base_model == str(tmp_path)
    assert (spec.family, spec.embedding_dim, spec.context_length) == ("clip", 24, 20)
    assert (spec.image_size, spec.image_resize, spec.image_mean) == (32, "crop", (0.4, 0.5, 0.6))
    assert spec.logit_scale == pytest.approx(np.exp(3))
    assert (spec.logit_bias, spec.calibration, spec.threshold, spec.metrics) == (0, None, None, {})
    assert spec.weights_sha256 is not None
    images, texts = _plain_clip(tmp_path, PHOTOS)
    assert np.einsum("nd,nd->n", loaded.images(PHOTOS), images).min() > 0.999
    np.testing.assert_allclose(loaded.texts(TEXTS), texts, atol=1e-4)


def test_older_checkpoints_are_told_apart_by_their_weights_too(clip: Encoder, tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):  # two random initialisations
        folder = _plain_checkpoint(tmp_path / name, clip)
        expected = Encoder.load(folder, device="cpu").texts(TEXTS)
        torch.save(CLIPModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        loaded = Encoder.load(folder, device="cpu")
        np.testing.assert_array_equal(loaded.texts(TEXTS), expected)
        hashes.add(loaded.spec.model_hash)
    assert len(hashes) == 2


def test_a_plain_checkpoint_may_have_a_margin_and_another_filter(clip: Encoder, tmp_path: Path) -> None:
    """The shortest side to 40, the centre's 32 pixels, bilinear."""
    folder = _plain_checkpoint(tmp_path / "theirs", clip, size={"shortest_edge": 40}, resample=2)
    loaded = Encoder.load(folder, device="cpu")
    spec = loaded.spec
    assert (spec.image_size, spec.image_shortest, spec.image_resample) == (32, 40, "bilinear")
    assert np.einsum("nd,nd->n", loaded.images(PHOTOS), _plain_clip(folder, PHOTOS)[0]).min() > 0.999
    loaded.save(tmp_path / "ours")
    theirs, ours = (_plain_clip(tmp_path / name, PHOTOS)[0] for name in ("theirs", "ours"))
    np.testing.assert_array_equal(theirs, ours)


def test_a_plain_checkpoint_may_be_in_shards(clip: Encoder, tmp_path: Path) -> None:
    folder = _plain_checkpoint(tmp_path, clip)
    expected = Encoder.load(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    expected.towers.model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    loaded = Encoder.load(folder, device="cpu")
    np.testing.assert_array_equal(loaded.texts(TEXTS), expected.texts(TEXTS))
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(InputError, match="model-00002") as refusal:
        Encoder.load(folder)
    assert refusal.value.code == "incomplete_weights"


def test_weights_that_lack_something_are_refused(clip: Encoder, tmp_path: Path) -> None:
    """transformers would go on with random numbers."""
    folder = _plain_checkpoint(tmp_path, clip)
    model = CLIPModel.from_pretrained(folder)
    state = {name: value for name, value in model.state_dict().items() if "text_projection" not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(InputError, match=r"1 parameters of a CLIPModel, such as text_projection") as refusal:
        Encoder.load(folder)
    assert refusal.value.code == "incomplete_weights"
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])  # as a copy leaves it that broke off
    with pytest.raises(InputError, match="cannot be read") as refusal:
        Encoder.load(folder)
    assert refusal.value.code == "incomplete_weights"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("preprocessor_config.json", "processor_config.json"), "no_processor"),
        (("tokenizer.json",), "no_tokenizer"),
        (("tokenizer.json", "tokenizer_config.json", "processor_config.json"), "no_tokenizer"),
    ],
)
def test_files_that_are_missing_are_named(
    names: tuple[str, ...], code: str, clip: Encoder, tmp_path: Path
) -> None:
    folder = _plain_checkpoint(tmp_path, clip)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError) as refusal:
        Encoder.load(folder)
    assert refusal.value.code == code


def test_a_processor_that_cannot_be_reproduced_is_refused(clip: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="filter 1") as refusal:
        Encoder.load(_plain_checkpoint(tmp_path, clip, resample=1))
    assert refusal.value.code == "unsupported_processor"


def test_a_model_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    for content in ("{}", '{"model_type": "chameleopard"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError) as refusal:
            Encoder.load(tmp_path)
        assert refusal.value.code == "unsupported_model"


def test_a_plain_checkpoint_may_squash(clip: Encoder, tmp_path: Path) -> None:
    folder = _plain_checkpoint(tmp_path, clip, size={"height": 32, "width": 32}, do_center_crop=False)
    loaded = Encoder.load(folder, device="cpu")
    assert (loaded.spec.image_size, loaded.spec.image_resize) == (32, "squash")
    assert np.einsum("nd,nd->n", loaded.images(PHOTOS), _plain_clip(folder, PHOTOS)[0]).min() > 0.999


def test_a_plain_checkpoint_becomes_one_of_ours(clip: Encoder, tmp_path: Path) -> None:
    loaded = Encoder.load(_plain_checkpoint(tmp_path / "theirs", clip), device="cpu")
    loaded.save(tmp_path / "ours")
    ours = Encoder.load(tmp_path / "ours", device="cpu")
    np.testing.assert_array_equal(ours.images(PHOTOS), loaded.images(PHOTOS))
    np.testing.assert_array_equal(ours.texts(TEXTS), loaded.texts(TEXTS))
    shutil.rmtree(tmp_path / "theirs")
    assert ours.spec == Encoder.load(tmp_path / "ours", device="cpu").spec


def test_the_scale_and_the_bias_are_saved_as_they_were_trained(clip_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(clip_folder, device="cpu")
    with torch.no_grad():
        encoder.towers.logit_bias.fill_(-2.5)
        encoder.towers.model.logit_scale.fill_(3.0)
    spec = encoder.save(tmp_path / "trained")
    assert (spec.logit_bias, spec.logit_scale) == (-2.5, pytest.approx(np.exp(3)))
    assert Encoder.load(tmp_path / "trained", device="cpu").towers.logit_bias.item() == -2.5


def test_the_scale_can_be_bounded_as_clips_is_and_still_learns(clip: Encoder, tmp_path: Path) -> None:
    loaded = Encoder.load(_plain_checkpoint(tmp_path, clip), device="cpu")
    loaded.towers.model.logit_scale.data.fill_(10.0)
    loaded.towers.bound_scale()
    scale = loaded.towers.scale()
    assert scale.item() == pytest.approx(100)
    scale.backward()
    assert loaded.towers.model.logit_scale.grad.item() == pytest.approx(100)


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device() in ("cuda", "mps", "cpu")
    with pytest.raises(InputError, match=r"'tpu'.*'cpu'") as refusal:
        choose_device("tpu")
    assert refusal.value.code == "no_such_device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused(clip_folder: Path) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(InputError) as refusal:
            Encoder.load(clip_folder, device=device)
        assert refusal.value.code == "no_such_device"
    assert choose_device() == ("mps" if torch.backends.mps.is_available() else "cpu")
