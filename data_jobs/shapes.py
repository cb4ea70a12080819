"""Outlines of the things in the drawn catalogue: one small function per kind.

A shape is a list of `Part`s in painting order (later parts cover earlier ones). Coordinates are
in a box of about 100 x 100 units whose y axis points down; the longer side of every shape fills
the box, so that one unit means about the same for all kinds. What a part is made of is a `Paint`;
the colours themselves are chosen in `data_jobs.drawing`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

Point = tuple[float, float]
Points = list[Point]


class Paint(IntEnum):
    """What a pixel of the thing shows; the values are the labels of the label map."""

    CLEAR = 0  # not part of the thing
    OUTLINE = 1
    BODY = 2  # the surface which has the product's colour and pattern
    BODY_SHADE = 3
    BODY_LIGHT = 4
    ACCENT = 5  # the pattern's second colour
    DARK = 6
    METAL = 7
    PALE = 8
    GLASS = 9
    LEAF = 10


@dataclass(frozen=True)
class Part:
    """A filled polygon (`width` 0) or an open line `width` units thick, with or without a rim."""

    paint: Paint
    points: Points
    width: float = 0.0
    rim: bool = True


def _fill(points: Points, paint: Paint = Paint.BODY, rim: bool = True) -> Part:
    return Part(paint, points, 0.0, rim)


def _tube(points: Points, width: float, paint: Paint = Paint.BODY) -> Part:
    """A thick line with a rim, such as a handle."""
    return Part(paint, points, width)


def _seam(points: Points, width: float = 1.3, paint: Paint = Paint.OUTLINE) -> Part:
    """A thin line without a rim, such as a fold."""
    return Part(paint, points, width, rim=False)


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Points:
    """Points of an ellipse round (x, y), or of its arc between two angles (degrees, clockwise)."""
    steps = max(6, round(abs(end - start) / 8))
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Points:
    """Points of a rectangle with corners rounded by `r`."""
    if r <= 0:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    corners = (
        (x1 - r, y0 + r, -90),
        (x1 - r, y1 - r, 0),
        (x0 + r, y1 - r, 90),
        (x0 + r, y0 + r, 180),
    )
    return [p for x, y, start in corners for p in _oval(x, y, r, r, start, start + 90)]


def _smooth(points: Sequence[Point], closed: bool = True, rounds: int = 3) -> Points:
    """Rounds the corners of a polygon or of an open line by cutting them `rounds` times."""
    result = list(points)
    for _ in range(rounds):
        following = result[1:] + (result[:1] if closed else [])
        cut: Points = [] if closed else [result[0]]
        for (ax, ay), (bx, by) in zip(result, following, strict=False):
            cut.append((0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by))
            cut.append((0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by))
        result = cut if closed else [*cut, result[-1]]
    return result


def _mirror(points: Points) -> Points:
    """The points mirrored at the line x = 50."""
    return [(100 - x, y) for x, y in points]


def _both(left: Points) -> Points:
    """A symmetric polygon from its left half, given from top to bottom."""
    return left + _mirror(left)[::-1]


def mug() -> list[Part]:
    """A mug with a round handle, seen a little from above."""
    return [
        _tube(_oval(70, 54, 23, 22, -80, 80), 9),
        _fill(
            [
                (6, 14),
                (74, 14),
                (72, 84),
                *_oval(64, 84, 8, 8, 0, 90),
                *_oval(16, 84, 8, 8, 90, 180),
            ]
        ),
        _fill(_oval(40, 14, 34, 7), Paint.BODY_SHADE),
        _fill(_oval(40, 16, 27, 4), Paint.DARK, rim=False),
    ]


def bottle() -> list[Part]:
    """A bottle with a narrow neck and a dark cap."""
    left = [
        (42, 14),
        (42, 24),
        *_smooth([(41, 26), (38, 36), (30, 42), (30, 50)], closed=False, rounds=2),
    ]
    return [
        _fill(_both([*left, *_mirror(_oval(62, 92, 8, 6, 0, 90))])),
        _fill(_box(39, 13, 61, 18, 2), Paint.BODY_SHADE),
        _fill(_box(40, 2, 60, 13, 2), Paint.DARK),
        _seam([(46, 3), (46, 12)], 1.2, Paint.METAL),
        _seam([(54, 3), (54, 12)], 1.2, Paint.METAL),
        _seam([(31, 50), (69, 50)]),
        _seam([(31, 90), (69, 90)]),
    ]


def t_shirt() -> list[Part]:
    """A T-shirt laid flat."""
    collar = _oval(50, 9, 14, 13, 180, 0)
    left: Points = [(33, 8), (22, 13), (2, 36), (16, 50), (26, 40), (25, 94)]
    return [
        _fill([*left, *_mirror(left)[::-1], *_oval(50, 8, 17, 2, 0, -180)]),
        _fill([*_oval(50, 9, 13, 3, 180, 360), *_oval(50, 9, 13, 11, 0, 180)], Paint.BODY_SHADE),
        _seam([(x, y + 4) for x, y in collar]),
        _seam([(26, 40), (28, 27)]),
        _seam([(74, 40), (72, 27)]),
        _seam([(5, 33), (19, 47)]),
        _seam([(95, 33), (81, 47)]),
        _seam([(25, 90), (75, 90)]),
    ]


def hat() -> list[Part]:
    """A hat with a dented crown, a dark band and a wide brim."""
    crown = _smooth(
        [(22, 66), (25, 40), (27, 20), (38, 14), (50, 22), (62, 14), (73, 20), (75, 40), (78, 66)]
    )
    brim = _smooth([(0, 56), (14, 66), (50, 60), (86, 66), (100, 56), (94, 78), (50, 90), (6, 78)])
    band = [(23.5, 52), *_oval(50, 52, 26, 6, 180, 0), (77, 64), *_oval(50, 62, 27, 6, 0, 180)]
    return [
        _fill([*crown, (75, 66), (25, 66)]),
        _fill(band, Paint.DARK),
        _fill(brim),
        _seam(_smooth([(50, 21), (47, 30), (50, 38)], closed=False), 1.5),
    ]


def shoe() -> list[Part]:
    """A laced sneaker from the side."""
    upper = _smooth(
        [
            (6, 24),
            (14, 20),
            (24, 30),
            (36, 22),
            (42, 22),
            (60, 46),
            (88, 54),
            (98, 64),
            (98, 76),
            (4, 76),
            (8, 50),
        ],
        rounds=2,
    )
    toe = [*_oval(98, 80, 20, 24, 180, 262), (97, 76), (97, 80)]
    sole = [(2, 74), (99, 74), *_oval(94, 78, 6, 6, 0, 90), *_oval(7, 78, 5, 6, 90, 180)]
    laces = [((44, 35), (35, 41)), ((49, 41), (40, 47)), ((54, 47), (45, 53))]
    return [
        _fill(upper),
        _fill(toe, Paint.PALE),
        _fill(sole, Paint.PALE),
        _seam([(2.5, 79), (99, 79)], 1.2),
        _seam(_smooth([(36, 24), (32, 42), (46, 60), (64, 74)], closed=False)),
        *(_tube([a, b], 2.4, Paint.PALE) for a, b in laces),
        _seam(_smooth([(8, 50), (20, 52), (22, 74)], closed=False)),
    ]


def backpack() -> list[Part]:
    """A backpack with dark straps and a front pocket."""
    return [
        _tube(_oval(50, 12, 11, 9, 180, 360), 4, Paint.DARK),
        _tube(_smooth([(22, 30), (8, 50), (16, 88)], closed=False), 6, Paint.DARK),
        _tube(_smooth([(78, 30), (92, 50), (84, 88)], closed=False), 6, Paint.DARK),
        _fill(
            [
                *_oval(50, 38, 32, 30, 180, 360),
                *_oval(74, 90, 8, 8, 0, 90),
                *_oval(26, 90, 8, 8, 90, 180),
            ]
        ),
        _seam(_oval(50, 38, 25, 21, 185, 355), 1.5),
        _fill(_box(27, 56, 73, 92, 7)),
        _seam([(27, 68), (73, 68)], 1.5),
        _fill(_box(46, 66, 54, 74, 2), Paint.METAL),
        _fill(_box(43, 36, 57, 45, 2), Paint.PALE),
    ]


def umbrella() -> list[Part]:
    """An open umbrella with a hooked handle."""
    scallops = [p for x in (86, 62, 38, 14) for p in _oval(x, 52, 12, 7, 0, -180)]
    hook = [(50, 24), (50, 86), *_oval(58, 86, 8, 10, 180, 0)]
    return [
        _tube([(50, 2), (50, 10)], 2.5, Paint.METAL),
        _tube(hook, 3, Paint.METAL),
        _tube(hook[2:], 5, Paint.DARK),
        _fill([*_oval(50, 52, 48, 44, 180, 360), *scallops]),
        _seam(_oval(50, 52, 24, 44, 180, 270)),
        _seam(_oval(50, 52, 24, 44, 270, 360)),
        _seam([(50, 8), (50, 50)]),
    ]


def chair() -> list[Part]:
    """A chair seen a little from above."""
    return [
        _tube([(34, 60), (36, 84)], 5, Paint.BODY_SHADE),
        _tube([(82, 60), (84, 84)], 5, Paint.BODY_SHADE),
        _tube([(30, 8), (30, 58)], 5),
        _tube([(78, 8), (78, 58)], 5),
        _fill(_box(25, 4, 83, 22, 5)),
        _fill(_box(28, 30, 80, 42, 3)),
        _fill([(30, 54), (80, 54), (86, 68), (16, 68)]),
        _fill(_box(15, 68, 87, 74, 1), Paint.BODY_SHADE),
        _tube([(20, 76), (18, 97)], 6),
        _tube([(82, 76), (84, 97)], 6),
    ]


def sofa() -> list[Part]:
    """A sofa with two seats."""
    legs = [_tube([(x, 76), (x, 84)], 4, Paint.DARK) for x in (13, 87)]
    return [
        *legs,
        _fill(_box(10, 20, 90, 66, 8)),
        _seam([(50, 21), (50, 52)]),
        _fill(_box(12, 62, 88, 77, 2)),
        _fill(_box(16, 50, 50, 65, 4)),
        _fill(_box(50, 50, 84, 65, 4)),
        _fill(_box(1, 38, 18, 77, 7)),
        _fill(_box(82, 38, 99, 77, 7)),
    ]


def lamp() -> list[Part]:
    """A table lamp with a wide shade and a pull chain."""
    return [
        _tube([(50, 50), (50, 92)], 4.5, Paint.METAL),
        _fill(_oval(50, 66, 6, 5), Paint.METAL),
        _fill([*_oval(50, 97, 24, 11, 180, 360)]),
        _tube([(63, 50), (63, 66)], 0.8, Paint.METAL),
        _fill(_oval(63, 68, 2.2, 2.2), Paint.METAL),
        _fill([*_oval(50, 6, 20, 3, 180, 360), *_oval(50, 52, 40, 5, 0, 180)]),
        _seam(_oval(50, 49, 39, 5, 5, 175)),
        _seam(_oval(50, 8, 21, 3, 5, 175)),
    ]


def clock() -> list[Part]:
    """A round wall clock."""
    return [
        _fill(_oval(50, 50, 49, 49)),
        _fill(_oval(50, 50, 34, 34), Paint.PALE),
        *_dial(50, 50, 31, 12),
    ]


def _dial(x: float, y: float, radius: float, ticks: int) -> list[Part]:
    """Ticks and hands of a clock's face, at ten past ten."""

    def at(angle: float, length: float) -> Point:
        turn = math.radians(angle)
        return (x + radius * length * math.sin(turn), y - radius * length * math.cos(turn))

    marks = [360 * i / ticks for i in range(ticks)]
    return [
        *(_seam([at(a, 0.84), at(a, 1.0)], 0.07 * radius, Paint.DARK) for a in marks),
        _seam([at(305, 0.55), (x, y)], 0.13 * radius, Paint.DARK),
        _seam([at(60, 0.8), (x, y)], 0.09 * radius, Paint.DARK),
        _fill(_oval(x, y, 0.1 * radius, 0.1 * radius), Paint.DARK, rim=False),
    ]


def book() -> list[Part]:
    """A closed book with a label on its cover."""
    pages = [_seam([(20, y), (86, y)], 0.7) for y in (90.5, 93)]
    return [
        _fill([(82, 4), (90, 10), (90, 98), (18, 98), (12, 90)]),
        _fill([(18, 88), (87, 88), (87, 95), (18, 95)], Paint.PALE),
        *pages,
        _fill(_box(70, 88, 75, 99), Paint.DARK),
        _fill(_box(10, 2, 86, 89, 3)),
        _fill(_box(10, 2, 22, 89, 2), Paint.BODY_SHADE),
        _fill(_box(34, 16, 74, 36, 2), Paint.PALE),
        _seam([(40, 23), (68, 23)], 2, Paint.DARK),
        _seam([(46, 29), (62, 29)], 2, Paint.DARK),
    ]


def guitar() -> list[Part]:
    """An acoustic guitar."""
    left = _smooth([(50, 48), (36, 46), (28, 56), (38, 68), (20, 76), (22, 98), (50, 99)], closed=False)
    pegs = [(x, y) for y in (3, 8, 13) for x in (42, 58)]
    return [
        *(_fill(_oval(x, y, 2, 1.6), Paint.METAL) for x, y in pegs),
        _fill(_both(left)),
        _fill(_box(46.5, 14, 53.5, 60), Paint.DARK),
        *(_seam([(46.5, y), (53.5, y)], 0.8, Paint.METAL) for y in (22, 28, 34, 40, 46)),
        _fill(_both([(45, 0), (44, 15), (47, 18)]), Paint.DARK),
        _fill(_oval(50, 66, 7.5, 7.5), Paint.DARK),
        _fill(_box(40, 85, 60, 89, 1), Paint.DARK),
        *(_seam([(x, 16), (x, 86)], 0.6, Paint.METAL) for x in (48.5, 51.5)),
    ]


def toy_car() -> list[Part]:
    """A toy car from the side."""
    shell = [
        (2, 54),
        (6, 44),
        (22, 42),
        (34, 20),
        (40, 16),
        (68, 16),
        (74, 20),
        (84, 42),
        (96, 46),
        (99, 54),
    ]
    windows: list[Points] = [
        [(29, 42), (39, 24), (52, 24), (52, 42)],
        [(56, 42), (56, 24), (67, 24), (76, 42)],
    ]
    wheels = [
        part
        for x in (24, 77)
        for part in (
            _fill(_oval(x, 70, 13, 13), Paint.DARK),
            _fill(_oval(x, 70, 6, 6), Paint.METAL),
        )
    ]
    return [
        _fill([*_smooth(shell, closed=False, rounds=2), (99, 70), (2, 70)]),
        *(_fill(window, Paint.GLASS) for window in windows),
        _seam([(54, 44), (54, 68)]),
        _seam([(58, 50), (64, 50)], 2),
        _fill(_box(0, 64, 100, 71, 2), Paint.METAL),
        _fill(_oval(96, 54, 3, 4), Paint.PALE),
        *wheels,
    ]


SHAPES: dict[str, Callable[[], list[Part]]] = {
    "mug": mug,
    "bottle": bottle,
    "t-shirt": t_shirt,
    "hat": hat,
    "shoe": shoe,
    "backpack": backpack,
    "umbrella": umbrella,
    "chair": chair,
    "sofa": sofa,
    "lamp": lamp,
    "clock": clock,
    "book": book,
    "guitar": guitar,
    "toy car": toy_car,
}
