"""Batches of pairs: each item by itself, from real forms, files, base64 and addresses that are not allowed."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from handmade import jpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import FormData
from starlette.requests import Request

from data_jobs.errors import InputError
from serve_app import contract, forms, pairs
from serve_app.contract import MAX_BATCH_ITEMS, MAX_FILE_BYTES, MAX_TEXT_CHARACTERS, BatchError
from serve_app.fetch import Fetcher
from serve_app.pairs import Pair
from serve_app.pictures import PictureSource

PICTURE = jpeg("teal")
BASE64 = base64.b64encode(PICTURE).decode()
NOWHERE = PictureSource()
SOUND = {"image": BASE64, "text": "a red mug"}


@pytest.fixture
def source(tmp_path: Path) -> PictureSource:
    """Files below a folder with one picture, and addresses of hosts that nobody can visit."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "عکس.jpg").write_bytes(PICTURE)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return PictureSource(tmp_path / "images", Fetcher(allowed_hosts=("localhost",)))


def of_items(items: Any, source: PictureSource = NOWHERE) -> list[Pair | BatchError]:
    return asyncio.run(pairs.from_items(items, source))


def of_form(source: PictureSource = NOWHERE, **parts: Any) -> list[Pair | BatchError]:
    """From what httpx makes of `data` and `files`."""
    made = httpx.Request("POST", "http://here", **parts)
    return asyncio.run(_of_body(made.read(), made.headers["content-type"], source))


async def _of_body(body: bytes, content_type: str, source: PictureSource) -> list[Pair | BatchError]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", content_type.encode())]
    given = Request({"type": "http", "method": "POST", "headers": headers, "app": None}, receive)
    return await pairs.from_form(await forms.form(given), source)


def code(outcome: Pair | BatchError) -> str:
    assert isinstance(outcome, BatchError), f"it is a pair: {outcome}"
    assert outcome.error
    assert outcome.suggestion
    return outcome.code


class TestItems:
    def test_pictures_come_from_wherever_it_is_allowed(self, source: PictureSource) -> None:
        items = [
            SOUND,
            {"image": f"data:image/jpeg;base64,{BASE64}", "text": "ماگ قرمز", "threshold": 0.3},
            {"image_path": "عکس.jpg", "text": "a red mug", "threshold": "-1"},
            {"image": f"  {BASE64[:10]}\r\n{BASE64[10:]}", "text": " a red mug ", "image_url": None},
        ]
        assert of_items(items, source) == [
            Pair(0, None, PICTURE, "a red mug", None),
            Pair(1, None, PICTURE, "ماگ قرمز", 0.3),
            Pair(2, "عکس.jpg", PICTURE, "a red mug", -1.0),
            Pair(3, None, PICTURE, " a red mug ", None),
        ]

    @pytest.mark.parametrize(
        ("item", "expected"),
        [
            ({"image": BASE64}, "bad_item"),
            ({**SOUND, "text": None}, "bad_item"),
            ({**SOUND, "text": 7}, "bad_item"),
            ({**SOUND, "threshold": "high"}, "bad_item"),
            ({**SOUND, "imagge": "?"}, "bad_item"),
            ({**SOUND, "image": {"url": "x"}}, "bad_item"),
            (["image", "text"], "bad_item"),
            ("a red mug", "bad_item"),
            (None, "bad_item"),
            ({}, "bad_item"),
            ({**SOUND, "text": ""}, "empty_text"),
            ({**SOUND, "text": " \u3000\n"}, "empty_text"),
            ({**SOUND, "text": "x" * (MAX_TEXT_CHARACTERS + 1)}, "text_too_long"),
            ({**SOUND, "threshold": 1.01}, "bad_threshold"),
            ({**SOUND, "threshold": float("nan")}, "bad_threshold"),
            ({**SOUND, "threshold": "-inf"}, "bad_threshold"),
            ({"text": "no picture"}, "bad_input"),
            ({**SOUND, "image_path": "عکس.jpg"}, "bad_input"),
            ({**SOUND, "image": "not base64!"}, "bad_base64"),
            ({**SOUND, "image": "ÄÖ=="}, "bad_base64"),
            ({**SOUND, "image": "data:image/jpeg,plain"}, "bad_base64"),
            ({"image_path": "../secret.jpg", "text": "a mug"}, "path_outside_root"),
            ({"image_path": "none.jpg", "text": "a mug"}, "file_missing"),
            ({"image_path": "", "text": "a mug"}, "file_missing"),
            ({"image_url": "http://localhost/x.jpg", "text": "a mug"}, "url_not_allowed"),
            ({"image_url": "http://elsewhere.example/x.jpg", "text": "a mug"}, "url_not_allowed"),
            ({"image": "HTTPS://elsewhere.example/x.jpg", "text": "a mug"}, "url_not_allowed"),
            ({"image_url": "file:///etc/passwd", "text": "a mug"}, "url_not_allowed"),
        ],
    )  # fmt: skip
    def test_a_bad_item_is_named_and_fails_no_neighbour(
        self, source: PictureSource, item: Any, expected: str
    ) -> None:
        first, bad, last = of_items([SOUND, item, SOUND], source)
        assert code(bad) == expected
        assert bad.index == 1
        assert (first, last) == (
            Pair(0, None, PICTURE, "a red mug", None),
            Pair(2, None, PICTURE, "a red mug", None),
        )

    @pytest.mark.parametrize(
        ("item", "name"),
        [
            ({"image_path": "a.jpg", "text": "a mug"}, "a.jpg"),
            ({"image_url": "http://here/a.jpg", "text": "a mug"}, "http://here/a.jpg"),
            ({"image_path": "a.jpg", "image_url": "b", "text": "a mug"}, "a.jpg"),
            ({"image_path": "a.jpg"}, "a.jpg"),
            ({"image_path": ["a.jpg"], "text": "a mug"}, None),
            ({"image": "!", "text": "a mug"}, None),
            ("a.jpg", None),
        ],
    )
    def test_an_error_names_the_picture_as_the_request_did(self, item: Any, name: str | None) -> None:
        (bad,) = of_items([item])
        assert code(bad)
        assert bad.image_path == name

    def test_without_a_root_and_hosts_nothing_is_read_or_fetched(self) -> None:
        outcomes = of_items([{name: "x", "text": "a mug"} for name in ("image_path", "image_url")])
        assert [code(outcome) for outcome in outcomes] == ["paths_not_allowed", "url_not_allowed"]

    def test_as_many_as_the_contract_says(self) -> None:
        outcomes = of_items([SOUND] * MAX_BATCH_ITEMS)
        assert [outcome.index for outcome in outcomes] == list(range(MAX_BATCH_ITEMS))
        for count in (0, MAX_BATCH_ITEMS + 1):
            with pytest.raises(InputError, match=f"{count} items") as caught:
                of_items([SOUND] * count)
            assert caught.value.code == "bad_batch"

    def test_a_picture_as_base64_has_the_limit_of_files(self) -> None:
        largest, larger = (
            {**SOUND, "image": base64.b64encode(bytes(size)).decode()}
            for size in (MAX_FILE_BYTES, MAX_FILE_BYTES + 1)
        )
        kept, refused = of_items([largest, larger])
        assert isinstance(kept, Pair)
        assert len(kept.picture) == MAX_FILE_BYTES
        assert code(refused) == "file_too_large"

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([*contract.Item.model_fields, "other"]), inner, max_size=4)
            ),
            max_leaves=6,
        )
    )
    def test_whatever_json_holds_its_outcome_can_be_told(self, item: Any) -> None:
        first, outcome, last = of_items([SOUND, item, SOUND])
        assert isinstance(first, Pair)
        assert isinstance(last, Pair)
        assert outcome.index == 1
        if isinstance(outcome, BatchError):
            assert json.loads(outcome.model_dump_json())["index"] == 1

    def test_an_item_of_190_000_unknown_fields_fails_alone_and_at_once(self) -> None:
        outcomes = of_items(
            [SOUND, {f"k{number}": 1 for number in range(190_000)}, {"k" * 10_000: 1, **SOUND}]
        )
        assert isinstance(outcomes[0], Pair)
        assert code(outcomes[1]) == "too_many_faults"
        assert code(outcomes[2]) == "bad_item"
        assert len(outcomes[2].error) < 300, "it repeats what was sent"


class TestForms:
    def test_files_and_texts_belong_together_in_order(self) -> None:
        outcomes = of_form(
            files=[("files", ("عکس.jpg", PICTURE)), ("files", ("b.jpg", b"not checked here"))],
            data={"texts": ["ماگ قرمز", "a lamp"], "threshold": "0.3"},
        )
        assert outcomes == [
            Pair(0, "عکس.jpg", PICTURE, "ماگ قرمز", 0.3),
            Pair(1, "b.jpg", b"not checked here", "a lamp", 0.3),
        ]

    def test_bad_ones_are_named_and_fail_no_neighbours(self) -> None:
        files = [
            ("a.jpg", PICTURE),
            ("b.jpg", PICTURE),
            ("c.jpg", bytes(MAX_FILE_BYTES + 1)),
            ("d.jpg", PICTURE),
        ]
        texts = ["a mug", " ", "a lamp", "x" * (MAX_TEXT_CHARACTERS + 1)]
        outcomes = of_form(files=[("files", file) for file in files], data={"texts": texts})
        assert outcomes[0] == Pair(0, "a.jpg", PICTURE, "a mug", None)
        assert [code(bad) for bad in outcomes[1:]] == ["empty_text", "file_too_large", "text_too_long"]
        assert [(bad.index, bad.image_path) for bad in outcomes[1:]] == [
            (1, "b.jpg"),
            (2, "c.jpg"),
            (3, "d.jpg"),
        ]

    def test_the_largest_file_is_taken_whole(self) -> None:
        (pair,) = of_form(files={"files": ("a.jpg", b"x" * MAX_FILE_BYTES)}, data={"texts": "a mug"})
        assert isinstance(pair, Pair)
        assert pair.picture == b"x" * MAX_FILE_BYTES

    def test_files_that_are_none_and_texts_that_are_files(self) -> None:
        parts: list[tuple[str, tuple[str | None, bytes]]] = [
            ("files", (None, BASE64.encode())), ("texts", (None, b"a mug")),
            ("files", ("a.jpg", PICTURE)), ("texts", ("t.txt", b"a mug")),
            ("files", ("b.jpg", PICTURE)), ("texts", (None, b"a lamp")),
        ]  # fmt: skip
        first, second, sound = of_form(files=parts)
        assert (code(first), code(second)) == ("bad_item", "bad_item")
        assert sound == Pair(2, "b.jpg", PICTURE, "a lamp", None)

    @pytest.mark.parametrize(("files", "texts"), [(2, 1), (0, 1), (1, 0), (0, 0), (MAX_BATCH_ITEMS + 1,) * 2])
    def test_counts_that_do_not_fit_are_refused_as_a_whole(self, files: int, texts: int) -> None:
        with pytest.raises(InputError, match=f"{files} ") as caught:
            of_form(
                files=[("files", ("a.jpg", PICTURE))] * files, data={"texts": ["a mug"] * texts, "other": "x"}
            )
        assert caught.value.code == "bad_batch"

    def test_as_many_as_the_contract_says(self) -> None:
        outcomes = of_form(
            files=[("files", ("a.jpg", PICTURE))] * MAX_BATCH_ITEMS,
            data={"texts": ["a mug"] * MAX_BATCH_ITEMS},
        )
        assert [outcome.index for outcome in outcomes if isinstance(outcome, Pair)] == list(
            range(MAX_BATCH_ITEMS)
        )

    @pytest.mark.parametrize("threshold", ["1.01", "nan", "-inf"])
    def test_the_threshold_is_the_batchs(self, threshold: str) -> None:
        with pytest.raises(InputError) as caught:
            of_form(files={"files": PICTURE}, data={"texts": "a mug", "threshold": threshold})
        assert caught.value.code == "bad_threshold"

    def test_a_threshold_that_is_no_number_is_refused_and_an_empty_one_is_none(self) -> None:
        with pytest.raises(RequestValidationError):
            of_form(files={"files": PICTURE}, data={"texts": "a mug", "threshold": "high"})
        (pair,) = of_form(files={"files": PICTURE}, data={"texts": "a mug", "threshold": ""})
        assert isinstance(pair, Pair)
        assert pair.threshold is None
        with pytest.raises(InputError, match="'threshold' is a file"):
            of_form(files={"files": PICTURE, "threshold": b"0.3"}, data={"texts": "a mug"})

    def test_an_empty_form_is_refused(self) -> None:
        with pytest.raises(InputError, match="0 items"):
            asyncio.run(pairs.from_form(FormData(), NOWHERE))

    def test_any_files_name_can_be_told(self) -> None:
        """In a form that says it is UTF-7 it could be what no JSON holds."""
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="+2AA-.jpg"\r\n\r\nbytes\r\n'
            b'--x\r\nContent-Disposition: form-data; name="texts"\r\n\r\n \r\n--x--\r\n'
        )
        try:
            (bad,) = asyncio.run(_of_body(body, "multipart/form-data; boundary=x; charset=utf-7", NOWHERE))
        except InputError:
            return
        assert isinstance(bad, BatchError)
        assert bad.model_dump_json()
