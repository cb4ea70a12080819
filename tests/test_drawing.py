"""The drawn catalogue: pictures show the named colour, words name what is drawn."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data_jobs import drawing
from data_jobs.drawing import Product
from data_jobs.figure import BODY_PAINTS, body_mask
from data_jobs.shapes import SHAPES, Paint
from data_jobs.vocabulary import BACKGROUNDS, COLOURS, KINDS, PATTERNS, Colour

MUG = Product("mug", "red", "striped", "wooden table", 7)


def _only(labels: Image.Image, paints: tuple[Paint, ...]) -> np.ndarray:
    """Which pixels of the picture show these paints only (booleans)."""
    mask: np.ndarray = np.asarray(body_mask(labels, paints).reduce(2)) == 255
    return mask


def _nearest_colour(rgb: np.ndarray) -> str:
    return min(COLOURS, key=lambda colour: math.dist(colour.rgb, rgb)).english


def test_every_table_entry_is_unique_and_drawable() -> None:
    for records in (KINDS, COLOURS, PATTERNS, BACKGROUNDS):
        assert len({record.english for record in records}) == len(records)
        assert len({record.persian for record in records}) == len(records)
    assert [kind.english for kind in KINDS] == list(SHAPES)
    assert len(KINDS) >= 14 and len(COLOURS) == 10 and len(PATTERNS) == 5


def test_same_product_gives_same_picture() -> None:
    assert drawing.draw(MUG, 64).tobytes() == drawing.draw(MUG, 64).tobytes()


@pytest.mark.parametrize(
    "other",
    [
        replace(MUG, kind="hat"),
        replace(MUG, colour="blue"),
        replace(MUG, pattern="dotted"),
        replace(MUG, background="shelf"),
        replace(MUG, seed=8),
    ],
)
def test_every_field_changes_the_picture(other: Product) -> None:
    assert drawing.draw(MUG, 64).tobytes() != drawing.draw(other, 64).tobytes()


def test_another_colour_changes_only_the_thing() -> None:
    pictures = [np.asarray(drawing.draw(replace(MUG, colour=c), 128)) for c in ("red", "blue")]
    labels = drawing._render(MUG, 128)[1]
    thing = labels.point([0] + [255] * 255).reduce(2)
    changed = (pictures[0] != pictures[1]).any(axis=2)
    assert changed.any()
    assert not changed[np.asarray(thing) == 0].any()


def test_every_kind_draws_in_every_colour() -> None:
    for kind in KINDS:
        for i, colour in enumerate(COLOURS):
            pattern, background = PATTERNS[i % 5], BACKGROUNDS[i % 7]
            product = Product(kind.english, colour.english, pattern.english, background.english, i)
            picture = drawing.draw(product, 48)
            assert picture.size == (48, 48)
            assert picture.mode == "RGB"


@pytest.mark.parametrize("kind", [kind.english for kind in KINDS])
def test_body_has_its_colour_and_pattern_does_not_hide_it(kind: str) -> None:
    for i, colour in enumerate(COLOURS):
        for j, pattern in enumerate(PATTERNS):
            background = BACKGROUNDS[(i + j) % len(BACKGROUNDS)].english
            product = Product(kind, colour.english, pattern.english, background, 100 * i + j)
            picture, labels = drawing._render(product, 64)
            body = _only(labels, BODY_PAINTS)
            assert body.mean() > 0.02, product
            mean = np.asarray(picture, dtype=float)[body].mean(axis=0)
            assert _nearest_colour(mean) == colour.english, (product, mean)

            counts = labels.histogram()
            whole = sum(counts[paint] for paint in BODY_PAINTS)
            accent = counts[Paint.ACCENT] / whole
            assert accent == 0 if pattern.english == "plain" else 0.08 <= accent <= 0.35, product


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.english)
def test_thing_stands_out_from_every_background(colour: Colour) -> None:
    for seed, background in enumerate(BACKGROUNDS):
        product = Product("clock", colour.english, "plain", background.english, seed)
        picture, labels = drawing._render(product, 256)
        pixels = np.asarray(picture, dtype=float)
        body = _only(labels, BODY_PAINTS)
        thing = labels.point([0] + [255] * 255).reduce(2)
        near = np.asarray(thing.filter(ImageFilter.MaxFilter(9)))
        around = (near > 0) & (np.asarray(thing) == 0)
        rim = _only(labels, (Paint.OUTLINE,))
        of_body, of_ground, of_rim = (pixels[where].mean(axis=0) for where in (body, around, rim))
        contrast = max(math.dist(of_body, of_ground), math.dist(of_rim, of_ground))
        assert contrast >= 60, (background, contrast)


def test_thing_fills_most_of_the_frame() -> None:
    for seed, kind in enumerate(KINDS):
        labels = drawing._render(replace(MUG, kind=kind.english, seed=seed), 128)[1]
        left, top, right, bottom = labels.getbbox() or (0, 0, 0, 0)
        assert 0.58 <= max(right - left, bottom - top) / labels.width <= 0.97, kind
        assert min(left, top) > 0 and max(right, bottom) < labels.width, kind


def test_random_products_are_distinct_and_balanced() -> None:
    products = drawing.random_products(420, seed=3)
    assert products == drawing.random_products(420, seed=3)
    assert products != drawing.random_products(420, seed=4)
    assert len({(p.kind, p.colour, p.pattern) for p in products}) == 420
    assert set(Counter(p.kind for p in products).values()) == {420 // len(KINDS)}
    for counted, names in (
        (Counter(p.colour for p in products), COLOURS),
        (Counter(p.pattern for p in products), PATTERNS),
    ):
        assert len(counted) == len(names)
        assert max(counted.values()) - min(counted.values()) <= 0.2 * 420 / len(names)
    assert {p.background for p in products} == {b.english for b in BACKGROUNDS}


def test_random_products_repeat_only_after_every_combination() -> None:
    combinations = len(KINDS) * len(COLOURS) * len(PATTERNS)
    products = drawing.random_products(combinations + 5, seed=1)
    seen = Counter((p.kind, p.colour, p.pattern) for p in products)
    assert len(seen) == combinations
    assert sorted(seen.values())[-6:] == [1, 2, 2, 2, 2, 2]
    assert len(set(products)) == len(products)
    assert drawing.random_products(0, seed=1) == []
    with pytest.raises(ValueError, match="-1"):
        drawing.random_products(-1, seed=1)


def test_mismatches_change_one_field_only() -> None:
    rng = random.Random(5)
    colours, kinds = set(), set()
    for _ in range(200):
        recoloured = drawing.with_other_colour(MUG, rng)
        assert recoloured.colour != MUG.colour
        assert replace(recoloured, colour=MUG.colour) == MUG
        swapped = drawing.with_other_kind(MUG, rng)
        assert swapped.kind != MUG.kind
        assert replace(swapped, kind=MUG.kind) == MUG
        colours.add(recoloured.colour)
        kinds.add(swapped.kind)
    assert len(colours) == len(COLOURS) - 1
    assert len(kinds) == len(KINDS) - 1


@pytest.mark.parametrize("language", ["en", "fa"])
def test_words_always_name_kind_and_colour_and_no_other_colour(language: str) -> None:
    field = "english" if language == "en" else "persian"
    colour_words = {getattr(colour, field) for colour in COLOURS}
    for kind in KINDS:
        for i, colour in enumerate(COLOURS):
            pattern, background = PATTERNS[i % 5], BACKGROUNDS[i % 7]
            product = Product(kind.english, colour.english, pattern.english, background.english, 0)
            texts = [drawing.describe(product, language, variant) for variant in range(6)]
            assert len(set(texts)) == 6
            assert any(getattr(pattern, field) in text for text in texts)
            assert any(getattr(background, f"{field}_place") in text for text in texts)
            for text in texts:
                assert f" {getattr(kind, field)} " in f" {text.rstrip('.').lower()} "
                words = text.rstrip(".").lower().replace("،", " ").replace(",", " ").split()
                assert colour_words & set(words) == {getattr(colour, field)}, text


def test_words_read_naturally() -> None:
    assert drawing.describe(MUG) == "A red striped mug on a wooden table."
    assert drawing.describe(MUG, "fa") == "ماگ قرمز راه‌راه روی میز چوبی"
    orange = Product("umbrella", "orange", "plain", "shelf", 1)
    assert drawing.describe(orange) == "A plain orange umbrella on a shelf."
    assert drawing.describe(orange, "en", 1) == "An orange umbrella on a shelf."
    assert drawing.describe(orange, "en", 7) == drawing.describe(orange, "en", 1)


@pytest.mark.parametrize(
    ("product", "field", "allowed"),
    [
        (replace(MUG, kind="wombat"), "kind", "mug, bottle"),
        (replace(MUG, colour="wombat"), "colour", "red, orange"),
        (replace(MUG, pattern="wombat"), "pattern", "plain, striped"),
        (replace(MUG, background="wombat"), "background", "studio, grey backdrop"),
    ],
)
def test_unknown_names_are_refused(product: Product, field: str, allowed: str) -> None:
    for use in (drawing.draw, drawing.describe):
        with pytest.raises(ValueError, match=f"unknown {field} 'wombat'.*{allowed}"):
            use(product)


def test_unknown_language_and_tiny_size_are_refused() -> None:
    with pytest.raises(ValueError, match="'de'.*en, fa"):
        drawing.describe(MUG, "de")
    with pytest.raises(ValueError, match="got 3"):
        drawing.draw(MUG, 3)


def test_size_is_respected() -> None:
    assert drawing.draw(MUG).size == (256, 256)
    small, large = drawing.draw(MUG, 65), drawing.draw(MUG, 195).resize((65, 65))
    assert small.size == (65, 65)
    gap = np.asarray(small, dtype=float) - np.asarray(large, dtype=float)
    assert np.abs(gap).mean() < 12  # the same scene at both sizes
