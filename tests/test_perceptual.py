"""Perceptual hashes: ImageHash's bits, near for changed copies, far for other pictures."""

import io

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from data_jobs.drawing import Product, draw, random_products
from data_jobs.perceptual import distance, phash

MUG = Product("mug", "red", "striped", "wooden table", 7)
PRODUCTS = random_products(40, seed=1)
HASHES = st.integers(0, 2**64 - 1)


def _oracle(image: Image.Image) -> int:
    return int(str(imagehash.phash(image)), 16)


def _recompressed(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out)


@pytest.mark.parametrize("size", [40, 96, 300])
def test_drawn_products_have_nearly_the_bits_of_imagehash(size: int) -> None:
    pictures = [draw(product, size) for product in PRODUCTS]
    apart = [distance(phash(picture), _oracle(picture)) for picture in pictures]
    assert max(apart) <= 4 and sum(apart) / len(apart) <= 1


@pytest.mark.parametrize("size", [(32, 32), (31, 57), (300, 200), (640, 9), (1, 1)])
def test_any_shape_is_hashed(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(noise)
    assert 0 <= phash(picture) < 2**64
    assert distance(phash(picture), _oracle(picture)) <= (12 if min(size) > 1 else 0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_mode_is_hashed_by_its_luma(mode: str) -> None:
    picture = draw(MUG, 96).convert(mode)
    assert distance(phash(picture), _oracle(picture)) <= 4
    assert phash(picture) == phash(picture.convert("L"))


def test_two_halves_make_known_bits() -> None:
    """Bright left, dark right: of the 64 only the first row is not 0, and there the odd ones alternate in sign."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:, :16] = 200
    assert phash(Image.fromarray(pixels)) == 0b11000100 << 56


def test_a_flat_picture_has_only_its_brightness() -> None:
    assert phash(Image.new("RGB", (50, 40), (9, 9, 9))) == 1 << 63
    assert phash(Image.new("RGB", (50, 40), (255, 255, 255))) == 1 << 63
    assert phash(Image.new("RGB", (50, 40))) == 0


def test_changed_copies_are_near_and_other_products_are_far() -> None:
    for product in PRODUCTS:
        picture = draw(product, 128)
        copies = [
            _recompressed(picture, 50),
            picture.resize((64, 64)),
            ImageEnhance.Brightness(picture).enhance(0.9),
        ]
        assert max(distance(phash(picture), phash(copy)) for copy in copies) <= 6
    hashes = [phash(draw(product, 128)) for product in PRODUCTS]
    others = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(others) > 6
    assert 20 < np.mean(others) < 36


@pytest.mark.parametrize(
    ("a", "b", "bits"), [(0, 0, 0), (0, 2**64 - 1, 64), (0b1010, 0b0110, 2), (2**63, 1, 2)]
)
def test_distance_counts_differing_bits(a: int, b: int, bits: int) -> None:
    assert distance(a, b) == bits


@given(HASHES, HASHES, HASHES)
def test_distance_is_a_metric(a: int, b: int, c: int) -> None:
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
