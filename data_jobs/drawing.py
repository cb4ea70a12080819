"""The drawn catalogue: product pictures and their English and Persian descriptions.

The demo needs products which everyone may copy and whose descriptions are known to be right. This
module draws them: a `Product` names a kind of thing, a colour, a pattern, a background and a seed
for everything else (place, size, turn, light). The same product always gives the same picture and
the same words. Nothing is read from disk and nothing happens on import.

    products = random_products(500, seed=1)
    picture = draw(products[0], size=128)
    words = describe(products[0], "fa", variant=2)
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from data_jobs.figure import PATTERN_PAINTERS, Placement, label_map, shade
from data_jobs.scenery import BACKGROUND_PAINTERS, cast_shadow, lit, mixed
from data_jobs.shapes import SHAPES, Paint
from data_jobs.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PATTERNS,
    RGB,
    WHITE,
    Background,
    Colour,
    Kind,
    Pattern,
    find,
    phrase,
)

_OVERSAMPLING = 2  # the thing is drawn this much larger and then reduced, which smooths its edges
_SMALLEST = 16  # pixels

_DETAIL_RGB: dict[Paint, RGB] = {
    Paint.DARK: (66, 62, 66),
    Paint.METAL: (176, 180, 188),
    Paint.PALE: (243, 240, 232),
    Paint.GLASS: (206, 224, 230),
    Paint.LEAF: (128, 146, 118),
}


@dataclass(frozen=True)
class Product:
    """One thing of the catalogue; all names are the English ones of `data_jobs.vocabulary`."""

    kind: str
    colour: str
    pattern: str
    background: str
    seed: int


def random_products(count: int, seed: int) -> list[Product]:
    """Returns `count` products in random order, the same ones for the same seed.

    No (kind, colour, pattern) occurs twice before all have occurred; then they repeat with new
    seeds. Kinds occur equally often (give or take one), colours and patterns nearly so.
    Raises ValueError if `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    rng = random.Random(seed)
    looks = _looks(rng)
    chosen = [next(looks) for _ in range(count)]
    rng.shuffle(chosen)
    scenes = [background.english for background in BACKGROUNDS]
    return [
        Product(kind, colour, pattern, rng.choice(scenes), rng.getrandbits(31))
        for kind, colour, pattern in chosen
    ]


def _looks(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, colour, pattern) endlessly, every combination once before any repeats.

    Each round goes through all kinds while the colours and the patterns turn with them, so every
    round is balanced; the rounds differ in how far colours and patterns are shifted.
    """
    kinds, colours, patterns = (
        rng.sample([record.english for record in records], len(records))
        for records in (KINDS, COLOURS, PATTERNS)
    )
    turns = rng.sample(range(len(kinds)), len(kinds))
    shifts = [(c, p) for c in range(len(colours)) for p in range(len(patterns))]
    rng.shuffle(shifts)
    while True:
        for colour_shift, pattern_shift in shifts:
            for i, kind in enumerate(kinds):
                colour = colours[(i + colour_shift) % len(colours)]
                yield kind, colour, patterns[(turns[i] + pattern_shift) % len(patterns)]


def with_other_colour(product: Product, rng: random.Random) -> Product:
    """Returns the same product in another colour drawn from `rng`."""
    others = [colour.english for colour in COLOURS if colour.english != product.colour]
    return replace(product, colour=rng.choice(others))


def with_other_kind(product: Product, rng: random.Random) -> Product:
    """Returns a product of another kind drawn from `rng` which is like this one otherwise."""
    others = [kind.english for kind in KINDS if kind.english != product.kind]
    return replace(product, kind=rng.choice(others))


def describe(product: Product, language: str = "en", variant: int = 0) -> str:
    """Returns what a shop may write about the product.

    `language` is "en" or "fa"; `variant` chooses the phrasing (taken modulo how many there are).
    Kind and colour are always named; pattern and background are not in every phrasing. No other
    colour is ever named. Raises ValueError for an unknown language or name.
    """
    return phrase(*_records(product), language, variant)


def _records(product: Product) -> tuple[Kind, Colour, Pattern, Background]:
    """Looks the product's names up. Raises ValueError for an unknown one, naming the allowed."""
    return (
        find(KINDS, "kind", product.kind),
        find(COLOURS, "colour", product.colour),
        find(PATTERNS, "pattern", product.pattern),
        find(BACKGROUNDS, "background", product.background),
    )


def draw(product: Product, size: int = 256) -> Image.Image:
    """Draws the product: an RGB image of `size` x `size` pixels, the same one for equal arguments.

    Raises ValueError naming an unknown kind, colour, pattern or background and the allowed ones,
    and ValueError for a size under 16 pixels.
    """
    return _render(product, size)[0]


def _render(product: Product, size: int) -> tuple[Image.Image, Image.Image]:
    """Returns the picture and the thing's label map (mode L, `Paint` values, twice as large)."""
    kind, colour, pattern, background = _records(product)
    if size < _SMALLEST:
        raise ValueError(f"size must be at least {_SMALLEST} pixels, got {size}")
    # One source of chance for each purpose: a change of kind or colour changes nothing else.
    pose, decor, scene, light = (random.Random(4 * product.seed + i) for i in range(4))

    parts = SHAPES[kind.english]()
    placement = Placement.random(parts, size * _OVERSAMPLING, pose)
    labels = label_map(parts, placement, size * _OVERSAMPLING)
    shade(labels, placement)
    PATTERN_PAINTERS[pattern.english](labels, placement, decor)

    ground = placement.bottom / _OVERSAMPLING
    picture = BACKGROUND_PAINTERS[background.english](size, scene, ground)
    alpha = labels.point([0] + [255] * 255).reduce(_OVERSAMPLING)
    cast_shadow(picture, alpha, light)
    picture.paste(_coloured(labels, colour).reduce(_OVERSAMPLING), mask=alpha)
    return lit(picture, light), labels


def _coloured(labels: Image.Image, colour: Colour) -> Image.Image:
    """Returns the label map in the colours of a product of this colour, as RGB."""
    black = colour.english == "black"  # seen only if its outline and light are lighter
    rgb = {
        **_DETAIL_RGB,
        Paint.OUTLINE: (104, 104, 112) if black else mixed(colour.rgb, (20, 20, 30), 0.63),
        Paint.BODY: colour.rgb,
        Paint.BODY_SHADE: mixed(colour.rgb, (0, 0, 0), 0.13),
        Paint.BODY_LIGHT: mixed(colour.rgb, WHITE, 0.12 if black else 0.2),
        Paint.ACCENT: colour.accent,
    }
    rgb[Paint.CLEAR] = rgb[Paint.OUTLINE]  # unseen, but mixed into the edges by the reduction
    unused = [0] * (256 - len(Paint))
    bands = ([rgb[paint][band] for paint in Paint] + unused for band in range(3))
    return Image.merge("RGB", [labels.point(table) for table in bands])
