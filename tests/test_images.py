"""Decoding: every format and mode ends upright in RGB, and what is no whole picture is refused by name."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from data_jobs import images
from data_jobs.drawing import Product, draw
from data_jobs.errors import InputError
from data_jobs.images import FORMATS, MAX_PIXELS, decode, encode_jpeg, shrink

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
MUG = Product("mug", "red", "striped", "wooden table", 7)
ORIENTATION = 0x0112
EXPOSURE_TIME = 0x829A

Pixels = NDArray[np.uint8]


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _png(width: int, height: int, *, depth: int = 8, colour_type: int = 2, rows: bytes = b"") -> bytes:
    """A PNG made by hand: headers that Pillow would not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _refusal(data: bytes, **options: int) -> InputError:
    with pytest.raises(InputError) as refusal:
        decode(data, **options)
    return refusal.value


# ------------------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_shows_what_was_drawn(kind: str) -> None:
    drawn = draw(MUG, 96)
    picture = decode(_bytes(drawn, kind))
    assert (picture.mode, picture.size) == ("RGB", drawn.size)
    gap = np.asarray(picture, dtype=float) - np.asarray(drawn, dtype=float)
    assert np.abs(gap).mean() < 8
    assert picture.info == {"original_size": (96, 96)}


def test_a_phones_multi_picture_jpeg_is_its_first_picture() -> None:
    red, blue = (Image.new("RGB", (64, 48), colour) for colour in (RED, BLUE))
    data = _bytes(red, "MPO", save_all=True, append_images=[blue])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    for target in (None, 16):
        picture = decode(data, target=target)
        assert np.allclose(np.asarray(picture), RED, atol=3)
        assert picture.info["original_size"] == (64, 48)


# What the eight orientations say about stored rows and columns (EXIF 2.3, tag 274), as NumPy says it.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied(orientation: int) -> None:
    stored = np.asarray(draw(MUG, 64))[:40]
    picture = decode(_bytes(Image.fromarray(stored), "PNG", exif=_oriented(orientation)))
    assert np.array_equal(np.asarray(picture), UPRIGHT[orientation](stored))
    assert picture.info["original_size"] == picture.size


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_original_size_is_upright_also_when_decoded_smaller(orientation: int) -> None:
    data = _bytes(Image.new("RGB", (800, 400)), "JPEG", exif=_oriented(orientation))
    picture = decode(data, target=100)
    upright = (400, 800) if orientation >= 5 else (800, 400)
    assert picture.info["original_size"] == upright
    assert picture.size == (upright[0] // 4, upright[1] // 4)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow says what it skips
def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    exif = _oriented(6)
    exif[0x010F], exif[0x011A] = "Maker", 72.0
    exif.get_ifd(0x8769)[EXPOSURE_TIME] = 0.01
    data = _bytes(Image.new("RGB", (20, 10), RED), "JPEG", exif=exif)
    tiff = data.index(b"Exif") + 6
    for place in range(tiff + 8, tiff + 90):
        for value in (1, 2, 7, 11):  # among others it makes a byte, a text, a blob or a float of a field
            damaged = data[:place] + bytes([value]) + data[place + 1 :]
            assert decode(damaged).size in {(10, 20), (20, 10)}


def test_an_unknown_orientation_is_no_orientation() -> None:
    assert decode(_bytes(Image.new("RGB", (20, 10)), "JPEG", exif=_oriented(9))).size == (20, 10)


def test_16_bit_grey_keeps_its_values() -> None:
    wide = np.array([[0, 255, 256, 0x4000, 0x8000, 0xFFFF]], dtype=np.uint16)
    picture = decode(_bytes(Image.fromarray(wide), "PNG"))
    assert np.asarray(picture)[0].tolist() == [[v, v, v] for v in (0, 0, 1, 64, 128, 255)]


def test_16_bit_colour_keeps_its_values() -> None:
    row = b"\0" + struct.pack(">6H", 0x8000, 0, 0xFFFF, 0x0100, 0x4000, 0x7FFF)
    picture = decode(_png(2, 1, depth=16, rows=row))
    assert np.asarray(picture)[0].tolist() == [[128, 0, 255], [1, 64, 127]]


def test_cmyk_becomes_rgb() -> None:
    picture = decode(_bytes(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.allclose(np.asarray(picture), RED, atol=4)


@pytest.mark.parametrize(("mode", "value", "rgb"), [("L", 90, (90, 90, 90)), ("1", 1, WHITE)])
def test_grey_and_black_and_white_become_rgb(mode: str, value: int, rgb: tuple[int, int, int]) -> None:
    picture = decode(_bytes(Image.new(mode, (3, 3), value), "PNG"))
    assert picture.getpixel((1, 1)) == rgb


@pytest.mark.parametrize(
    ("mode", "clear", "solid"),
    [("RGBA", (255, 0, 0, 0), (0, 0, 255, 255)), ("LA", (0, 0), (29, 255))],
)
def test_transparency_is_laid_on_white(mode: str, clear: tuple[int, ...], solid: tuple[int, ...]) -> None:
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), solid)
    picture = decode(_bytes(image, "PNG"))
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((1, 0)) == (BLUE if mode == "RGBA" else (29, 29, 29))


def test_half_transparency_is_mixed_with_white() -> None:
    picture = decode(_bytes(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG"))
    assert picture.getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palettes_transparent_colour_is_white(kind: str) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 255, 0, *RED])
    image.putpixel((1, 0), 1)
    picture = decode(_bytes(image, kind, transparency=0))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE))
    data = _bytes(first, kind, save_all=True, append_images=[second], duration=100)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.allclose(np.asarray(decode(data)), RED, atol=4)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_single_pixel_is_a_picture(kind: str) -> None:
    assert decode(_bytes(Image.new("RGB", (1, 1), RED), kind), target=224).size == (1, 1)


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_picture_is_refused(kind: str, share: float) -> None:
    data = _bytes(draw(MUG, 64), kind)
    cut = data[: max(12, int(share * len(data)))]
    for options in ({}, {"target": 16}):
        refusal = _refusal(cut, **options)
        assert refusal.code == "truncated_image"
        assert "breaks off" in refusal.message


def test_no_cut_of_a_jpeg_passes() -> None:
    data = _bytes(draw(MUG, 32), "JPEG")
    assert {_refusal(data[:end]).code for end in range(3, len(data))} == {"truncated_image"}


def test_an_empty_file_is_refused() -> None:
    assert _refusal(b"").code == "empty_file"


@pytest.mark.parametrize("data", [b"<html>404 Not Found</html>", b"\0" * 100, b"\xff\xd8", "ماگ".encode()])
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    refusal = _refusal(data)
    assert refusal.code == "not_an_image"
    assert f"{len(data)} bytes" in refusal.message
    assert "JPEG, PNG, WEBP, GIF" in refusal.suggestion


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused_by_name(kind: str) -> None:
    refusal = _refusal(_bytes(Image.new("RGB", (16, 16)), kind))
    assert refusal.code == "unsupported_format"
    assert f"a {kind} file" in refusal.message


def test_the_limit_on_pixels_is_exact() -> None:
    data = _bytes(Image.new("RGB", (40, 25)), "PNG")
    assert decode(data, max_pixels=1000).size == (40, 25)
    refusal = _refusal(data, max_pixels=999)
    assert refusal.code == "too_many_pixels"
    assert "40 x 25" in refusal.message and "999 pixels" in refusal.message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_072, 10_000, 14_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    refusal = _refusal(_png(side, side))
    assert refusal.code == "too_many_pixels"
    assert f"{MAX_PIXELS:,} pixels" in refusal.message


@pytest.mark.parametrize(("size", "allowed"), [((201, 1), (200, 1)), ((2, 401), (2, 400))])
def test_a_line_is_refused(size: tuple[int, int], allowed: tuple[int, int]) -> None:
    refusal = _refusal(_bytes(Image.new("RGB", size), "PNG"))
    assert refusal.code == "too_elongated" and f"{size[0]} x {size[1]} pixels" in refusal.message
    assert decode(_bytes(Image.new("RGB", allowed), "PNG")).size == allowed


@given(
    st.binary(max_size=80), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"])
)
def test_hostile_bytes_are_refused_and_nothing_else_is_raised(data: bytes, start: bytes) -> None:
    with pytest.raises(InputError):
        decode(start + data)


# ---------------------------------------------------------------------------------------- sizes


@settings(max_examples=40)
@given(st.integers(3, 500), st.integers(3, 500), st.integers(1, 300))
def test_a_smaller_decode_keeps_the_shortest_side(width: int, height: int, target: int) -> None:
    picture = decode(_bytes(Image.new("RGB", (width, height)), "JPEG"), target=target)
    assert min(picture.size) >= min(target, width, height)
    assert picture.info["original_size"] == (width, height)


def test_a_smaller_decode_is_smaller_and_looks_the_same() -> None:
    data = _bytes(draw(MUG, 512), "JPEG", quality=95)
    small, full = decode(data, target=100), decode(data)
    assert small.size == (128, 128)
    gap = np.asarray(small, dtype=float) - np.asarray(full.reduce(4), dtype=float)
    assert np.abs(gap).mean() < 2


@settings(max_examples=40)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 300))
def test_shrinking_keeps_the_aspect_and_never_enlarges(width: int, height: int, side: int) -> None:
    stored = shrink(Image.new("RGB", (width, height)), side)
    assert min(stored.size) == min(side, width, height)
    scale = min(stored.size) / min(width, height)
    assert abs(stored.width - width * scale) <= 0.5 and abs(stored.height - height * scale) <= 0.5


def test_what_is_stored_keeps_what_is_seen() -> None:
    drawn = draw(MUG, 128)
    data = encode_jpeg(shrink(drawn, 64))
    opened = Image.open(io.BytesIO(data))
    assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (64, 64))
    stored = decode(data)
    gap = np.asarray(stored, dtype=float) - np.asarray(drawn.reduce(2), dtype=float)
    assert np.abs(gap).mean() < 6


def test_a_side_beyond_jpeg_is_refused() -> None:
    encode_jpeg(shrink(Image.new("RGB", (65_500, 1)), 256))
    with pytest.raises(InputError, match="65501 pixels long; JPEG holds 65500") as refusal:
        shrink(Image.new("RGB", (65_501, 1)), 256)
    assert refusal.value.code == "side_too_long"


def test_a_stored_picture_keeps_colours_at_full_resolution() -> None:
    columns = np.zeros((16, 16, 3), np.uint8)
    columns[:, ::2], columns[:, 1::2] = RED, BLUE
    stored = np.asarray(decode(encode_jpeg(Image.fromarray(columns))), dtype=float)
    assert np.abs(stored - columns).mean() < 10  # 4:2:0 mixes the columns: 80


# ------------------------------------------------------------------- libjpeg-turbo and Pillow agree


def _outcome(data: bytes, *, fast: bool, target: int | None) -> str | Image.Image:
    """The picture, or the code it is refused with; not `fast` is Pillow alone."""
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(images, "_by_turbojpeg", lambda *_: None)
        try:
            return decode(data, target=target, max_pixels=1_000_000)
        except InputError as refusal:
            return refusal.code


def _assert_agreement(data: bytes, target: int | None = None) -> None:
    quick, plain = (_outcome(data, fast=fast, target=target) for fast in (True, False))
    if isinstance(quick, str) or isinstance(plain, str):
        assert quick == plain
        return
    assert (quick.mode, quick.size, quick.info) == (plain.mode, plain.size, plain.info)
    gap = np.asarray(quick, dtype=float) - np.asarray(plain, dtype=float)
    assert np.abs(gap).mean() < 0.5


_DRAWN = draw(MUG, 96)


def _photo(mode: str = "RGB", size: tuple[int, int] = (90, 70), **options: object) -> bytes:
    """A drawn product under noise, so that no block is plain."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.blend(_DRAWN.resize(size), Image.fromarray(noise), 0.3)
    return _bytes(image.convert(mode), "JPEG", **options)


PHOTOS = {
    "4:4:4": _photo(subsampling=0),
    "4:2:2": _photo(subsampling=1),
    "4:2:0": _photo(subsampling=2),
    "progressive": _photo(progressive=True),
    "grey": _photo("L"),
    "stored as RGB": _photo(keep_rgb=True),
    "restart markers": _photo(restart_marker_blocks=2),
    "optimised": _photo(optimize=True, quality=100),
    **{f"orientation {o}": _photo(exif=_oriented(o)) for o in UPRIGHT},
}
CMYK = _photo("CMYK")


@pytest.mark.parametrize("target", [None, 16, 20, 40, 70, 71])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_flawless_jpeg_is_decoded_by_libjpeg_turbo_as_by_pillow(name: str, target: int | None) -> None:
    _assert_agreement(PHOTOS[name], target)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(images, "_by_pillow")
        decode(PHOTOS[name], target=target)


@pytest.mark.parametrize("target", [None, 20])
def test_cmyk_is_left_to_pillow(target: int | None) -> None:
    assert images._by_turbojpeg(CMYK, (90, 70), target) is None
    _assert_agreement(CMYK, target)


@pytest.mark.parametrize("side", range(1, 12))
def test_tiny_pictures_are_decoded_alike(side: int) -> None:
    for target in (None, 1, 2):
        _assert_agreement(_photo(size=(side, side), subsampling=0), target)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2), st.one_of(st.none(), st.integers(1, 20)))
def test_any_size_is_decoded_alike(width: int, height: int, subsampling: int, target: int | None) -> None:
    _assert_agreement(_photo(size=(width, height), subsampling=subsampling), target)


@pytest.mark.parametrize("target", [None, 20])
@pytest.mark.parametrize("name", ["4:2:0", "progressive", "grey", "restart markers"])
def test_a_jpeg_cut_anywhere_is_refused_by_both(name: str, target: int | None) -> None:
    data = PHOTOS[name]
    for end in [*range(3, len(data), 53), len(data) - 2, len(data) - 1]:
        outcomes = {_outcome(data[:end], fast=fast, target=target) for fast in (True, False)}
        assert outcomes == {"truncated_image"}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*PHOTOS.values(), CMYK]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4),
    st.sampled_from([None, 20]),
)
def test_a_damaged_jpeg_meets_the_same_fate(
    data: bytes, flips: list[tuple[float, int]], target: int | None
) -> None:
    damaged = bytearray(data)
    for place, bit in flips:
        damaged[int(place * len(data))] ^= 1 << bit
    _assert_agreement(bytes(damaged), target)


def test_a_size_that_only_libjpeg_turbo_reads_is_not_decoded() -> None:
    assert images._by_turbojpeg(PHOTOS["4:2:0"], (90, 71), None) is None
    assert images._by_turbojpeg(PHOTOS["4:2:0"], (90, 70), None) is not None
