"""What is around the drawn thing: the background it stands before, its shadow and the light.

Nothing here changes with the thing's kind or colour.
"""

import random
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from data_jobs.vocabulary import RGB, WHITE


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """Returns the first colour with a share (0 to 1) of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def cast_shadow(picture: Image.Image, alpha: Image.Image, rng: random.Random) -> None:
    """Darkens the picture where the thing's soft shadow falls; works in place."""
    size = picture.width
    small = max(8, size // 4)
    shift = (round(rng.uniform(-0.03, 0.03) * small), round(rng.uniform(0.015, 0.04) * small))
    shadow = ImageChops.offset(alpha.resize((small, small)), *shift)
    shadow = shadow.filter(ImageFilter.GaussianBlur(0.025 * small))
    strength = rng.uniform(0.28, 0.42)
    shadow = shadow.point([round(strength * value) for value in range(256)])
    picture.paste((28, 28, 38), mask=shadow.resize((size, size), Image.Resampling.BILINEAR))


def lit(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Returns the picture under a light of random strength, warmth and side.

    Kept weak (at most a tenth darker), so that no colour turns into another.
    """
    slope = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270)))
    slope = slope.point([round(246 + value * 9 / 255) for value in range(256)])
    slope = slope.resize(picture.size, Image.Resampling.BILINEAR)
    strength, warmth = rng.uniform(0.95, 1.04), rng.uniform(-0.02, 0.02)
    gains = (strength + warmth, strength, strength - warmth)
    table = [min(255, round(gain * value)) for gain in gains for value in range(256)]
    return ImageChops.multiply(picture.point(table), Image.merge("RGB", [slope] * 3))


# --------------------------------------------------------------------------------- backgrounds
# Each takes the picture's size (pixels), a source of chance and the height of the thing's foot
# (pixels from the top) and returns an RGB image. All are pale or dull: none has a product colour.

_WALLS: tuple[RGB, ...] = (
    (184, 206, 196),
    (176, 200, 214),
    (222, 208, 182),
    (200, 194, 216),
    (226, 200, 186),
)
_WOOD: RGB = (206, 176, 138)


def _fading(size: int, top: RGB, bottom: RGB) -> Image.Image:
    slope = Image.linear_gradient("L").resize((size, size), Image.Resampling.BILINEAR)
    return ImageOps.colorize(slope, top, bottom)


def _studio(size: int, rng: random.Random, ground: float) -> Image.Image:
    return _fading(size, (244, 245, 247), (226, 228, 232))


def _grey_backdrop(size: int, rng: random.Random, ground: float) -> Image.Image:
    top, bottom = rng.sample(((212, 213, 216), (166, 168, 173)), 2)
    return _fading(size, top, bottom)


def _wooden_table(size: int, rng: random.Random, ground: float) -> Image.Image:
    picture = Image.new("RGB", (size, size), _WOOD)
    pen = ImageDraw.Draw(picture)
    height = size / rng.randint(3, 5)
    for i in range(5):
        top = i * height
        plank = mixed(_WOOD, (150, 116, 78), rng.uniform(0, 0.35))
        pen.rectangle((0, top, size, top + height), fill=plank)
        grain = mixed(plank, (120, 88, 56), 0.25)
        for _ in range(5):
            y, left = top + rng.random() * height, rng.random() * size
            length = rng.uniform(0.2, 0.7) * size
            pen.line((left, y, left + length, y + rng.uniform(-1, 1)), fill=grain, width=1)
        pen.line((0, top, size, top), fill=(136, 104, 72), width=max(1, size // 128))
    return picture


def _painted_wall(size: int, rng: random.Random, ground: float) -> Image.Image:
    wall = rng.choice(_WALLS)
    picture = _fading(size, mixed(wall, WHITE, 0.15), wall)
    pen = ImageDraw.Draw(picture)
    floor = min(ground - 0.05 * size, 0.9 * size)
    pen.rectangle((0, floor, size, size), fill=mixed(wall, (96, 92, 92), 0.35))
    pen.rectangle((0, floor - 0.03 * size, size, floor), fill=(240, 238, 234))
    return picture


def _shelf(size: int, rng: random.Random, ground: float) -> Image.Image:
    picture = _fading(size, (234, 230, 220), (222, 216, 204))
    pen = ImageDraw.Draw(picture)
    top = min(ground, 0.97 * size)
    pen.rectangle((0, top - 0.025 * size, size, top + 0.02 * size), fill=_WOOD)
    pen.rectangle((0, top + 0.02 * size, size, top + 0.07 * size), fill=(158, 128, 94))
    pen.rectangle((0, top + 0.07 * size, size, top + 0.10 * size), fill=(198, 192, 180))
    return picture


def _tiled_wall(size: int, rng: random.Random, ground: float) -> Image.Image:
    picture = _fading(size, (208, 222, 224), (192, 208, 212))
    pen = ImageDraw.Draw(picture)
    side = size / rng.randint(4, 7)
    start, width = rng.random() * side, max(1, size // 100)
    for i in range(8):
        at = start + (i - 1) * side
        pen.line((at, 0, at, size), fill=(240, 242, 242), width=width)
        pen.line((0, at, size, at), fill=(240, 242, 242), width=width)
    return picture


def _marble_counter(size: int, rng: random.Random, ground: float) -> Image.Image:
    picture = _fading(size, (228, 228, 230), (216, 217, 220))
    pen = ImageDraw.Draw(picture)
    for _ in range(7):
        x, y, lean = rng.uniform(-0.2, 1), rng.uniform(-0.3, 1), rng.uniform(0.1, 0.9)
        vein = []
        for _ in range(9):
            vein.append((x * size, y * size))
            x, y = x + rng.uniform(0.05, 0.15), y + lean * rng.uniform(-0.03, 0.2)
        grey = rng.randint(168, 200)
        pen.line(vein, fill=(grey, grey, grey + 4), width=max(1, round(rng.random() * size / 80)))
    return picture.filter(ImageFilter.BoxBlur(size / 256))


BACKGROUND_PAINTERS: dict[str, Callable[[int, random.Random, float], Image.Image]] = {
    "studio": _studio,
    "grey backdrop": _grey_backdrop,
    "wooden table": _wooden_table,
    "painted wall": _painted_wall,
    "shelf": _shelf,
    "tiled wall": _tiled_wall,
    "marble counter": _marble_counter,
}
