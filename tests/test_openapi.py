"""The OpenAPI document, of an application without models: what clients are generated from and /docs shows."""

from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serve_app import contract, web
from serve_app.pictures import PictureSource
from serve_app.query import IndexStatus, Query
from serve_app.service import Service
from serve_app.settings import ServeArgs
from train_jobs.index import Hit

KEY = "0123456789abcdef"


class NoIndex:
    """A searcher without indexes."""

    async def status(self) -> dict[str, IndexStatus]:
        return {}

    async def search(self, name: str | None, query: Query) -> tuple[list[Hit], str]:
        raise AssertionError("nobody searches here")


def application(**settings: Any) -> FastAPI:
    return web.application(Service(ServeArgs(**settings), {}, NoIndex(), PictureSource()))


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return application().openapi()


def operations(openapi: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, facts) for path, item in openapi["paths"].items() for method, facts in item.items()
    ]


def test_every_error_has_the_contracts_shape_and_says_what_it_means(openapi: dict[str, Any]) -> None:
    for method, path, facts in operations(openapi):
        errors = {status: told for status, told in facts["responses"].items() if status != "200"}
        assert {"401", "413", "429", "500", "503"} <= set(errors), (method, path)
        for status, told in errors.items():
            (schema,) = (content["schema"] for content in told["content"].values())
            assert schema["$ref"].endswith("/ErrorResponse"), (path, status)
            assert told["description"] not in ("", "Error", "Client Error"), (path, status)
            assert ("headers" in told) == (status in ("429", "503"))


@pytest.mark.parametrize("code", sorted(contract._STATUS))
def test_the_status_of_every_error_code_is_documented_somewhere(openapi: dict[str, Any], code: str) -> None:
    documented = {status for _, _, facts in operations(openapi) for status in facts["responses"]}
    assert str(contract._STATUS[code]) in documented


def test_only_a_search_meets_another_models_index_and_only_bodies_can_be_wrong(
    openapi: dict[str, Any],
) -> None:
    for method, path, facts in operations(openapi):
        assert ("409" in facts["responses"]) == (path == "/search")
        assert ("422" in facts["responses"]) == (method == "post" or "{" in path)


def test_every_body_has_an_example_that_fits_its_schema(openapi: dict[str, Any]) -> None:
    posts = [facts for method, _, facts in operations(openapi) if method == "post"]
    assert posts
    for facts in posts:
        content = facts["requestBody"]["content"]["application/json"]
        jsonschema.validate(content["example"], content["schema"])


def test_examples_of_answers_fit_their_schemas(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    shown = {name: schema["examples"] for name, schema in schemas.items() if "examples" in schema}
    assert {"Verdict", "BatchResult", "BatchError", "CategoryScore", "SearchHit", "ErrorResponse"} <= set(
        shown
    )
    for name, examples in shown.items():
        for example in examples:
            jsonschema.validate(example, schemas[name] | {"components": openapi["components"]})


def test_keys_are_asked_for_where_they_are_needed(openapi: dict[str, Any]) -> None:
    assert "securitySchemes" not in openapi["components"]
    with TestClient(application(api_keys=[KEY])) as client:
        document = client.get("/openapi.json").json()
        schemes = document["components"]["securitySchemes"].values()
        assert {(scheme["type"], scheme.get("name")) for scheme in schemes} == {
            ("http", None),
            ("apiKey", "X-API-Key"),
        }
        assert len(document["paths"]["/clip/categories"]["get"]["security"]) == 2, "either will do"
        assert client.get("/clip/categories").status_code == 401
        for header in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert client.get("/clip/categories", headers=header).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search", {"k" * 100_000: 1}),
        ("/search", {"text": "a", "top_k": "9" * 100_000}),
        ("/v1/embeddings", {"input": "a", "dimensions": 10**4299}),
        ("/clip/classify", {"image": "aaaa", "categories": {"k" * 100_000: 1}}),
    ],
)
def test_a_refusal_does_not_repeat_all_that_was_sent(path: str, body: dict[str, Any]) -> None:
    with TestClient(application()) as client:
        answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "bad_request"
    assert len(answer.content) < 1000
