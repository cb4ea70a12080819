"""Whatever strangers send: an answer, or a refusal by name. Long runs are `python -m benchmarks.fuzz`'s."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hostile
import httpx
import pytest
import schemathesis
import small_index
from fastapi.exceptions import RequestValidationError
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.requests import Request

from data_jobs import images
from data_jobs.errors import InputError
from serve_app import contract, forms, local_files, pairs, wire
from serve_app.fetch import Fetcher
from serve_app.pictures import PictureSource
from train_jobs import filters

T = TypeVar("T")
SPEC = small_index.spec()
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MODELS = [contract.AnalyzeRequest, contract.BatchRequest, contract.ClassifyRequest, contract.EmbeddingRequest,
          contract.SearchRequest]  # fmt: skip
MOST_MB = 900
"""Of memory for one picture of 50 million pixels: 200 as Pillow's RGBA, laid on white, and its views."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # Pillow says what it skips
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"),
]


def tried(times: int = 100, *phases: Phase) -> settings:
    return settings(
        max_examples=times,
        phases=phases or tuple(Phase),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def outcome(function: Callable[[], T]) -> T | InputError:
    """What it returns, or its refusal, which names itself, the problem and the remedy in words that can be sent."""
    refusal = None
    try:
        return function()
    except InputError as error:
        refusal = error
    assert 400 <= contract.status_of(refusal) < 500
    assert refusal.code.isidentifier() and refusal.message and refusal.suggestion
    contract.ErrorResponse.of(refusal.code, refusal.message, refusal.suggestion, "").model_dump_json()
    assert len(refusal.message) < 2000, "it repeats what was sent"
    return refusal


class TestPictures:
    @tried(2000)
    @given(hostile.pictures())
    def test_a_picture_is_the_models_view_or_a_refusal(self, data: bytes) -> None:
        found = outcome(lambda: wire.pixels(data, SPEC))
        if isinstance(found, InputError):
            assert found.code in {
                "empty_file", "not_an_image", "unsupported_format", "too_many_pixels", "truncated_image",
                "too_elongated",
            }  # fmt: skip
        else:
            assert (found.shape, found.dtype) == ((SPEC.image_size, SPEC.image_size, 3), "uint8")

    @tried(500)
    @given(hostile.pictures())
    def test_at_full_size_too(self, data: bytes) -> None:
        found = outcome(lambda: images.decode(data))
        if isinstance(found, Image.Image):
            assert found.mode == "RGB"
            assert found.info["original_size"] == found.size

    @pytest.mark.parametrize("name", hostile.sound())
    def test_sound_files_are_read_and_others_are_named(self, name: str) -> None:
        found = outcome(lambda: wire.pixels(hostile.sound()[name], SPEC))
        refused = {"bmp", "tiff", "tiff, 16 bit", "ico", "jpeg 2000"}
        expected = dict.fromkeys(refused, "unsupported_format") | {
            "text": "not_an_image",
            "eps": "not_an_image",
            "empty": "empty_file",
        }
        assert getattr(found, "code", None) == expected.get(name)

    @pytest.mark.parametrize("name", hostile.bombs())
    def test_bombs_are_refused(self, name: str) -> None:
        found = outcome(lambda: wire.pixels(hostile.bombs()[name], SPEC))
        expected = dict.fromkeys(("png, text", "png, profile"), "truncated_image") | {
            "png, thin": "too_elongated"
        }
        assert isinstance(found, InputError)
        assert found.code == expected.get(name, "too_many_pixels")

    def test_a_line_of_a_million_pixels_is_not_scaled_to_a_models_height(self) -> None:
        """2 kB that a model of 224 pixels, which crops, would have made 150 GB of."""
        line = hostile.png(1_000_000, 1, colour_type=0, rows=b"\0" * 1_000_001)
        found = outcome(lambda: wire.pixels(line, small_index.spec(image_size=224, image_shortest=224)))
        assert isinstance(found, InputError)
        assert "1000000 x 1 pixels" in found.message
        long = hostile.png(images.MAX_ASPECT, 1, colour_type=0, rows=b"\0" * (images.MAX_ASPECT + 1))
        assert wire.pixels(long, SPEC).shape == (SPEC.image_size, SPEC.image_size, 3)

    def test_the_largest_pictures_take_bounded_memory(self, tmp_path: Path) -> None:
        for mode, kind in {"RGBA": "PNG", "P": "PNG", "I;16": "PNG", "CMYK": "JPEG"}.items():
            options = {"transparency": 0} if mode == "P" else {}
            Image.new(mode, (7000, 7140)).save(tmp_path / mode.replace(";", ""), kind, **options)
        script = f"""
            import pathlib, resource, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import small_index
            from serve_app import wire
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for path in pathlib.Path({str(tmp_path)!r}).iterdir():
                wire.pixels(path.read_bytes(), small_index.spec())
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < MOST_MB


class TestTexts:
    @tried()
    @given(hostile.base64s() | hostile.TEXTS)
    def test_base64(self, value: str) -> None:
        assert isinstance(outcome(lambda: wire.from_base64(value)), bytes | InputError)

    @tried()
    @given(hostile.TEXTS)
    def test_texts(self, text: str) -> None:
        found = outcome(lambda: wire.checked_text(text))
        assert found == text or getattr(found, "code", "") in ("empty_text", "text_too_long")

    @tried()
    @given(hostile.NUMBERS.filter(lambda number: not isinstance(number, int)))
    def test_thresholds(self, number: float) -> None:
        found = outcome(lambda: wire.checked_threshold(number))
        assert isinstance(found, InputError) != (-1 <= number <= 1)

    @tried()
    @given(hostile.values(hostile.NESTED))
    @example({"a": {"in": [[]]}})
    def test_filters(self, value: Any) -> None:
        outcome(lambda: filters.parse(value))

    @tried()
    @given(hostile.TEXTS | st.text().map(lambda tail: "http://127.0.0.1" + tail))
    def test_urls_are_looked_at_and_never_visited(self, url: str) -> None:
        found = outcome(lambda: asyncio.run(FETCHER.get(url)))
        assert isinstance(found, InputError)
        assert found.code in ("url_not_allowed", "url_unreachable")

    @tried(50)
    @given(hostile.TEXTS)
    def test_paths_lead_nowhere_else(self, path: str) -> None:
        found = outcome(lambda: local_files.read_below(Path(__file__).parent, path, 10))
        assert isinstance(found, InputError)


FETCHER = Fetcher(["127.0.0.1", "*.invalid.example"])
"""Loopback is on its list, but not public."""


class TestBodies:
    @tried(500)
    @given(st.data())
    def test_json_is_a_model_or_a_refusal(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(MODELS))
        body = data.draw(hostile.json_bodies(list(model.model_fields)))
        try:
            found = outcome(lambda: asyncio.run(forms.json(_request(body, "application/json"), model)))
        except RequestValidationError:
            return
        assert isinstance(found, model | InputError)

    @tried(300)
    @given(hostile.forms({"properties": {"files": {"format": "binary"}, "texts": {}, "threshold": {}}}))
    def test_a_form_is_pairs_or_a_refusal(self, sent: tuple[str, bytes]) -> None:
        async def read() -> list[Any]:
            return await pairs.from_form(await forms.form(_request(sent[1], sent[0])), PictureSource())

        try:
            found = outcome(lambda: asyncio.run(read()))
        except RequestValidationError:  # a threshold that is no number
            return
        if not isinstance(found, InputError):
            assert [item.index for item in found] == list(range(len(found)))


def _request(body: bytes, content_type: str) -> Request:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers, "app": None}, receive)


class TestService:
    @pytest.fixture(scope="class")
    def openapi(self, client: httpx.Client) -> dict[str, Any]:
        document: dict[str, Any] = client.get("/openapi.json").json()
        return document

    @pytest.mark.parametrize("mode", schemathesis.GenerationMode, ids=lambda mode: mode.value)
    def test_answers_are_as_documented(self, server: str, openapi: dict[str, Any], mode: Any) -> None:
        document = schemathesis.openapi.from_dict(openapi).include(method="POST")  # others take nothing

        @tried(80, Phase.generate)
        @given(document.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=server, checks=CHECKS, timeout=60)

        check()

    def test_hostile_requests_are_answered(self, client: httpx.Client, openapi: dict[str, Any]) -> None:
        @tried(200, Phase.generate)
        @given(st.one_of(*hostile.requests(openapi).values()))
        def check(sent: hostile.Sent) -> None:
            answer = client.request(sent.method, sent.path, content=sent.body, headers=sent.headers)
            kind = answer.headers.get("content-type", "")
            assert hostile.complaint(openapi, sent, answer.status_code, kind, answer.content) is None, (
                answer.text
            )

        check()
        assert client.get("/healthz/ready").status_code == 200

    def test_a_batch_of_32_loses_none_of_its_sound_pictures(self, client: httpx.Client) -> None:
        sound = hostile.sound()
        bad = [sound["jpeg"][:200], *hostile.bombs().values(), sound["bmp"], sound["text"], sound["empty"]]
        odd = [
            sound[name]
            for name in ("jpeg, CMYK", "jpeg, 1 x 1", "png, 16 bit", "gif, animated", "webp, animated")
        ]
        files = [*bad, *odd]
        body, places = hostile.batch(files[:15], sound["jpeg"])
        answer = client.post("/clip/analyze-batch", json=body).json()
        scores = {result["index"]: result["similarity_score"] for result in answer["results"]}
        assert len(answer["results"]) + len(answer["errors"]) == len(body["items"])
        assert max(scores[place] for place in places) - min(scores[place] for place in places) < 1e-5
