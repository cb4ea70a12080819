"""Random views: of the right shape and range, decided by the seed, and no wilder than asked for."""

import pytest
import torch
from torch import Tensor

from train_jobs.augment import Augmentation, draws, views

STILL = Augmentation(min_area=1.0, flip=False, brightness=0.0, contrast=0.0)


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _views(pixels: Tensor, size: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    return views(pixels, size, how, draws(len(pixels), generator))


def _noise(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=_seed(9), dtype=torch.uint8)


def _ramps(count: int, size: int = 64) -> Tensor:
    """Pictures that tell a view's place: red is 2 a column from the left, green 2 a row from the top, blue 60."""
    steps = 2 * torch.arange(size, dtype=torch.uint8)
    red, green = steps.expand(size, size), steps[:, None].expand(size, size)
    return torch.stack([red, green, torch.full_like(red, 60)]).repeat(count, 1, 1, 1)


def _extents(out: Tensor, size: int = 64) -> tuple[Tensor, Tensor]:
    """Width and height of each view as a share of the picture's, negative where mirrored."""
    step = out.shape[-1] - 1
    wide = (out[:, 0, step // 2, -1] - out[:, 0, step // 2, 0]) / step * out.shape[-1] / (2 * size)
    high = (out[:, 1, -1, step // 2] - out[:, 1, 0, step // 2]) / step * out.shape[-1] / (2 * size)
    return wide, high


@pytest.mark.parametrize(("canvas", "size"), [(40, 32), (32, 32), (24, 32)])
@pytest.mark.parametrize("how", [Augmentation(), Augmentation(brightness=1, contrast=1), STILL])
def test_shape_type_and_range(canvas: int, size: int, how: Augmentation) -> None:
    out = _views(_noise(6, canvas), size, how, _seed())
    assert out.shape == (6, 3, size, size)
    assert out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 255


def test_channels_last_gives_the_same_views() -> None:
    pixels = _noise(4, 40)
    last = pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(
        _views(last, 32, Augmentation(), _seed()), _views(pixels, 32, Augmentation(), _seed())
    )


def test_the_seed_decides() -> None:
    pixels = _noise(4, 40)
    first, again, other = (_views(pixels, 32, Augmentation(), _seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_gets_views_that_differ() -> None:
    out = _views(_noise(1, 40).repeat(4, 1, 1, 1), 32, Augmentation(), _seed())
    assert all(not torch.equal(out[i], out[j]) for i in range(4) for j in range(i))


def test_the_next_batch_gets_other_views() -> None:
    generator = _seed()
    pixels = _noise(2, 40)
    assert not torch.equal(
        _views(pixels, 32, Augmentation(), generator), _views(pixels, 32, Augmentation(), generator)
    )


def test_none_is_the_picture_itself() -> None:
    pixels = _noise(3, 32)
    assert Augmentation.none() == STILL
    torch.testing.assert_close(
        _views(pixels, 32, Augmentation.none(), _seed()), pixels.float(), atol=0.01, rtol=0
    )


def test_flip_only_mirrors() -> None:
    pixels = _noise(64, 16)
    out = _views(pixels, 16, Augmentation(min_area=1.0, flip=True, brightness=0, contrast=0), _seed())
    plain, mirrored = pixels.float(), pixels.float().flip(-1)
    is_plain = (out - plain).abs().amax((1, 2, 3)) < 0.01
    is_mirrored = (out - mirrored).abs().amax((1, 2, 3)) < 0.01
    assert (is_plain ^ is_mirrored).all()
    assert 16 <= int(is_mirrored.sum()) <= 48  # half of 64, within four standard deviations


@pytest.mark.parametrize("min_area", [0.3, 0.5, 0.8, 0.9, 0.97])
def test_crops_keep_at_least_min_area(min_area: float) -> None:
    how = Augmentation(min_area=min_area, flip=False, brightness=0, contrast=0)
    wide, high = _extents(_views(_ramps(2000), 48, how, _seed()))
    area = wide * high
    assert area.min() >= min_area - 0.01
    assert area.min() < min_area + 0.05  # the bound is reached: not all views are tame
    assert area.max() <= 1.01
    assert wide.max() <= 1.005 and high.max() <= 1.005


def test_crops_have_moderate_aspect_ratios_and_all_places() -> None:
    how = Augmentation(min_area=0.5, flip=False, brightness=0, contrast=0)
    out = _views(_ramps(2000), 48, how, _seed())
    wide, high = _extents(out)
    ratio = wide / high
    assert 0.78 < ratio.min() < 0.85 and 1.18 < ratio.max() < 1.28  # 4:5 to 5:4
    left, top = out[:, 0, 24, 0] / 128, out[:, 1, 0, 24] / 128
    assert left.min() < 0.02 and top.min() < 0.02
    assert (left + wide).max() > 0.98 and (top + high).max() > 0.98


def test_no_flip_mirrors_nothing() -> None:
    wide, high = _extents(_views(_ramps(200), 48, Augmentation(flip=False, contrast=0), _seed()))
    assert wide.min() > 0 and high.min() > 0


def test_brightness_scales_a_picture_within_its_bound() -> None:
    how = Augmentation(min_area=1.0, flip=False, brightness=0.2, contrast=0.0)
    grey = torch.full((500, 3, 8, 8), 100, dtype=torch.uint8)
    out = _views(grey, 8, how, _seed())
    levels = out.mean((1, 2, 3))
    assert torch.allclose(out, levels[:, None, None, None].expand_as(out), atol=0.01)
    assert 79.9 <= levels.min() < 82 and 118 < levels.max() <= 120.1


def test_contrast_keeps_the_mean_within_its_bound() -> None:
    how = Augmentation(min_area=1.0, flip=False, brightness=0.0, contrast=0.2)
    pixels = torch.full((500, 3, 8, 8), 100, dtype=torch.uint8)
    pixels[:, :, :4] = 150
    out = _views(pixels, 8, how, _seed())
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.full((500,), 125.0), atol=0.01, rtol=0)
    spread = (out.amax((1, 2, 3)) - out.amin((1, 2, 3))) / 50
    assert 0.799 <= spread.min() < 0.82 and 1.18 < spread.max() <= 1.201


def test_bright_views_stop_at_white() -> None:
    white = torch.full((50, 3, 8, 8), 255, dtype=torch.uint8)
    assert _views(white, 8, Augmentation(brightness=0.5), _seed()).max() == 255


def test_a_share_of_a_batch_gets_the_views_it_would_get_in_the_whole() -> None:
    pixels, drawn = _noise(6, 40), draws(6, _seed())
    whole = views(pixels, 32, Augmentation(rotation=10, tint=0.1, saturation=0.2), drawn)
    share = views(pixels[4:], 32, Augmentation(rotation=10, tint=0.1, saturation=0.2), drawn[4:])
    assert torch.equal(whole[4:], share)
