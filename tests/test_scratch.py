"""The recipes from scratch: whole models with a tokenizer of their own, decided by the seed."""

import numpy as np
import pytest
from PIL import Image

from data_jobs import text
from data_jobs.errors import InputError
from train_jobs.encoder import Encoder
from train_jobs.scratch import CONTEXT_LENGTH, LOGIT_SCALE, RECIPES, build, train_tokenizer

TEXTS = ["a red mug on wood", "a plain blue sofa", "ماگ قرمز روی چوب", "مبل آبی ساده", "一个红色的杯子"]
PICTURES = [Image.new("RGB", (50, 30), colour) for colour in ("red", "navy", "white")]


@pytest.fixture(scope="module", params=sorted(RECIPES))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return build(request.param, TEXTS)


def test_a_recipe_makes_a_whole_encoder(encoder: Encoder) -> None:
    images, texts = encoder.images(PICTURES), encoder.texts(TEXTS)
    for rows, count in ((images, len(PICTURES)), (texts, len(TEXTS))):
        assert rows.dtype == np.float32
        assert rows.shape == (count, encoder.spec.embedding_dim)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert len(np.unique(rows.round(6), axis=0)) == count  # different inputs, different embeddings


def test_the_spec_states_what_was_built(encoder: Encoder) -> None:
    spec = encoder.spec
    assert spec.base_model in RECIPES
    assert (spec.family, spec.image_size) == RECIPES[spec.base_model][:2]
    assert (spec.image_shortest, spec.image_resample) == (spec.image_size, "bicubic")
    assert not spec.pad_to_context
    assert spec.text_normalizer == text.VERSION
    assert spec.logit_scale == LOGIT_SCALE
    assert encoder.towers.scale().item() == pytest.approx(LOGIT_SCALE, rel=1e-4)
    assert encoder.towers.logit_bias.item() == spec.logit_bias == 0
    assert (spec.calibration, spec.threshold, spec.weights_sha256) == (None, None, None)


def test_texts_beyond_the_context_are_cut(encoder: Encoder) -> None:
    words = " ".join(["mug sofa"] * 200)
    (ids,) = encoder.token_ids([words])
    assert len(ids) == CONTEXT_LENGTH == encoder.spec.context_length
    assert (ids[0], ids[-1]) == (encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id)
    np.testing.assert_array_equal(encoder.texts([words]), encoder.texts([words + " lamp"]))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_seed_decides_the_weights(name: str) -> None:
    first, again, other = (build(name, TEXTS, seed).texts(TEXTS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_the_order_and_the_spelling_of_the_texts_do_not_matter() -> None:
    spelled_differently = [t.replace("ی", "ي").replace("ک", "ك") for t in TEXTS]
    vocabularies = [
        train_tokenizer(texts).get_vocab() for texts in (TEXTS, TEXTS[::-1] + TEXTS, spelled_differently)
    ]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = train_tokenizer(TEXTS)
    for words in ("a red mug on wood", "ماگ قرمز روی چوب", "ελληνικά 日本語 🍲"):
        ids = tokenizer(words)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == words


def test_known_words_are_short_and_case_does_not_count() -> None:
    tokenizer = train_tokenizer(["a red mug on wood"] * 3 + ["a blue mug on wood"])
    assert len(tokenizer("mug")["input_ids"]) == 3  # start, mug, end
    assert tokenizer("A Red MUG")["input_ids"] == tokenizer("a red mug")["input_ids"]


def test_the_end_token_is_not_clips_magic_two() -> None:
    """transformers' CLIP pools at the highest id if the end token is 2: it would read any frequent word."""
    tokenizer = train_tokenizer(TEXTS)
    assert tokenizer.eos_token_id not in (None, 2)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert (
        build("scratch:tiny-clip", TEXTS).towers.model.config.text_config.eos_token_id
        == tokenizer.eos_token_id
    )


def test_the_vocabulary_is_bounded() -> None:
    many = [f"word{n} thing{n * 7}" for n in range(2000)]
    assert len(train_tokenizer(many, vocabulary=500)) == 500


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="'scratch:huge'") as refusal:
        build("scratch:huge", TEXTS)
    assert refusal.value.code == "unknown_recipe"
    assert all(name in refusal.value.suggestion for name in RECIPES)
