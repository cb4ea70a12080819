"""Bodies as browsers, curl and httpx encode them, and as nobody should: a form, a named refusal, nothing else."""

import asyncio
import json as plain_json
from collections.abc import Sequence
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from data_jobs.errors import InputError
from serve_app import contract, forms

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)
"""Of a file whose form breaks off; Starlette leaves its closing to Python."""

PICTURE = bytes(range(256)) * 4
MULTIPART = "multipart/form-data; boundary=xxx"
URLENCODED = "application/x-www-form-urlencoded"
SOUND = (
    b'--xxx\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nbytes\r\n'
    b'--xxx\r\nContent-Disposition: form-data; name="text"\r\n\r\na red mug\r\n--xxx--\r\n'
)


def request(body: bytes | Sequence[bytes], content_type: str | None, leaves: bool = False) -> Request:
    """A request as it comes out of FastAPI, in one message or several; at the end its client may hang up."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": leaves or number < len(chunks)}
        for number, chunk in enumerate(chunks, 1)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "headers": headers, "app": None}, receive)


def encoded(**parts: Any) -> Request:
    """What httpx makes of `data` and `files`."""
    made = httpx.Request("POST", "http://here", **parts)
    return request(made.read(), made.headers["content-type"])


def form(given: Request) -> FormData:
    return asyncio.run(forms.form(given))


def refused(given: Request) -> str:
    """What is said of a body that is no form."""
    with pytest.raises(InputError) as caught:
        form(given)
    assert (caught.value.code, contract.status_of(caught.value)) == ("bad_request", 422)
    return caught.value.message


class TestIsForm:
    @pytest.mark.parametrize(
        "kind", [MULTIPART, URLENCODED, "Multipart/Form-Data; Boundary=x", URLENCODED + ";charset=utf-8"]
    )
    def test_the_content_type_says_so(self, kind: str) -> None:
        assert forms.is_form(request(b"", kind))

    @pytest.mark.parametrize(
        "kind", [None, "", "application/json", "text/plain", "multipart/mixed; boundary=x", "image/jpeg"]
    )
    def test_all_else_is_json(self, kind: str | None) -> None:
        assert not forms.is_form(request(b"", kind))


class TestForm:
    def test_fields_and_files_come_in_order_and_whole(self) -> None:
        fields = form(
            encoded(
                data={"texts": ["ماگ قرمز", "a & b=c+d\r\n"], "threshold": "0.3"},
                files=[
                    ("files", ("عکس.jpg", PICTURE)),
                    ("files", ("b.jpg", b"")),
                    ("file", ("c", PICTURE * 2000)),
                ],
            )
        )
        assert fields.getlist("texts") == ["ماگ قرمز", "a & b=c+d\r\n"]
        assert forms.text(fields, "threshold") == "0.3"
        first, second = fields.getlist("files")
        assert isinstance(first, UploadFile)
        assert isinstance(second, UploadFile)
        assert (first.filename, first.size, asyncio.run(first.read())) == ("عکس.jpg", 1024, PICTURE)
        assert (second.filename, second.size) == ("b.jpg", 0)
        assert asyncio.run(forms.file(fields, "file").read()) == PICTURE * 2000, (
            "larger than what stays in memory"
        )

    def test_url_encoded_fields(self) -> None:
        fields = form(encoded(data={"text": "ماگ قرمز & more", "n": ["1", "2"]}))
        assert (fields["text"], fields.getlist("n")) == ("ماگ قرمز & more", ["1", "2"])

    def test_a_form_in_single_bytes_is_the_same(self) -> None:
        fields = form(request([SOUND[i : i + 1] for i in range(len(SOUND))], MULTIPART))
        assert (forms.text(fields, "text"), forms.file(fields, "file").filename) == ("a red mug", "a.jpg")

    def test_a_boundary_in_capitals_of_the_header_is_found(self) -> None:
        assert forms.text(form(request(SOUND, "Multipart/Form-Data; Boundary=xxx")), "text") == "a red mug"

    def test_so_many_files_and_fields_and_no_more(self) -> None:
        def files(count: int) -> list[tuple[str, tuple[str, bytes]]]:
            return [("files", ("a", b"x"))] * count

        def fields(count: int) -> dict[str, list[str]]:
            return {"texts": ["x"] * count}

        most = forms.MAX_FIELDS
        assert len(form(encoded(files=files(most), data=fields(most))).multi_items()) == 2 * most
        assert str(most) in refused(encoded(files=files(most + 1)))
        assert str(most) in refused(encoded(data=fields(most + 1), files=files(1)))
        assert len(form(encoded(data=fields(most))).multi_items()) == most
        assert str(most) in refused(encoded(data=fields(most + 1)))

    @pytest.mark.parametrize("files", [{"f": b""}, None], ids=["multipart", "url-encoded"])
    def test_a_field_holds_a_picture_as_base64_and_no_more(self, files: dict[str, bytes] | None) -> None:
        largest = "A" * (forms.MAX_FIELD_BYTES - len("image"))  # url-encoded, the name counts
        assert forms.text(form(encoded(data={"image": largest}, files=files)), "image") == largest
        assert "maximum size" in refused(encoded(data={"image": largest + "A" * 6}, files=files))

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (SOUND, "multipart/form-data"),
            (SOUND, "multipart/form-data; boundary="),
            (SOUND, "multipart/form-data; boundary=yyy"),
            (SOUND.replace(b'name="text"', b"nameless"), MULTIPART),
            (SOUND.replace(b"Content-Disposition", b"Content Disposition"), MULTIPART),
            (b'{"text": "a red mug"}', MULTIPART),
            (PICTURE, MULTIPART),
        ],
    )
    def test_what_is_no_form_is_refused(self, body: bytes, kind: str) -> None:
        assert "cannot be read" in refused(request(body, kind))

    def test_of_a_form_that_breaks_off_no_half_a_part_is_taken(self) -> None:
        for length in range(len(SOUND)):
            try:
                fields = form(request(SOUND[:length], MULTIPART))
            except InputError:
                continue
            assert forms.text(fields, "text") in (None, "a red mug")
            assert all(asyncio.run(file.read()) == b"bytes" for file in fields.getlist("file"))

    def test_a_client_that_hangs_up_is_no_failure(self) -> None:
        assert "breaks off" in refused(request(SOUND[:150], MULTIPART, leaves=True))

    @settings(deadline=None)
    @given(st.data())
    def test_nothing_else_comes_of_any_bytes(self, data: st.DataObject) -> None:
        at, until = sorted(data.draw(st.tuples(*[st.integers(0, len(SOUND))] * 2)))
        body = SOUND[:at] + data.draw(st.binary(max_size=20)) + SOUND[until:]
        charsets = [f"{MULTIPART}; charset={name}" for name in ("utf-16", "idna", "rot13", "none")]
        try:
            fields = form(request(body, data.draw(st.sampled_from([MULTIPART, URLENCODED, *charsets]))))
        except InputError:
            return
        for _, value in fields.multi_items():
            told = value.filename if isinstance(value, UploadFile) else value
            assert told is not None
            told.encode()

    @pytest.mark.parametrize("charset", ["utf-7", "utf_7", "unicode_escape", "raw_unicode_escape"])
    def test_no_text_holds_what_utf_8_cannot(self, charset: str) -> None:
        """Lone surrogates, which no tokenizer takes and no JSON answer holds."""
        body = SOUND.replace(b"a red mug", rb"+2AA- \ud800").replace(b"a.jpg", rb"+2AA- \ud800.jpg")
        try:
            fields = form(request(body, f"{MULTIPART}; charset={charset}"))
        except InputError:
            return
        assert (forms.text(fields, "text") or "").encode()
        assert (forms.file(fields, "file").filename or "").encode()


class TestFields:
    @pytest.fixture
    def fields(self) -> FormData:
        return form(
            encoded(
                data={"text": "mug", "empty": "", "twice": ["1", "2"]},
                files={"file": ("a", b"1"), "image": b"2"},
            )
        )

    def test_a_plain_field_or_none(self, fields: FormData) -> None:
        assert forms.text(fields, "text") == "mug"
        assert forms.text(fields, "twice") == "2"
        assert forms.text(fields, "empty") is None
        assert forms.text(fields, "missing") is None
        with pytest.raises(InputError, match="'file' is a file") as caught:
            forms.text(fields, "file")
        assert caught.value.code == "bad_request"

    def test_a_file_under_any_of_its_names(self, fields: FormData) -> None:
        assert asyncio.run(forms.file(fields, "file", "image").read()) == b"1"
        assert asyncio.run(forms.file(fields, "picture", "image").read()) == b"2"
        with pytest.raises(InputError, match="'text' is not a file"):
            forms.file(fields, "text", "image")
        with pytest.raises(InputError, match="picture: Field required") as caught:
            forms.file(fields, "picture", "photo")
        assert caught.value.code == "bad_request"


def locations(caught: RequestValidationError) -> list[tuple[Any, ...]]:
    return [part["loc"] for part in caught.errors()]


class TestJson:
    @staticmethod
    def json(body: bytes) -> contract.AnalyzeRequest:
        return asyncio.run(forms.json(request(body, "application/json"), contract.AnalyzeRequest))

    def test_the_body_becomes_the_model(self) -> None:
        asked = self.json('{"text": "ماگ", "image": "QQ==", "threshold": 1}'.encode())
        assert asked == contract.AnalyzeRequest(text="ماگ", image="QQ==", threshold=1.0)

    @pytest.mark.parametrize(
        ("body", "location"),
        [
            (b"", ("body",)),
            (b"{", ("body",)),
            (b"[]", ("body",)),
            (b"null", ("body",)),
            (b"a=b", ("body",)),
            (b'{"text": "\xff"}', ("body",)),
            (b'{"text": "\\ud800"}', ("body",)),
            (b"[" * 100_000, ("body",)),
            (b"{}", ("body", "text")),
            (b'{"text": 1}', ("body", "text")),
            (b'{"text": "a", "threshold": "high"}', ("body", "threshold")),
            (b'{"text": "a", "imagge": "x"}', ("body", "imagge")),
        ],
    )
    def test_what_is_wrong_is_said_as_fastapi_says_it(self, body: bytes, location: tuple[str, ...]) -> None:
        with pytest.raises(RequestValidationError) as caught:
            self.json(body)
        assert locations(caught.value) == [location]

    def test_200_000_faults_are_counted_and_not_listed(self) -> None:
        """An object of each would hold up every other request for 2 s."""
        body = plain_json.dumps({"text": "a"} | {f"k{number}": 1 for number in range(190_000)}).encode()
        with pytest.raises(InputError, match="190,000 faults") as caught:
            self.json(body)
        assert (caught.value.code, contract.status_of(caught.value)) == ("too_many_faults", 422)

    @settings(deadline=None)
    @given(st.binary(max_size=50) | st.from_regex(r'\{("text"|"image"): ?.{0,30}\}').map(str.encode))
    def test_nothing_else_comes_of_any_bytes(self, body: bytes) -> None:
        try:
            asked = self.json(body)
        except RequestValidationError:
            return
        asked.model_dump_json()

    def test_a_forms_fields_are_checked_alike(self) -> None:
        asked = forms.checked(contract.AnalyzeRequest, {"text": "mug", "threshold": "0.25", "model": None})
        assert (asked.text, asked.threshold) == ("mug", 0.25)
        with pytest.raises(RequestValidationError) as caught:
            forms.checked(contract.AnalyzeRequest, {"text": None, "threshold": "high"})
        assert locations(caught.value) == [("body", "text"), ("body", "threshold")]


class TestDocumented:
    @pytest.mark.parametrize(
        "model",
        [
            contract.AnalyzeRequest, contract.BatchRequest, contract.ClassifyRequest,
            contract.EmbeddingRequest, contract.SearchRequest,
        ],
    )  # fmt: skip
    def test_a_routes_own_body_stands_by_itself(self, model: type[BaseModel]) -> None:
        told = forms.documented(model, {"file": {"type": "string", "format": "binary"}}, ["file"])
        assert told["requestBody"]["required"] is True
        content = told["requestBody"]["content"]
        assert content["multipart/form-data"]["schema"] == {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "binary"}},
            "required": ["file"],
        }
        schema, shown = content["application/json"]["schema"], content["application/json"]["example"]
        text = plain_json.dumps(schema)
        assert "$ref" not in text
        assert "$defs" not in text
        jsonschema.Draft202012Validator.check_schema(schema)
        for sound in (shown, model.model_validate(shown).model_dump(exclude_unset=True)):
            jsonschema.validate(sound, schema)
        whole = model.model_json_schema()
        for wrong in (
            {"text": 1, "image": 2, "input": 3, "items": 4},
            [],
            {"messages": [{"content": [{"type": "x"}]}]},
        ):
            assert not _is_valid(wrong, schema)
            assert not _is_valid(wrong, whole)


def _is_valid(value: Any, schema: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))
