"""The drawn thing, without colours: a shape placed in the frame, and the pattern laid over its body.

A figure is a label map: an image of mode L whose pixels are `Paint` values. Colours come later (in
`data_jobs.drawing`), so a pattern or a pose is the same on a thing of any colour.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

from data_jobs.shapes import Paint, Part, Point, Points

BODY_PAINTS = (Paint.BODY, Paint.BODY_SHADE, Paint.BODY_LIGHT, Paint.ACCENT)

_MARGIN = 0.015  # least distance to the frame, as a share of it
_RIM = 0.9  # thickness of the outline in units of the shape


@dataclass(frozen=True)
class Placement:
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
    def random(cls, parts: Sequence[Part], size: int, rng: random.Random) -> "Placement":
        """Places a shape in a frame of `size` pixels so that it fills 75 to 95 % of it.

        Product photos are framed like this: nearly upright, and rather in the middle than at the edge.
        """
        share = rng.uniform(0.75, 0.95)
        angle = math.radians(rng.uniform(-8, 8))
        across, along = rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)
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


def label_map(parts: Sequence[Part], placement: Placement, size: int) -> Image.Image:
    """Draws the parts, in order, on an empty label map of `size` x `size` pixels."""
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


def body_mask(labels: Image.Image, paints: Sequence[Paint] = BODY_PAINTS) -> Image.Image:
    """Returns where the label map shows one of the paints: mode L, 255 there and 0 elsewhere."""
    return labels.point([255 if value in paints else 0 for value in range(256)])


def shade(labels: Image.Image, placement: Placement) -> None:
    """Marks the left edges of the body as light and its right edges as shade."""
    body = body_mask(labels, (Paint.BODY,))
    for units, paint in ((-4.0, Paint.BODY_SHADE), (2.5, Paint.BODY_LIGHT)):
        moved = ImageChops.offset(body, round(units * placement.zoom), 0)
        labels.paste(int(paint), mask=ImageChops.subtract(body, moved))


# ------------------------------------------------------------------------------------ patterns


def _paint_pattern(labels: Image.Image, paint: Callable[[ImageDraw.ImageDraw], None]) -> None:
    """Runs `paint` on an empty mask and lays what it drew over the body; works in place."""
    mask = Image.new("L", labels.size, 0)
    paint(ImageDraw.Draw(mask))
    labels.paste(int(Paint.ACCENT), mask=ImageChops.multiply(mask, body_mask(labels)))


def _steps(period: float, rng: random.Random) -> list[float]:
    """Positions `period` units apart which cover the shape however it is turned."""
    start = -40 + rng.random() * period
    return [start + i * period for i in range(int(180 / period))]


def _plain(labels: Image.Image, placement: Placement, rng: random.Random) -> None:
    """Leaves the body as it is."""


def _striped(labels: Image.Image, placement: Placement, rng: random.Random) -> None:
    width = round(3.6 * placement.zoom)
    slope = rng.choice((0.0, 0.0, 0.7, -0.7))
    period = 15 * math.hypot(1, slope)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        for y in _steps(period, rng):
            ends = [(-60, y - 110 * slope), (160, y + 110 * slope)]
            pen.line(placement.apply(ends), fill=255, width=width)

    _paint_pattern(labels, paint)


def _dotted(labels: Image.Image, placement: Placement, rng: random.Random) -> None:
    radius = 3.1 * placement.zoom

    def paint(pen: ImageDraw.ImageDraw) -> None:
        columns = _steps(14, rng)
        for row, y in enumerate(_steps(12, rng)):
            for x, top in placement.apply([(x + 7 * (row % 2), y) for x in columns]):
                pen.ellipse((x - radius, top - radius, x + radius, top + radius), fill=255)

    _paint_pattern(labels, paint)


def _checked(labels: Image.Image, placement: Placement, rng: random.Random) -> None:
    width = round(1.9 * placement.zoom)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        for at in _steps(15, rng):
            pen.line(placement.apply([(at, -60), (at, 160)]), fill=255, width=width)
        for at in _steps(15, rng):
            pen.line(placement.apply([(-60, at), (160, at)]), fill=255, width=width)

    _paint_pattern(labels, paint)


def _zigzag(labels: Image.Image, placement: Placement, rng: random.Random) -> None:
    width = round(2.0 * placement.zoom)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        columns = _steps(7, rng)
        for y in _steps(18, rng):
            peaks = [(x, y + (5 if i % 2 else -5)) for i, x in enumerate(columns)]
            pen.line(placement.apply(peaks), fill=255, width=width, joint="curve")

    _paint_pattern(labels, paint)


PATTERN_PAINTERS: dict[str, Callable[[Image.Image, Placement, random.Random], None]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "zigzag": _zigzag,
}
