"""The drawn catalogue: product pictures and their English and Persian descriptions.

The demo needs products which everyone may copy and whose descriptions are known to be right. This
module draws them: a `Product` names a kind of thing, a colour, a pattern, a background and a seed
for everything else (place, size, turn, light). The same product always gives the same picture and
the same words. Nothing is read from disk and nothing happens on import.

    products = random_products(500, seed=1)
    picture = draw(products[0], size=128)
    words = describe(products[0], "fa", variant=2)
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from data_jobs.shapes import SHAPES, Paint, Part, Point, Points

RGB = tuple[int, int, int]


# ---------------------------------------------------------------------------------- vocabulary


@dataclass(frozen=True)
class Kind:
    """A kind of thing, by its English name (the key) and its Persian one."""

    english: str
    persian: str


@dataclass(frozen=True)
class Colour:
    """A colour: its names, its red, green and blue (0 to 255), and those of patterns on it."""

    english: str
    persian: str
    rgb: RGB
    accent: RGB


@dataclass(frozen=True)
class Pattern:
    """A pattern: the adjectives which are its names, and the words for "with this pattern"."""

    english: str
    persian: str
    english_design: str
    persian_design: str


@dataclass(frozen=True)
class Background:
    """What the thing stands before: its names, and the words which place the thing there."""

    english: str
    persian: str
    english_place: str
    persian_place: str


KINDS: tuple[Kind, ...] = (
    Kind("mug", "ماگ"),
    Kind("teapot", "قوری"),
    Kind("plate", "بشقاب"),
    Kind("bottle", "بطری"),
    Kind("vase", "گلدان"),
    Kind("t-shirt", "تی‌شرت"),
    Kind("hat", "کلاه"),
    Kind("shoe", "کفش"),
    Kind("sock", "جوراب"),
    Kind("backpack", "کوله‌پشتی"),
    Kind("handbag", "کیف دستی"),
    Kind("watch", "ساعت مچی"),
    Kind("umbrella", "چتر"),
    Kind("chair", "صندلی"),
    Kind("sofa", "مبل"),
    Kind("lamp", "آباژور"),
    Kind("clock", "ساعت دیواری"),
    Kind("book", "کتاب"),
    Kind("guitar", "گیتار"),
    Kind("toy car", "ماشین اسباب‌بازی"),
)

_WHITE: RGB = (255, 255, 255)

COLOURS: tuple[Colour, ...] = (
    Colour("red", "قرمز", (206, 22, 42), _WHITE),
    Colour("orange", "نارنجی", (248, 124, 16), (104, 52, 30)),
    Colour("yellow", "زرد", (252, 220, 44), (126, 126, 130)),
    Colour("green", "سبز", (36, 156, 72), _WHITE),
    Colour("blue", "آبی", (28, 92, 214), _WHITE),
    Colour("purple", "بنفش", (122, 46, 168), _WHITE),
    Colour("pink", "صورتی", (250, 138, 186), (98, 52, 76)),
    Colour("brown", "قهوه‌ای", (112, 66, 32), (238, 214, 170)),
    Colour("black", "مشکی", (34, 34, 38), (130, 130, 138)),
    Colour("white", "سفید", (250, 250, 248), (142, 152, 168)),
)

PATTERNS: tuple[Pattern, ...] = (
    Pattern("plain", "ساده", "without any pattern", "بدون طرح"),
    Pattern("striped", "راه‌راه", "with stripes", "با طرح راه‌راه"),
    Pattern("dotted", "خال‌خالی", "with dots", "با طرح خال‌خالی"),
    Pattern("checked", "چهارخانه", "with a checked pattern", "با طرح چهارخانه"),
    Pattern("zigzag", "زیگزاگی", "with a zigzag pattern", "با طرح زیگزاگ"),
)

BACKGROUNDS: tuple[Background, ...] = (
    Background("studio", "استودیو", "in a bright studio", "در استودیوی روشن"),
    Background("grey backdrop", "پس‌زمینهٔ خاکستری", "on a grey backdrop", "با پس‌زمینهٔ خاکستری"),
    Background("wooden table", "میز چوبی", "on a wooden table", "روی میز چوبی"),
    Background("painted wall", "دیوار رنگی", "in front of a painted wall", "جلوی دیوار رنگی"),
    Background("shelf", "قفسه", "on a shelf", "روی قفسه"),
    Background("tiled wall", "دیوار کاشی", "in front of a tiled wall", "جلوی دیوار کاشی"),
    Background("marble counter", "پیشخوان مرمر", "on a marble counter", "روی پیشخوان مرمر"),
)

_Named = TypeVar("_Named", Kind, Colour, Pattern, Background)


def _find(records: Sequence[_Named], what: str, name: str) -> _Named:
    for record in records:
        if record.english == name:
            return record
    allowed = ", ".join(record.english for record in records)
    raise ValueError(f"unknown {what} {name!r}; allowed: {allowed}")


# ------------------------------------------------------------------------------------ products


@dataclass(frozen=True)
class Product:
    """One thing of the catalogue; all names are the English ones of this module's tables."""

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


# --------------------------------------------------------------------------------------- words

_SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "{look} {place}.",
        "{bare} {place}.",
        "{look}.",
        "a photo of {bare}.",
        "{bare} {design}, {place}.",
        "{patterned} in {colour}.",
    ),
    "fa": (
        "{look} {place}",
        "یک {bare} {place}",
        "{look}",
        "عکس یک {bare}",
        "{bare} {design}، {place}",
        "{patterned} به رنگ {colour}",
    ),
}


def describe(product: Product, language: str = "en", variant: int = 0) -> str:
    """Returns what a shop may write about the product.

    `language` is "en" or "fa"; `variant` chooses the phrasing (taken modulo how many there are).
    Kind and colour are always named; pattern and background are not in every phrasing. No other
    colour is ever named. Raises ValueError for an unknown language or name.
    """
    if language not in _SENTENCES:
        raise ValueError(f"unknown language {language!r}; allowed: {', '.join(_SENTENCES)}")
    kind = _find(KINDS, "kind", product.kind)
    colour = _find(COLOURS, "colour", product.colour)
    pattern = _find(PATTERNS, "pattern", product.pattern)
    background = _find(BACKGROUNDS, "background", product.background)
    sentences = _SENTENCES[language]
    sentence = sentences[variant % len(sentences)]
    if language == "fa":
        return sentence.format(
            look=f"{kind.persian} {colour.persian} {pattern.persian}",
            bare=f"{kind.persian} {colour.persian}",
            patterned=f"{kind.persian} {pattern.persian}",
            colour=colour.persian,
            design=pattern.persian_design,
            place=background.persian_place,
        )
    adjectives = [colour.english, pattern.english]
    if pattern.english == "plain":  # "a plain red mug", but "a red striped mug"
        adjectives.reverse()
    text = sentence.format(
        look=_with_article(f"{' '.join(adjectives)} {kind.english}"),
        bare=_with_article(f"{colour.english} {kind.english}"),
        patterned=_with_article(f"{pattern.english} {kind.english}"),
        colour=colour.english,
        design=pattern.english_design,
        place=background.english_place,
    )
    return text[0].upper() + text[1:]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# ------------------------------------------------------------------------------------- drawing

_OVERSAMPLING = 2  # the thing is drawn this much larger and then reduced, which smooths its edges
_SMALLEST = 16  # pixels
_MARGIN = 0.015  # least distance to the frame, as a share of it
_RIM = 0.9  # thickness of the outline in units of the shape

_BODY_PAINTS = (Paint.BODY, Paint.BODY_SHADE, Paint.BODY_LIGHT, Paint.ACCENT)
_DETAIL_RGB: dict[Paint, RGB] = {
    Paint.DARK: (66, 62, 66),
    Paint.METAL: (176, 180, 188),
    Paint.PALE: (243, 240, 232),
    Paint.GLASS: (206, 224, 230),
    Paint.LEAF: (128, 146, 118),
}


def draw(product: Product, size: int = 256) -> Image.Image:
    """Draws the product: an RGB image of `size` x `size` pixels, the same one for equal arguments.

    Raises ValueError naming an unknown kind, colour, pattern or background and the allowed ones,
    and ValueError for a size under 16 pixels.
    """
    return _render(product, size)[0]


def _render(product: Product, size: int) -> tuple[Image.Image, Image.Image]:
    """Returns the picture and the thing's label map (mode L, `Paint` values, twice as large)."""
    kind = _find(KINDS, "kind", product.kind)
    colour = _find(COLOURS, "colour", product.colour)
    pattern = _find(PATTERNS, "pattern", product.pattern)
    background = _find(BACKGROUNDS, "background", product.background)
    if size < _SMALLEST:
        raise ValueError(f"size must be at least {_SMALLEST} pixels, got {size}")
    # One source of chance for each purpose: a change of kind or colour changes nothing else.
    pose, decor, scene, light = (random.Random(4 * product.seed + i) for i in range(4))

    parts = SHAPES[kind.english]()
    placement = _Placement.random(parts, size * _OVERSAMPLING, pose)
    labels = _label_map(parts, placement, size * _OVERSAMPLING)
    _shade(labels, placement)
    _PATTERNS[pattern.english](labels, placement, decor)

    ground = placement.bottom / _OVERSAMPLING
    picture = _BACKGROUNDS[background.english](size, scene, ground)
    alpha = labels.point([0] + [255] * 255).reduce(_OVERSAMPLING)
    _cast_shadow(picture, alpha, light)
    picture.paste(_coloured(labels, colour).reduce(_OVERSAMPLING), mask=alpha)
    return _lit(picture, light), labels


def _body_mask(labels: Image.Image, paints: Sequence[Paint] = _BODY_PAINTS) -> Image.Image:
    """Returns where the label map shows one of the paints: mode L, 255 there and 0 elsewhere."""
    return labels.point([255 if value in paints else 0 for value in range(256)])


@dataclass(frozen=True)
class _Placement:
    """How units of a shape become pixels: turned, scaled by `zoom` and moved."""

    x_of_x: float
    x_of_y: float
    y_of_x: float
    y_of_y: float
    right: float
    down: float
    zoom: float  # pixels per unit
    bottom: float  # pixels from the top to the thing's lowest point

    @classmethod
    def random(cls, parts: Sequence[Part], size: int, rng: random.Random) -> "_Placement":
        """Places a shape in a frame of `size` pixels so that it fills 60 to 95 % of it."""
        share = rng.uniform(0.60, 0.95)
        angle = math.radians(rng.uniform(-12, 12))
        across, along = rng.random(), rng.random()
        flip = rng.choice((-1, 1))
        cos, sin = math.cos(angle), math.sin(angle)
        turned = cls(flip * cos, -sin, flip * sin, cos, 0, 0, 1, 0)
        xs, ys = [], []
        for part in parts:
            reach = part.width / 2 + (_RIM if part.rim else 0)
            for x, y in turned.apply(part.points):
                xs += [x - reach, x + reach]
                ys += [y - reach, y + reach]
        width, height = max(xs) - min(xs), max(ys) - min(ys)
        zoom = share * size / max(width, height)
        margin = _MARGIN * size
        left = margin + across * (size - 2 * margin - zoom * width)
        top = margin + along * (size - 2 * margin - zoom * height)
        return cls(
            x_of_x=zoom * flip * cos,
            x_of_y=zoom * -sin,
            y_of_x=zoom * flip * sin,
            y_of_y=zoom * cos,
            right=left - zoom * min(xs),
            down=top - zoom * min(ys),
            zoom=zoom,
            bottom=top + zoom * height,
        )

    def apply(self, points: Sequence[Point]) -> Points:
        """Returns the points in pixels."""
        return [
            (
                self.x_of_x * x + self.x_of_y * y + self.right,
                self.y_of_x * x + self.y_of_y * y + self.down,
            )
            for x, y in points
        ]


def _label_map(parts: Sequence[Part], placement: _Placement, size: int) -> Image.Image:
    labels = Image.new("L", (size, size), Paint.CLEAR)
    pen = ImageDraw.Draw(labels)
    rim = _RIM * placement.zoom
    for part in parts:
        points = placement.apply(part.points)
        width = part.width * placement.zoom
        if part.width:
            if part.rim:
                _line(pen, points, width + 2 * rim, Paint.OUTLINE)
            _line(pen, points, width, part.paint)
        else:
            if part.rim:
                _line(pen, [*points, points[0]], 2 * rim, Paint.OUTLINE)
            pen.polygon(points, fill=int(part.paint))
    return labels


def _line(pen: ImageDraw.ImageDraw, points: Points, width: float, paint: Paint) -> None:
    """Draws a line with round ends and round corners."""
    pen.line(points, fill=int(paint), width=max(1, round(width)))
    reach = width / 2
    for i, (x, y) in enumerate(points):
        if 0 < i < len(points) - 1:
            (ax, ay), (bx, by) = points[i - 1], points[i + 1]
            turn = math.atan2(by - y, bx - x) - math.atan2(y - ay, x - ax)
            if reach * abs(math.sin(turn / 2)) < 0.3:  # the notch is too small to be seen
                continue
        if reach >= 1:
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=int(paint))


def _shade(labels: Image.Image, placement: _Placement) -> None:
    """Marks the left edges of the body as light and its right edges as shade."""
    body = _body_mask(labels, (Paint.BODY,))
    for units, paint in ((-4.0, Paint.BODY_SHADE), (2.5, Paint.BODY_LIGHT)):
        moved = ImageChops.offset(body, round(units * placement.zoom), 0)
        labels.paste(int(paint), mask=ImageChops.subtract(body, moved))


def _coloured(labels: Image.Image, colour: Colour) -> Image.Image:
    """Returns the label map in the colours of a product of this colour, as RGB."""
    black = colour.english == "black"  # seen only if its outline and light are lighter
    rgb = {
        **_DETAIL_RGB,
        Paint.OUTLINE: (104, 104, 112) if black else _mixed(colour.rgb, (20, 20, 30), 0.63),
        Paint.BODY: colour.rgb,
        Paint.BODY_SHADE: _mixed(colour.rgb, (0, 0, 0), 0.13),
        Paint.BODY_LIGHT: _mixed(colour.rgb, _WHITE, 0.12 if black else 0.2),
        Paint.ACCENT: colour.accent,
    }
    rgb[Paint.CLEAR] = rgb[Paint.OUTLINE]  # unseen, but mixed into the edges by the reduction
    unused = [0] * (256 - len(Paint))
    bands = ([rgb[paint][band] for paint in Paint] + unused for band in range(3))
    return Image.merge("RGB", [labels.point(table) for table in bands])


def _mixed(first: RGB, second: RGB, share: float) -> RGB:
    """Returns the first colour with a share (0 to 1) of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _cast_shadow(picture: Image.Image, alpha: Image.Image, rng: random.Random) -> None:
    """Darkens the picture where the thing's soft shadow falls; works in place."""
    size = picture.width
    small = max(8, size // 4)
    shift = (round(rng.uniform(-0.03, 0.03) * small), round(rng.uniform(0.015, 0.04) * small))
    shadow = ImageChops.offset(alpha.resize((small, small)), *shift)
    shadow = shadow.filter(ImageFilter.GaussianBlur(0.025 * small))
    strength = rng.uniform(0.28, 0.42)
    shadow = shadow.point([round(strength * value) for value in range(256)])
    picture.paste((28, 28, 38), mask=shadow.resize((size, size), Image.Resampling.BILINEAR))


def _lit(picture: Image.Image, rng: random.Random) -> Image.Image:
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


# ------------------------------------------------------------------------------------ patterns


def _paint_pattern(labels: Image.Image, paint: Callable[[ImageDraw.ImageDraw], None]) -> None:
    """Runs `paint` on an empty mask and lays what it drew over the body; works in place."""
    mask = Image.new("L", labels.size, 0)
    paint(ImageDraw.Draw(mask))
    labels.paste(int(Paint.ACCENT), mask=ImageChops.multiply(mask, _body_mask(labels)))


def _steps(period: float, rng: random.Random) -> list[float]:
    """Positions `period` units apart which cover the shape however it is turned."""
    start = -40 + rng.random() * period
    return [start + i * period for i in range(int(180 / period))]


def _plain(labels: Image.Image, placement: _Placement, rng: random.Random) -> None:
    """Leaves the body as it is."""


def _striped(labels: Image.Image, placement: _Placement, rng: random.Random) -> None:
    width = round(3.6 * placement.zoom)
    slope = rng.choice((0.0, 0.0, 0.7, -0.7))
    period = 15 * math.hypot(1, slope)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        for y in _steps(period, rng):
            ends = [(-60, y - 110 * slope), (160, y + 110 * slope)]
            pen.line(placement.apply(ends), fill=255, width=width)

    _paint_pattern(labels, paint)


def _dotted(labels: Image.Image, placement: _Placement, rng: random.Random) -> None:
    radius = 3.1 * placement.zoom

    def paint(pen: ImageDraw.ImageDraw) -> None:
        columns = _steps(14, rng)
        for row, y in enumerate(_steps(12, rng)):
            for x, top in placement.apply([(x + 7 * (row % 2), y) for x in columns]):
                pen.ellipse((x - radius, top - radius, x + radius, top + radius), fill=255)

    _paint_pattern(labels, paint)


def _checked(labels: Image.Image, placement: _Placement, rng: random.Random) -> None:
    width = round(1.9 * placement.zoom)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        for at in _steps(15, rng):
            pen.line(placement.apply([(at, -60), (at, 160)]), fill=255, width=width)
        for at in _steps(15, rng):
            pen.line(placement.apply([(-60, at), (160, at)]), fill=255, width=width)

    _paint_pattern(labels, paint)


def _zigzag(labels: Image.Image, placement: _Placement, rng: random.Random) -> None:
    width = round(2.4 * placement.zoom)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        columns = _steps(7, rng)
        for y in _steps(18, rng):
            peaks = [(x, y + (5 if i % 2 else -5)) for i, x in enumerate(columns)]
            pen.line(placement.apply(peaks), fill=255, width=width, joint="curve")

    _paint_pattern(labels, paint)


_PATTERNS: dict[str, Callable[[Image.Image, _Placement, random.Random], None]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "zigzag": _zigzag,
}


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
        plank = _mixed(_WOOD, (150, 116, 78), rng.uniform(0, 0.35))
        pen.rectangle((0, top, size, top + height), fill=plank)
        grain = _mixed(plank, (120, 88, 56), 0.25)
        for _ in range(5):
            y, left = top + rng.random() * height, rng.random() * size
            length = rng.uniform(0.2, 0.7) * size
            pen.line((left, y, left + length, y + rng.uniform(-1, 1)), fill=grain, width=1)
        pen.line((0, top, size, top), fill=(136, 104, 72), width=max(1, size // 128))
    return picture


def _painted_wall(size: int, rng: random.Random, ground: float) -> Image.Image:
    wall = rng.choice(_WALLS)
    picture = _fading(size, _mixed(wall, _WHITE, 0.15), wall)
    pen = ImageDraw.Draw(picture)
    floor = min(ground - 0.05 * size, 0.9 * size)
    pen.rectangle((0, floor, size, size), fill=_mixed(wall, (96, 92, 92), 0.35))
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


_BACKGROUNDS: dict[str, Callable[[int, random.Random, float], Image.Image]] = {
    "studio": _studio,
    "grey backdrop": _grey_backdrop,
    "wooden table": _wooden_table,
    "painted wall": _painted_wall,
    "shelf": _shelf,
    "tiled wall": _tiled_wall,
    "marble counter": _marble_counter,
}
