"""The words of the drawn catalogue: what there is to draw, in English and Persian, and how a shop says it.

Each record holds the names of one thing that a picture can show; its English name is the key by which a
`Product` (see `data_jobs.drawing`) refers to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

RGB = tuple[int, int, int]

WHITE: RGB = (255, 255, 255)


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
    Kind("bottle", "بطری"),
    Kind("t-shirt", "تی‌شرت"),
    Kind("hat", "کلاه"),
    Kind("shoe", "کفش"),
    Kind("backpack", "کوله‌پشتی"),
    Kind("umbrella", "چتر"),
    Kind("chair", "صندلی"),
    Kind("sofa", "مبل"),
    Kind("lamp", "آباژور"),
    Kind("clock", "ساعت دیواری"),
    Kind("book", "کتاب"),
    Kind("guitar", "گیتار"),
    Kind("toy car", "ماشین اسباب‌بازی"),
)

COLOURS: tuple[Colour, ...] = (
    Colour("red", "قرمز", (206, 22, 42), WHITE),
    Colour("orange", "نارنجی", (248, 124, 16), (104, 52, 30)),
    Colour("yellow", "زرد", (252, 220, 44), (126, 126, 130)),
    Colour("green", "سبز", (36, 156, 72), WHITE),
    Colour("blue", "آبی", (28, 92, 214), WHITE),
    Colour("purple", "بنفش", (122, 46, 168), WHITE),
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


def find(records: Sequence[_Named], what: str, name: str) -> _Named:
    """Returns the record of this English name. Raises ValueError naming `what` it is and the allowed names."""
    for record in records:
        if record.english == name:
            return record
    allowed = ", ".join(record.english for record in records)
    raise ValueError(f"unknown {what} {name!r}; allowed: {allowed}")


# ----------------------------------------------------------------------------------- phrasings

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


def phrase(
    kind: Kind, colour: Colour, pattern: Pattern, background: Background, language: str, variant: int
) -> str:
    """Returns what a shop may write about a thing: `data_jobs.drawing.describe` says the rules.

    Raises ValueError for an unknown language.
    """
    if language not in _SENTENCES:
        raise ValueError(f"unknown language {language!r}; allowed: {', '.join(_SENTENCES)}")
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
