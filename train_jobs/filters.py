"""Filters: conditions on documents, parsed strictly from JSON.

    {"food_id": "kebab"}                          the field has this value
    {"category": {"in": ["soup", "stew"]}}        one of these
    {"price": {"gte": 1, "lt": 5}}                a value in this range: gt, gte, lt, lte
    {"brand": {"exists": true}}                   the field has any value; {"brand": null} where it has none
    {"brand": "acme", "price": {"lt": 5}}         all of an object's conditions
    {"any": [{...}, {...}]}, {"not": {...}}       one at least; not this

A field is id, food_id, title, or the path of a value in metadata: "size.width" is width in the object size; a list
gives its field several values, and one that fits is enough. "metadata.title" is the title in metadata, and
"metadata.any" what would otherwise be read as a condition.

Values are compared by what the filter gives, since what comes from CSV files is text throughout: a number is compared
as a number, also with texts that are one ("4.50", "۴٫۵"), true and false with the text too, a text with the text, where
a stored number is as JSON writes it. So dates as 2026-01-31 have ranges. Numbers are float64: give long ids as texts.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from data_jobs.errors import InputError

MAX_DEPTH = 8
MAX_CONDITIONS = 64
MAX_IN = 1000
MAX_TEXT = 500
"""Characters of a value that a filter may give."""
ANY, NOT = "any", "not"
_BOUNDS = ("gt", "gte", "lt", "lte")
_OPERATORS = ("in", *_BOUNDS, "exists")

Bound = str | float


@dataclass(frozen=True)
class OneOf:
    """The field has a value that is one of the texts, or one of the numbers."""

    field: str
    texts: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Range:
    """The field has a value within all bounds, which are all texts or all numbers."""

    field: str
    gt: Bound | None = None
    gte: Bound | None = None
    lt: Bound | None = None
    lte: Bound | None = None

    def bounds(self) -> list[tuple[str, Bound]]:
        """Those that are given, by name."""
        return [(name, bound) for name in _BOUNDS if (bound := getattr(self, name)) is not None]


@dataclass(frozen=True)
class Exists:
    """The field has a value."""

    field: str


@dataclass(frozen=True)
class AllOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Not:
    part: "Filter"


Filter = OneOf | Range | Exists | AllOf | AnyOf | Not


def parse(value: object) -> Filter:
    """The filter that a JSON `value` is. Raises InputError (bad_filter)."""
    parsed = _object(value, 1)
    if (conditions := sum(1 for _ in _each(parsed))) > MAX_CONDITIONS:
        _refuse(f"The filter has {conditions} conditions; the limit is {MAX_CONDITIONS}.")
    return parsed


def _object(value: object, depth: int) -> Filter:
    if not isinstance(value, dict):
        _refuse(f"A filter is an object, not {_shown(value)}.")
    if depth > MAX_DEPTH:
        _refuse(f"The filter is nested more than {MAX_DEPTH} deep.")
    if not value:
        _refuse("The filter has an object without conditions.")
    parts: list[Filter] = []
    for name, given in value.items():
        if name == NOT:
            parts.append(Not(_object(given, depth + 1)))
        elif name == ANY:
            if not isinstance(given, list) or not given:
                _refuse(f"'{ANY}' takes a list of at least one filter, not {_shown(given)}.")
            parts.append(AnyOf(tuple(_object(one, depth + 1) for one in given)))
        else:
            parts.extend(_conditions(_text("A field's name", name), given))
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _conditions(field: str, given: object) -> Iterator[Filter]:
    """What is asked of one field."""
    if given is None:
        yield Not(Exists(field))
        return
    if not isinstance(given, dict):
        yield _one_of(field, [given])
        return
    unknown = [str(name) for name in given if name not in _OPERATORS]
    if unknown or not given:
        found = f"the operator {unknown[0][:80]!r}" if unknown else "no operator"
        _refuse(f"The field {field!r} has {found}; there are {', '.join(_OPERATORS)}.")
    if "in" in given:
        values = given["in"]
        if not isinstance(values, list) or not 1 <= len(values) <= MAX_IN:
            _refuse(f"'in' of {field!r} takes a list of 1 to {MAX_IN} values, not {_shown(values)}.")
        yield _one_of(field, values)
    bounds = {name: _bound(field, name, given[name]) for name in _BOUNDS if name in given}
    if len({type(bound) for bound in bounds.values()}) > 1:
        _refuse(f"The range of {field!r} mixes numbers and texts: {_shown(given)}.")
    if bounds:
        yield Range(field, **bounds)
    if "exists" in given:
        if not isinstance(given["exists"], bool):
            _refuse(f"'exists' of {field!r} is true or false, not {_shown(given['exists'])}.")
        yield Exists(field) if given["exists"] else Not(Exists(field))


def _one_of(field: str, values: list[object]) -> OneOf:
    texts, numbers = set(), set()
    for value in values:
        if isinstance(value, bool):
            texts.add("true" if value else "false")
        elif isinstance(value, int | float):
            numbers.add(_number(field, value))
        elif isinstance(value, str):
            texts.add(_text(f"A value of {field!r}", value))
        else:
            _refuse(f"A value of {field!r} is a text, a number, true or false, not {_shown(value)}.")
    return OneOf(field, tuple(sorted(texts)), tuple(sorted(numbers)))


def _bound(field: str, name: str, value: object) -> Bound:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(field, value)
    if isinstance(value, str):
        return _text(f"'{name}' of {field!r}", value)
    _refuse(f"'{name}' of {field!r} is a number or a text, not {_shown(value)}.")


def _number(field: str, value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(f"A number of {field!r} is {_shown(value)}, beyond the finite float64.")
    return number + 0.0  # -0 becomes 0, as in fields


def _text(what: str, text: str) -> str:
    if len(text) > MAX_TEXT:
        _refuse(f"{what} has {len(text)} characters; the limit is {MAX_TEXT}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(f"{what} holds half a surrogate pair: {text[:80]!r}.")
    return text


def _each(condition: Filter) -> Iterator[Filter]:
    yield condition
    parts = condition.parts if isinstance(condition, AllOf | AnyOf) else ()
    for part in (condition.part,) if isinstance(condition, Not) else parts:
        yield from _each(part)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**80:  # longer ones Python does not even write
        return "a number of more than 80 digits"
    return repr(value)[:80] if isinstance(value, str) else json.dumps(value)


def _refuse(message: str) -> NoReturn:
    raise InputError(
        "bad_filter",
        message,
        'Write it as {"field": value}, {"field": {"in": [...]}}, {"field": {"gte": 1, "lt": 5}}, '
        '{"field": {"exists": true}}, {"any": [{...}, {...}]} or {"not": {...}}.',
    )
