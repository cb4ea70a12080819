"""View: the pixels of transformers' own processors, and a refusal of those that it cannot reproduce."""

from typing import Any

import numpy as np
import pytest
import tiny_models
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from data_jobs.errors import InputError
from train_jobs import preprocessing
from train_jobs.encoder import Encoder
from train_jobs.view import View

NOISE_SIZES = [(91, 37), (64, 64), (33, 200), (299, 301), (17, 20), (1, 1), (500, 3), (63, 65), (3, 32)]


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


PROCESSORS: dict[str, tuple[type, dict[str, Any], View]] = {
    "CLIP": (
        CLIPImageProcessorPil,
        {"size": {"shortest_edge": 48}, "crop_size": _square(48)},
        View(48, 48, "crop", "bicubic"),
    ),
    "CLIP with a margin": (
        CLIPImageProcessorPil,
        {"size": {"shortest_edge": 64}, "crop_size": _square(56), "resample": 2},
        View(56, 64, "crop", "bilinear"),
    ),
    "CLIP with an odd margin": (
        CLIPImageProcessorPil,
        {"size": {"shortest_edge": 37}, "crop_size": _square(32)},
        View(32, 37, "crop", "bicubic"),
    ),
    "CLIP, as older files have it": (
        CLIPImageProcessorPil,
        {"size": 48, "crop_size": 48},
        View(48, 48, "crop", "bicubic"),
    ),
    "CLIP, squashed": (
        CLIPImageProcessorPil,
        {"size": _square(48), "do_center_crop": False},
        View(48, 48, "squash", "bicubic"),
    ),
    "CLIP, squashed and then cropped to the same": (
        CLIPImageProcessorPil,
        {"size": _square(48), "crop_size": _square(48)},
        View(48, 48, "squash", "bicubic"),
    ),
    "BiT": (
        BitImageProcessorPil,
        {"size": {"shortest_edge": 64}, "crop_size": _square(56)},
        View(56, 64, "crop", "bicubic"),
    ),
    "SigLIP": (SiglipImageProcessorPil, {"size": _square(48)}, View(48, 48, "squash", "bicubic")),
    "SigLIP 2 of one resolution": (
        SiglipImageProcessorPil,
        {"size": _square(48), "resample": 2},
        View(48, 48, "squash", "bilinear"),
    ),
    "ViT": (ViTImageProcessorPil, {"size": _square(48)}, View(48, 48, "squash", "bilinear")),
    "ConvNeXT, small": (
        ConvNextImageProcessorPil,
        {"size": {"shortest_edge": 56}, "crop_pct": 0.875},
        View(56, 64, "crop", "bicubic"),
    ),
    "ConvNeXT, large": (
        ConvNextImageProcessorPil,
        {"size": {"shortest_edge": 384}},
        View(384, 384, "squash", "bicubic"),
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_view_is_what_the_processor_makes(name: str) -> None:
    """Of drawn pictures nearly everywhere to the level, and of noise, the worst for a filter, to its rounding."""
    kind, facts, expected = PROCESSORS[name]
    view, mean, std = preprocessing.read(kind(**facts))
    assert view == expected
    assert (mean, std) == (tuple(kind.image_mean), tuple(kind.image_std))
    processor = kind(**facts, do_normalize=False)
    for photo in tiny_models.photos():
        apart = _apart(processor, view, photo)
        assert apart.max() <= 8 and apart.mean() < 0.1, photo.size
    for photo in _noise():
        apart = _apart(processor, view, photo)
        assert apart.max() <= 16 and apart.mean() < 0.5, photo.size


def _apart(processor: Any, view: View, photo: Image.Image) -> np.ndarray:
    theirs = 255 * processor(photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    ours = view.pixels(photo)
    assert ours.shape == theirs.shape == (view.size, view.size, 3)
    assert ours.dtype == np.uint8 and ours.flags.c_contiguous
    return np.abs(ours - theirs.astype(float))


def _noise() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in NOISE_SIZES]


def test_the_filter_and_the_margin_matter() -> None:
    """Else the comparison above would not tell them apart."""
    photo = tiny_models.photos()[-1]
    views = [
        View(56, 64, "crop", "bicubic"),
        View(56, 64, "crop", "bilinear"),
        View(56, 56, "crop", "bicubic"),
    ]
    first, *others = (view.pixels(photo).astype(int) for view in views)
    assert all(np.abs(first - other).mean() > 0.5 for other in others)


def test_naflex_is_read_as_the_largest_square() -> None:
    for patches, side in ((256, 64), (255, 60), (17, 16)):
        processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=patches)
        assert preprocessing.read(processor)[0] == View(side, side, "squash", "bilinear")
        (made,) = processor(Image.new("RGB", (99, 99)), return_tensors="np")["spatial_shapes"]
        assert made.tolist() == [side // 4, side // 4]


def test_a_larger_view_shows_the_same_part_of_the_picture() -> None:
    x, y = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 427))
    photo = Image.fromarray(np.stack([x, y, x], -1).astype(np.uint8))
    view = View(40, 50, "crop", "bicubic")
    larger = view.scaled(2)
    assert larger == View(80, 100, "crop", "bicubic")
    halved = larger.pixels(photo).reshape(40, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(halved - view.pixels(photo)).max() < 2
    assert View(224, 224, "squash", "bilinear").scaled(1.15) == View(258, 258, "squash", "bilinear")


def test_grey_and_transparent_pictures_are_made_rgb() -> None:
    view = View(8, 8, "squash", "bicubic")
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert view.pixels(Image.new(mode, (9, 7))).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (CLIPImageProcessorPil(resample=0), "filter 0"),
        (CLIPImageProcessorPil(resample=1), "filter 1"),
        (CLIPImageProcessorPil(do_resize=False), "does not resize"),
        (CLIPImageProcessorPil(do_rescale=False), "rescale"),
        (CLIPImageProcessorPil(rescale_factor=1 / 127.5), "rescale"),
        (CLIPImageProcessorPil(do_center_crop=False), "shortest_edge"),  # no square comes of it
        (CLIPImageProcessorPil(size={"shortest_edge": 200}), "200"),  # padded to 224
        (CLIPImageProcessorPil(size={"shortest_edge": 224, "longest_edge": 256}), "256"),
        (CLIPImageProcessorPil(size={"height": 256, "width": 256}), "256"),  # squashed, then cropped
        (CLIPImageProcessorPil(crop_size={"height": 224, "width": 112}), "112"),
        (SiglipImageProcessorPil(size={"height": 224, "width": 112}), "112"),
        (SiglipImageProcessorPil(image_mean=[0.5], image_std=[0.5]), "1 colours"),
        (DeiTImageProcessorPil(), "DeiTImageProcessor is none"),
    ],
)
def test_a_processor_that_cannot_be_reproduced_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        preprocessing.read(processor)
    assert refusal.value.code == "unsupported_processor"


def test_without_normalisation_pictures_are_numbers_from_0_to_1() -> None:
    _, mean, std = preprocessing.read(CLIPImageProcessorPil(do_normalize=False))
    assert (mean, std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_written_processor_reads_the_same(name: str, clip: Encoder) -> None:
    """Whatever a checkpoint's own was: ours is saved as one that does the same."""
    kind, facts, view = PROCESSORS[name]
    spec = clip.spec.replace(
        family="siglip" if kind is SiglipImageProcessorPil else "dual",
        image_size=view.size,
        image_shortest=view.shortest,
        image_resize=view.resize,
        image_resample=view.resample,
    )
    written = preprocessing.processor(spec)
    assert preprocessing.read(written) == (view, spec.image_mean, spec.image_std)
    processor = kind(**facts, image_mean=list(spec.image_mean), image_std=list(spec.image_std))
    photo = tiny_models.photos()[-1]
    ours, theirs = (p(photo, return_tensors="np")["pixel_values"] for p in (written, processor))
    np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(tiny_models.clip(tmp_path_factory.mktemp("clip")), device="cpu")
