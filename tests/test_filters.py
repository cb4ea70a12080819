"""Filters: what is accepted, what is refused and how it is said; and that columns pass what plain Python passes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_jobs import schema
from data_jobs.errors import InputError
from train_jobs import fields, filters
from train_jobs.fields import Fields
from train_jobs.filters import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_IN,
    MAX_TEXT,
    AllOf,
    AnyOf,
    Exists,
    Not,
    OneOf,
    Range,
)
from train_jobs.index_version import mapped


def _documents(metadata: list[Any]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": f"d{row}", "food_id": f"{row // 2}", "title": f"قرمه سبزی {row}",
                "passage_text": "p", "image_path": None, "metadata": json.dumps(found, ensure_ascii=False),
            }
            for row, found in enumerate(metadata)
        ],
        schema.DOCSTORE,
    )  # fmt: skip


def _fields(metadata: list[Any], folder: Path) -> Fields:
    fields.write(_documents(metadata), folder / "fields.arrow")
    return Fields(mapped(folder / "fields.arrow"))


SHOP = [
    {
        "price": "4.50",
        "brand": "acme",
        "in_stock": True,
        "size": {"w": 3, "unit": "cm"},
        "tags": ["new", "red"],
    },
    {"price": "12", "brand": "Acme", "in_stock": "true", "size": {"w": 10}, "date": "2026-01-31"},
    {"price": 7, "brand": None, "in_stock": False, "date": "2026-02-01", "tags": []},
    {"price": "on request", "size": [{"w": 1}, {"w": 4}], "title": "another", "any": 1},
    {"price": "۴٫۵", "brand": "", "tags": "red", "date": "2025-12-31"},
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Fields:
    return _fields(SHOP, tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ({"id": "d3"}, [3]),
        ({"food_id": 1}, [2, 3]),  # "1" is a number
        ({"food_id": "01"}, []),
        ({"title": "قرمه سبزی 3"}, [3]),
        ({"metadata.title": "another"}, [3]),
        ({"metadata.any": 1}, [3]),
        ({"metadata.price": 7}, [2]),
        ({"price": 4.5}, [0, 4]),
        ({"price": "4.5"}, []),  # the text is 4.50
        ({"price": "7"}, [2]),  # as JSON writes 7
        ({"price": {"gte": 4.5, "lt": 12}}, [0, 2, 4]),
        ({"price": {"gt": 4.5}}, [1, 2]),
        ({"price": {"lte": 7}}, [0, 2, 4]),
        ({"price": {"in": [12, "on request"]}}, [1, 3]),
        ({"brand": "acme"}, [0]),
        ({"brand": None}, [2, 3]),
        ({"brand": {"exists": True}}, [0, 1, 4]),
        ({"brand": {"exists": False}}, [2, 3]),
        ({"in_stock": True}, [0, 1]),
        ({"in_stock": False}, [2]),
        ({"size.w": 3}, [0]),
        ({"size.w": 4}, [3]),
        ({"size.w": {"gt": 1, "lt": 4}}, [0]),  # 1 and 4 are two values: neither is between
        ({"tags": "red"}, [0, 4]),
        ({"tags": {"exists": False}}, [1, 2, 3]),
        ({"date": {"gte": "2026-01-01", "lt": "2026-02-01"}}, [1]),
        ({"brand": "acme", "price": {"lt": 5}}, [0]),
        ({"not": {"brand": "acme", "price": {"lt": 5}}}, [1, 2, 3, 4]),
        ({"any": [{"brand": "acme"}, {"price": 7}]}, [0, 2]),
        ({"any": [{"brand": "acme"}, {"price": 7}], "in_stock": False}, [2]),
        ({"price": {"in": [7, 12], "lt": 10}}, [2]),
    ],
)
def test_what_a_filter_passes(shop: Fields, condition: Any, rows: list[int]) -> None:
    assert np.flatnonzero(shop.mask(filters.parse(condition))).tolist() == rows


def test_what_a_filter_is() -> None:
    assert filters.parse({"a": "x"}) == OneOf("a", ("x",))
    assert filters.parse({"a": {"in": [2, "y", "x", True, 2.0, -0.0]}}) == OneOf(
        "a", ("true", "x", "y"), (0.0, 2.0)
    )
    assert filters.parse({"a": {"gt": 1, "lte": 2}}) == Range("a", gt=1.0, lte=2.0)
    assert filters.parse({"a": None}) == Not(Exists("a"))
    assert filters.parse({"a": 1, "not": {"b": 2}, "any": [{"c": 3}]}) == AllOf(
        (OneOf("a", (), (1.0,)), Not(OneOf("b", (), (2.0,))), AnyOf((OneOf("c", (), (3.0,)),)))
    )
    assert hash(filters.parse({"a": {"in": ["x", "y"]}})) == hash(filters.parse({"a": {"in": ["y", "x"]}}))


def _nested(depth: int) -> Any:
    return {"a": 1} if depth == 1 else {"not": _nested(depth - 1)}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("food_id=x", "A filter is an object, not 'food_id=x'"),
        ([{"a": 1}], "not a list of 1"),
        (None, "not null"),
        ({}, "an object without conditions"),
        ({"not": {}}, "an object without conditions"),
        ({"any": []}, "at least one filter, not a list of 0"),
        ({"any": {"a": 1}}, "at least one filter, not an object of 1"),
        ({"any": [{"a": 1}, 3]}, "A filter is an object, not 3"),
        ({"price": {"$gte": 1}}, "'price' has the operator '$gte'; there are in, gt, gte, lt, lte, exists"),
        ({"price": {}}, "'price' has no operator"),
        ({"price": [1, 2]}, "a text, a number, true or false, not a list of 2"),
        ({"price": {"in": 3}}, "'in' of 'price' takes a list of 1 to 1000 values, not 3"),
        ({"price": {"in": []}}, "not a list of 0"),
        ({"price": {"in": [1] * (MAX_IN + 1)}}, "not a list of 1001"),
        ({"price": {"in": [None]}}, "not null"),
        ({"price": {"gt": True}}, "'gt' of 'price' is a number or a text, not true"),
        ({"price": {"gt": 1, "lt": "b"}}, "mixes numbers and texts"),
        ({"price": {"gt": float("nan")}}, "beyond the finite float64"),
        ({"price": 10**400}, "a number of more than 80 digits, beyond the finite float64"),
        ({"price": {"exists": 1}}, "'exists' of 'price' is true or false, not 1"),
        ({"price": "x" * (MAX_TEXT + 1)}, "has 501 characters; the limit is 500"),
        ({"x" * (MAX_TEXT + 1): 1}, "A field's name has 501 characters"),
        ({"price": "\ud800"}, "half a surrogate pair"),
        ({"\ud800": 1}, "half a surrogate pair"),
        (_nested(MAX_DEPTH + 1), "nested more than 8 deep"),
        ({"any": [{"a": 1}] * MAX_CONDITIONS}, "65 conditions; the limit is 64"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        filters.parse(value)
    assert refusal.value.code == "bad_filter"
    assert said in refusal.value.message
    refusal.value.message.encode()  # can be answered over HTTP, whatever was sent


def test_the_limits_themselves_are_allowed(shop: Fields) -> None:
    filters.parse(_nested(MAX_DEPTH))
    filters.parse({"any": [{"a": 1}] * (MAX_CONDITIONS - 1)})
    assert not shop.mask(filters.parse({"price": {"in": ["x" * MAX_TEXT, *range(100, 99 + MAX_IN)]}})).any()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
                        ["any", "not", "in", "gt", "lte", "exists", "a"]) | st.text(), inner)))  # fmt: skip
def test_any_json_is_a_filter_or_a_refusal(value: Any) -> None:
    assert _refusal(value) in (None, "bad_filter")


def _refusal(value: Any) -> str | None:
    try:
        filters.parse(value)
    except InputError as refusal:
        str(refusal).encode()
        return refusal.code
    return None


@pytest.mark.parametrize(
    "condition", [{"prize": 4}, {"not": {"prize": None}}, {"any": [{"id": "d1"}, {"metadata.prize": 1}]}]
)
def test_a_field_that_no_document_has_is_refused(shop: Fields, condition: Any) -> None:
    with pytest.raises(InputError, match="prize") as refusal:
        shop.mask(filters.parse(condition))
    assert refusal.value.code == "bad_filter"
    assert "id, food_id, title, any, brand, date" in refusal.value.suggestion


def test_of_very_many_fields_the_most_common_are_kept(tmp_path: Path) -> None:
    rows = [{"common": 1, f"rare{row}": 1} for row in range(fields.MAX_FIELDS + 50)]
    kept = _fields(rows, tmp_path)
    assert len(kept.names) == fields.MAX_FIELDS + len(fields.COLUMNS)
    assert kept.mask(filters.parse({"common": 1})).all()
    with pytest.raises(InputError) as refusal:
        kept.mask(filters.parse({f"rare{fields.MAX_FIELDS + 40}": 1}))
    assert "and 973 more" in refusal.value.suggestion


def test_long_texts_and_zeros_are_compared_whole(tmp_path: Path) -> None:
    kept = _fields([{"p": "z" * 501}, {"p": "z" * 500}, {"p": "-0"}, {"p": -0.0}, {"p": 0}], tmp_path)
    for condition, rows in (
        ({"p": "z" * 500}, [1]),
        ({"p": {"gt": "z" * 500}}, [0]),
        ({"p": {"lte": "z" * 500, "gt": "y"}}, [1]),
        ({"p": 0}, [2, 3, 4]),
        ({"p": -0.0}, [2, 3, 4]),
    ):
        assert np.flatnonzero(kept.mask(filters.parse(condition))).tolist() == rows


def test_documents_of_several_batches_keep_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "_ROWS_PER_BATCH", 7)
    kept = _fields([{"n": row, "odd": [row % 2, "x"] if row % 3 else None} for row in range(40)], tmp_path)
    assert np.flatnonzero(kept.mask(filters.parse({"n": {"in": [6, 7, 39]}}))).tolist() == [6, 7, 39]
    odd = [row for row in range(40) if row % 3 and row % 2]
    assert np.flatnonzero(kept.mask(filters.parse({"odd": 1}))).tolist() == odd


TEXTS = ["", "a", "b", "ab", "1", "1.0", "-0", "+2", " 3 ", "1e2", "1_000", "nan", "inf", "۱۲", "۱٫۵", "true",
         "z" * 600, "z" * 500, "z" * 501]  # fmt: skip
NUMBERS = [0, -0.0, 1, 2.0, 3, 12, 1.5, 100, 1e300, 2**60]
SCALARS = st.sampled_from([*TEXTS, *NUMBERS, True, False, None, 10**400])
METADATA = st.dictionaries(
    st.sampled_from(["p", "q", "title"]),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["r", "s"]), SCALARS),
)
GIVEN = st.sampled_from([text for text in TEXTS if len(text) <= MAX_TEXT] + NUMBERS + [True, False])
BOUNDS = st.one_of(
    *(
        st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.sampled_from(side), min_size=1)
        for side in ([text for text in TEXTS if len(text) <= MAX_TEXT], NUMBERS)
    )
)
FIELD = st.sampled_from(["id", "food_id", "title", "p", "q", "p.r", "p.s", "metadata.title", "metadata.q"])
ONE = st.dictionaries(
    FIELD,
    GIVEN
    | st.none()
    | BOUNDS
    | st.fixed_dictionaries({"in": st.lists(GIVEN, min_size=1, max_size=4)})
    | st.fixed_dictionaries({"exists": st.booleans()}),
    min_size=1,
    max_size=3,
)
CONDITION = st.recursive(
    ONE,
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)})
        | st.builds(lambda one, other: {**one, "not": other}, ONE, inner)
    ),
    max_leaves=6,
)


def _passes(document: dict[str, Any], condition: dict[str, Any]) -> bool:
    """What filters.parse and Fields.mask mean, said once more and slowly."""
    for name, asked in condition.items():
        if name == "not":
            right = not _passes(document, asked)
        elif name == "any":
            right = any(_passes(document, one) for one in asked)
        else:
            right = _holds(_found(document, name), asked)
        if not right:
            return False
    return True


def _found(document: dict[str, Any], path: str) -> list[Any]:
    if path in ("id", "food_id", "title"):
        return [document[path]]
    found = [document["metadata"]]
    for name in path.removeprefix("metadata.").split("."):
        found = [one.get(name) for one in found if isinstance(one, dict)]
        found = [each for one in found for each in (one if isinstance(one, list) else [one])]
    return [one for one in found if one is not None and not isinstance(one, dict)]


def _holds(found: list[Any], asked: Any) -> bool:
    if asked is None:
        return not found
    if not isinstance(asked, dict):
        return any(_same(one, asked) for one in found)
    if "in" in asked:
        return any(_same(one, value) for one in found for value in asked["in"])
    if "exists" in asked:
        return bool(found) == asked["exists"]
    return any(all(_within(one, name, bound) for name, bound in asked.items()) for one in found)


def _same(one: Any, asked: Any) -> bool:
    return _as(one, asked) == (json.dumps(asked) if isinstance(asked, bool) else asked)


def _within(one: Any, name: str, bound: Any) -> bool:
    if (value := _as(one, bound)) is None:
        return False
    return {"gt": value > bound, "gte": value >= bound, "lt": value < bound, "lte": value <= bound}[name]


def _as(one: Any, asked: Any) -> Any:
    """`one` as a number, if a number is asked, and else as a text; None: it is none."""
    if isinstance(asked, str | bool):
        return one if isinstance(one, str) else json.dumps(one)
    if isinstance(one, bool) or one == 10**400 or one in ("nan", "inf", "1_000"):
        return None
    try:
        return float(one.replace("٫", ".") if isinstance(one, str) else one)
    except ValueError:
        return None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(METADATA, max_size=8), CONDITION)
def test_columns_pass_what_plain_python_passes(
    tmp_path: Path, metadata: list[Any], condition: dict[str, Any]
) -> None:
    # one that has every field, so that none is unknown
    metadata = [{"p": [1, {"r": 1, "s": 1}], "q": 1, "title": "t"}, *metadata]
    documents = _documents(metadata).to_pylist()
    right = [
        _passes({**document, "metadata": found}, condition)
        for document, found in zip(documents, metadata, strict=True)
    ]
    assert _fields(metadata, tmp_path).mask(filters.parse(condition)).tolist() == right
