"""The HTTP contract over real HTTP, on a real Serve application with a trained model."""

import base64
import csv
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import ray
from PIL import Image

from data_jobs.images import decode
from train_jobs import scoring
from train_jobs.encoder import Encoder
from train_jobs.index import Index

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def encoder(best_model: Path) -> Encoder:
    return Encoder.load(best_model)


@pytest.fixture(scope="module")
def judged(catalogue: Path) -> list[tuple[bytes, str, int]]:
    """Picture bytes, text and label of test pairs, both languages."""
    with (catalogue / "test.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[:40]
    return [((catalogue / r["image_path"]).read_bytes(), r["text"], int(r["label"])) for r in rows]


@pytest.fixture
def picture(judged: list[tuple[bytes, str, int]]) -> bytes:
    return judged[0][0]


def analyze(client: httpx.Client, data: bytes, text: str, **form: Any) -> httpx.Response:
    return client.post("/clip/analyze", files={"file": ("photo.jpg", data)}, data={"text": text, **form})


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


class TestAnalyze:
    def test_scores_are_the_encoders(
        self, client: httpx.Client, encoder: Encoder, judged: list[tuple[bytes, str, int]]
    ) -> None:
        for data, text, _ in judged[:6]:
            image = decode(data, target=encoder.spec.image_size)
            expected = float(encoder.images([image])[0] @ encoder.texts([text])[0])
            answer = analyze(client, data, text).json()
            assert answer["similarity_score"] == pytest.approx(expected, abs=1e-5)
            assert encoder.spec.threshold is not None
            assert encoder.spec.calibration is not None
            assert answer["threshold_used"] == encoder.spec.threshold.value
            assert answer["is_mismatch"] == (expected < encoder.spec.threshold.value)
            probability = float(scoring.probability(expected, encoder.spec.calibration))
            assert answer["match_probability"] == pytest.approx(probability, abs=1e-4)

    def test_it_is_more_often_right_than_wrong(
        self, client: httpx.Client, judged: list[tuple[bytes, str, int]]
    ) -> None:
        right = [
            analyze(client, data, text).json()["is_mismatch"] == (label == 0) for data, text, label in judged
        ]
        assert sum(right) / len(right) > 0.6

    def test_the_requests_threshold_wins_and_lower_is_more_lenient(
        self, client: httpx.Client, picture: bytes
    ) -> None:
        lenient = analyze(client, picture, "a red mug", threshold=-1).json()
        strict = analyze(client, picture, "a red mug", threshold=1).json()
        assert (lenient["is_mismatch"], lenient["threshold_used"]) == (False, -1)
        assert (strict["is_mismatch"], strict["threshold_used"]) == (True, 1)

    def test_fields_are_the_contracts(self, client: httpx.Client, picture: bytes) -> None:
        assert set(analyze(client, picture, "a mug").json()) == {
            "is_mismatch", "similarity_score", "threshold_used", "confidence", "match_quality",
            "match_probability", "model",
        }  # fmt: skip

    def test_spelling_variants_of_persian_get_one_score(self, client: httpx.Client, picture: bytes) -> None:
        persian, arabic = (analyze(client, picture, text).json() for text in ("کیف مشکی", "كيف مشكي"))
        assert persian["similarity_score"] == pytest.approx(arabic["similarity_score"], abs=1e-6)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
    def test_formats_are_told_by_content(self, client: httpx.Client, picture: bytes, kind: str) -> None:
        other = encoded(Image.open(io.BytesIO(picture)), kind)
        assert analyze(client, other, "a mug").status_code == 200

    def test_as_json(self, client: httpx.Client, picture: bytes) -> None:
        form = analyze(client, picture, "a red mug", threshold=0.1).json()
        value = base64.b64encode(picture).decode()
        for image in (value, f"data:image/png;base64,{value}"):
            body = {"image": image, "text": "a red mug", "threshold": 0.1, "model": "clip"}
            assert client.post("/clip/analyze", json=body).json() == pytest.approx(form)

    def test_a_repeated_request_is_answered_from_the_cache(
        self, client: httpx.Client, judged: list[tuple[bytes, str, int]]
    ) -> None:
        data, text = judged[20][0], f"never asked before {time.time()}"
        first, again = (analyze(client, data, text) for _ in range(2))
        assert first.json() == again.json()
        assert "model;dur" in first.headers["server-timing"]
        assert "model;dur" not in again.headers["server-timing"]

    def test_a_file_that_spells_a_cached_text_is_no_picture(
        self, client: httpx.Client, picture: bytes
    ) -> None:
        text = "a mug that was asked about before"
        assert analyze(client, picture, text).status_code == 200
        check_error(analyze(client, text.encode(), text), 415, "not_an_image")


class TestBatch:
    def test_it_says_what_single_requests_say(
        self, client: httpx.Client, judged: list[tuple[bytes, str, int]]
    ) -> None:
        pairs = [(data, text) for data, text, _ in judged[:12]]
        alone = [analyze(client, *pair).json() for pair in pairs]
        items = [{"image": base64.b64encode(data).decode(), "text": text} for data, text in pairs]
        answer = client.post("/clip/analyze-batch", json={"items": items}).json()
        assert answer["errors"] == []
        assert [result.pop("index") for result in answer["results"]] == list(range(12))
        for result, one in zip(answer["results"], alone, strict=True):
            assert result.pop("image_path") is None
            assert result == pytest.approx(one, abs=1e-5)
        uploaded = client.post(
            "/clip/analyze-batch",
            files=[("files", (f"{i}.jpg", data)) for i, (data, _) in enumerate(pairs)],
            data={"texts": [text for _, text in pairs], "threshold": "0.3"},
        ).json()
        assert [r["image_path"] for r in uploaded["results"]] == [f"{i}.jpg" for i in range(12)]
        assert {r["threshold_used"] for r in uploaded["results"]} == {0.3}
        scores = [r["similarity_score"] for r in uploaded["results"]]
        assert scores == pytest.approx([one["similarity_score"] for one in alone], abs=1e-5)

    def test_each_bad_item_fails_alone_and_says_why(self, client: httpx.Client, picture: bytes) -> None:
        value = base64.b64encode(picture).decode()
        good = {"image": value, "text": "a mug"}
        broken = base64.b64encode(picture[:200]).decode()
        bad: list[tuple[Any, str]] = [
            ({"image": broken, "text": "a mug"}, "truncated_image"),
            ({"image": "***", "text": "a mug"}, "bad_base64"),
            ({"image": value, "text": " "}, "empty_text"),
            ({"image": value, "text": "x" * 501}, "text_too_long"),
            ({"image": value, "text": "a mug", "threshold": 7}, "bad_threshold"),
            ({"image_path": "/etc/passwd", "text": "a mug"}, "paths_not_allowed"),
            ({"image_url": "http://169.254.169.254/latest", "text": "a mug"}, "url_not_allowed"),
            ({"text": "a mug"}, "bad_input"),
            ({"image": value, "image_path": "a.jpg", "text": "a mug"}, "bad_input"),
            ({"image": value}, "bad_item"),
            ({"image": 7, "text": "a mug"}, "bad_item"),
            ("a mug", "bad_item"),
            (None, "bad_item"),
        ]
        items = [part for item, _ in bad for part in (good, item)]
        answer = client.post("/clip/analyze-batch", json={"items": items}).json()
        assert [result["index"] for result in answer["results"]] == list(range(0, len(items), 2))
        assert len({result["similarity_score"] for result in answer["results"]}) == 1
        assert [(e["index"], e["code"]) for e in answer["errors"]] == [
            (2 * number + 1, code) for number, (_, code) in enumerate(bad)
        ]
        assert all(error["error"] and error["suggestion"] for error in answer["errors"])
        assert answer["errors"][5]["image_path"] == "/etc/passwd"

    @pytest.mark.parametrize("count", [0, 65])
    def test_one_to_64_items(self, client: httpx.Client, count: int) -> None:
        items = [{"image": "aaaa", "text": "a mug"}] * count
        check_error(client.post("/clip/analyze-batch", json={"items": items}), 422, "bad_batch")

    def test_as_many_texts_as_files(self, client: httpx.Client, picture: bytes) -> None:
        answer = client.post("/clip/analyze-batch", files=[("files", picture)] * 2, data={"texts": ["a"]})
        check_error(answer, 422, "bad_batch")


class TestAbout:
    def test_config_says_what_holds(self, client: httpx.Client, encoder: Encoder) -> None:
        config = client.get("/clip/config").json()
        assert encoder.spec.threshold is not None
        assert config["similarity_threshold"] == encoder.spec.threshold.value
        assert config["default_categories_count"] == client.get("/clip/categories").json()["count"]
        assert (config["model_loaded"], config["model"]) == (True, "best_model")
        assert (config["model_hash"], config["calibrated"]) == (encoder.spec.model_hash, True)

    def test_what_the_older_catalogue_system_told(self, client: httpx.Client, picture: bytes) -> None:
        assert analyze(client, picture, "a mug").status_code == 200
        info = client.get("/api/clip/info").json()
        assert set(info) == {"available", "model_name", "embedding_dim", "device", "cache_size_mb"}
        assert (info["available"], info["model_name"], info["device"]) == (True, "best_model", "cpu")
        assert info["cache_size_mb"] > 0
        gpu = client.get("/api/gpu/status").json()
        assert set(gpu) == {
            "available", "device", "gpu_name", "vram", "throughput", "first_run", "clip_available", "error",
        }  # fmt: skip
        assert (gpu["available"], gpu["device"], gpu["clip_available"]) == (False, "cpu", True)
        assert gpu["throughput"] > 0 and gpu["first_run"] is False

    def test_models_and_their_names(self, client: httpx.Client, encoder: Encoder) -> None:
        (card,) = client.get("/v1/models").json()["data"]
        for name in (card["id"], "clip"):
            assert client.get(f"/v1/models/{name}").json() == card
        check_error(client.get("/v1/models/a/b"), 404, "model_not_served")
        assert (card["id"], card["object"], card["aliases"]) == ("best_model", "model", ["clip"])
        assert card["model_hash"] == encoder.spec.model_hash
        for name in ("best_model", "clip"):
            assert client.post("/v1/embeddings", json={"input": "a", "model": name}).status_code == 200
        unknown = client.post("/v1/embeddings", json={"input": "a", "model": "gpt"})
        assert "best_model" in check_error(unknown, 404, "model_not_served")["detail"]

    def test_no_answer_tells_where_the_model_lies(
        self, client: httpx.Client, picture: bytes, best_model: Path
    ) -> None:
        pages = [
            analyze(client, picture, "a mug"),
            *map(client.get, ("/clip/config", "/v1/models", "/healthz/ready")),
        ]
        assert not [page.text for page in pages if str(best_model.parent) in page.text]


class TestClassify:
    def test_scores_are_a_softmax_over_the_given_categories(
        self, client: httpx.Client, encoder: Encoder, picture: bytes
    ) -> None:
        names = ["mug", "hat", "chair"]
        answer = client.post(
            "/clip/classify", files={"file": picture}, data={"categories": " mug, hat,chair,hat "}
        ).json()["top_matches"]
        image = encoder.images([decode(picture, target=encoder.spec.image_size)])[0]
        classes = encoder.texts([f"a photo of a {name}" for name in names])
        expected = dict(
            zip(names, scoring.class_scores(image, classes, encoder.spec.logit_scale), strict=True)
        )
        assert {m["category"]: m["score"] for m in answer} == pytest.approx(expected, abs=1e-4)
        assert [m["score"] for m in answer] == sorted((m["score"] for m in answer), reverse=True)
        assert sum(m["score"] for m in answer) == pytest.approx(1)

    def test_persian_commas_part_categories_too(self, client: httpx.Client, picture: bytes) -> None:
        answer = client.post(
            "/clip/classify", files={"file": picture}, data={"categories": "ماگ، کلاه,صندلی"}
        ).json()["top_matches"]
        assert {match["category"] for match in answer} == {"ماگ", "کلاه", "صندلی"}

    def test_default_categories_and_top_k(self, client: httpx.Client, picture: bytes) -> None:
        default = client.post("/clip/classify", files={"file": picture}).json()["top_matches"]
        assert len(default) == 5
        three = client.post("/clip/classify", files={"file": picture}, data={"top_k": 3}).json()
        assert three["top_matches"] == default[:3]
        listed = client.get("/clip/categories").json()
        assert listed["count"] == len(listed["categories"]) >= 40
        assert default[0]["category"] in listed["categories"]


class TestEmbeddings:
    def test_texts_as_openai_returns_them(self, client: httpx.Client, encoder: Encoder) -> None:
        texts = ["a red mug", "a much longer description of a blue hat on a shelf", "ماگ قرمز"]
        answer = client.post("/v1/embeddings", json={"input": texts, "model": "clip"}).json()
        assert answer["object"] == "list"
        assert [item["index"] for item in answer["data"]] == [0, 1, 2]
        rows = np.array([item["embedding"] for item in answer["data"]])
        np.testing.assert_allclose(rows, encoder.texts(texts), atol=1e-5)
        assert answer["usage"]["prompt_tokens"] == sum(map(len, encoder.token_ids(texts)))
        single = client.post("/embeddings", json={"input": texts[0]}).json()
        np.testing.assert_allclose(single["data"][0]["embedding"], rows[0], atol=1e-5)

    def test_base64_and_fewer_dimensions_of_unit_norm(self, client: httpx.Client) -> None:
        ask = {"input": "a red mug", "dimensions": 16}
        plain = client.post("/v1/embeddings", json=ask).json()["data"][0]["embedding"]
        packed = client.post("/v1/embeddings", json={**ask, "encoding_format": "base64"}).json()
        values = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
        np.testing.assert_allclose(values, plain, atol=1e-6)
        assert np.linalg.norm(values) == pytest.approx(1, abs=1e-5)
        assert len(values) == 16

    def test_pictures_and_texts_mixed_keep_their_order(
        self, client: httpx.Client, encoder: Encoder, picture: bytes
    ) -> None:
        value = base64.b64encode(picture).decode()
        items = [{"text": "a hat"}, {"image": value}, {"image": f"data:image/jpeg;base64,{value}"}, "a mug"]
        data = client.post("/v1/embeddings", json={"input": items}).json()["data"]
        image = encoder.images([decode(picture, target=encoder.spec.image_size)])[0]
        expected = [encoder.texts(["a hat"])[0], image, image, encoder.texts(["a mug"])[0]]
        np.testing.assert_allclose([item["embedding"] for item in data], expected, atol=1e-5)
        other = client.post("/v1/embeddings", json={"input": [value], "modality": "image"}).json()
        np.testing.assert_allclose(other["data"][0]["embedding"], image, atol=1e-5)

    def test_more_pictures_than_a_batch(
        self, client: httpx.Client, judged: list[tuple[bytes, str, int]]
    ) -> None:
        items = [{"image": base64.b64encode(data).decode()} for data, _, _ in judged]
        data = client.post("/v1/embeddings", json={"input": items}).json()["data"]
        assert len(data) == len(items) > 16  # the served batch size
        one = client.post("/v1/embeddings", json={"input": items[-1]}).json()["data"][0]["embedding"]
        np.testing.assert_allclose(data[-1]["embedding"], one, atol=1e-5)

    def test_messages_and_their_parts(self, client: httpx.Client, encoder: Encoder, picture: bytes) -> None:
        url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        parts = [{"type": "text", "text": "a hat"}, {"type": "image_url", "image_url": {"url": url}}]
        messages = [{"role": "user", "content": "a hat"}, {"content": parts[1:]}, {"content": parts}]
        data = client.post("/v1/embeddings", json={"messages": messages}).json()["data"]
        word, image = encoder.texts(["a hat"])[0], encoder.images([decode(picture, target=64)])[0]
        both = (word + image) / np.linalg.norm(word + image)
        np.testing.assert_allclose([item["embedding"] for item in data], [word, image, both], atol=1e-5)

    def test_the_openai_client_works_unchanged(self, server: str, encoder: Encoder, picture: bytes) -> None:
        client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
        texts = ["a red mug", "ماگ قرمز"]
        expected = encoder.texts(texts)
        plain = client.embeddings.create(model="clip", input=texts)  # asks for base64 and decodes it
        np.testing.assert_allclose([item.embedding for item in plain.data], expected, atol=1e-5)
        floats = client.embeddings.create(model="best_model", input=texts[0], encoding_format="float")
        np.testing.assert_allclose(floats.data[0].embedding, expected[0], atol=1e-5)
        short = np.array(
            client.embeddings.create(model="clip", input=texts[0], dimensions=8).data[0].embedding
        )
        np.testing.assert_allclose(short, expected[0][:8] / np.linalg.norm(expected[0][:8]), atol=1e-5)
        image = client.embeddings.create(
            model="clip", input=base64.b64encode(picture).decode(), extra_body={"modality": "image"}
        )
        shown = encoder.images([decode(picture, target=encoder.spec.image_size)])[0]
        np.testing.assert_allclose(image.data[0].embedding, shown, atol=1e-5)
        assert [model.id for model in client.models.list().data] == ["best_model"]
        assert client.models.retrieve("best_model").id == "best_model"
        with pytest.raises(openai.NotFoundError, match="best_model"):
            client.embeddings.create(model="nothing", input="a")


class TestSearch:
    def test_text_query_equals_the_library(
        self, client: httpx.Client, encoder: Encoder, built_index: Path
    ) -> None:
        query = "ماگ قرمز ساده"
        answer = client.post("/search", json={"text": query, "top_k": 5}).json()
        expected = Index.open(built_index, encoder.spec).search(encoder.texts([query])[0], 5)
        assert [hit["id"] for hit in answer["hits"]] == [hit.document["id"] for hit in expected]
        assert [h["score"] for h in answer["hits"]] == pytest.approx([h.score for h in expected], abs=1e-5)
        assert answer["index_version"] == "v001"
        assert set(answer["hits"][0]) == {"id", "score", "title", "passage_text", "image", "metadata"}

    def test_a_passage_finds_itself_in_any_spelling(self, client: httpx.Client, built_index: Path) -> None:
        first = client.post("/search", json={"text": "کیف", "top_k": 1}).json()["hits"][0]
        misspelt = f"{first['title']}. {first['passage_text']}".replace("ی", "ي").replace("ک", "ك")
        best = client.post("/search", json={"text": misspelt, "top_k": 1}).json()["hits"][0]
        assert best["id"] == first["id"]
        assert best["score"] == pytest.approx(1, abs=1e-4)

    def test_filters(self, client: httpx.Client, built_index: Path) -> None:
        documents = Index.open(built_index).documents()
        title = documents[7]["title"]
        titled = {document["id"] for document in documents if document["title"] == title}

        def ids(**more: Any) -> list[str]:
            answer = client.post("/search", json={"text": "کیف", "top_k": 1000, **more})
            assert answer.status_code == 200, answer.text
            return [hit["id"] for hit in answer.json()["hits"]]

        assert set(ids(filter={"title": title})) == titled
        assert set(ids(filter={"not": {"title": title}})) == {d["id"] for d in documents} - titled
        unknown = client.post("/search", json={"text": "a", "filter": {"colour_typo": "red"}})
        check_error(unknown, 422, "bad_filter")

    def test_mixed_queries_and_embeddings(
        self, client: httpx.Client, encoder: Encoder, built_index: Path, picture: bytes
    ) -> None:
        index = Index.open(built_index)
        text = "ماگ قرمز"
        word = encoder.texts([text])[0]
        image = encoder.images([decode(picture, target=encoder.spec.image_size)])[0]
        value = base64.b64encode(picture).decode()

        def check(body: dict[str, Any], vector: np.ndarray) -> None:
            hits = client.post("/search", json={**body, "top_k": 20}).json()["hits"]
            expected = index.search(vector / np.linalg.norm(vector), 20, modality=None)
            assert [hit["score"] for hit in hits] == pytest.approx([h.score for h in expected], abs=1e-5)

        check({"text": text, "image": value}, word + image)
        check({"text": text, "image": value, "weights": {"text": 2, "image": -0.5}}, 2 * word - 0.5 * image)
        check({"embedding": (3 * word).tolist()}, word)
        check({"embedding": image.tolist(), "text": text, "weights": {"embedding": 0.5}}, 0.5 * image + word)
        check({"text": text, "exact": True}, word)
        check_error(client.post("/search", json={"embedding": [0.0] * 3}), 422, "bad_embedding")
        check_error(
            client.post(
                "/search", json={"text": "a", "weights": {"text": 0}, "image": value, "index": "other"}
            ),
            404,
            "index_not_served",
        )
        check_error(
            client.post("/search", json={"text": "a", "image": value, "weights": {"text": 0, "image": 0}}),
            422,
            "bad_mix",
        )

    def test_as_a_form(self, client: httpx.Client, picture: bytes, built_index: Path) -> None:
        title = Index.open(built_index).documents()[3]["title"]
        form = {
            "text": "کیف",
            "top_k": "4",
            "weights": '{"image": 0.5}',
            "filter": json.dumps({"title": title}),
        }
        answer = client.post("/search", files={"file": picture}, data=form)
        value = base64.b64encode(picture).decode()
        body = {
            "text": "کیف",
            "image": value,
            "top_k": 4,
            "weights": {"image": 0.5},
            "filter": {"title": title},
        }
        assert answer.json() == client.post("/search", json=body).json()
        assert answer.json()["hits"]
        broken = client.post("/search", data={"text": "a", "filter": "{"}, files={"file": picture})
        check_error(broken, 422, "bad_request")

    def test_picture_query(self, client: httpx.Client, picture: bytes) -> None:
        value = base64.b64encode(picture).decode()
        hits = client.post("/search", json={"image": value, "top_k": 1000}).json()["hits"]
        assert len(hits) > 100
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


class TestHealth:
    def test_health_live_and_ready(self, client: httpx.Client, best_model: Path) -> None:
        assert client.get("/clip/health").json() == {
            "status": "healthy", "service": "clip", "model_loaded": True, "device": "cpu",
        }  # fmt: skip
        assert client.get("/healthz/live").json() == {"status": "live"}
        ready = client.get("/healthz/ready").json()
        assert ready == {
            "status": "ready",
            "model": "best_model",
            "index_version": "v001",
            "indexes": {"index": {"version": "v001", "rows": 300, "problem": None}},
            "waiting": {"image": 0, "text": 0},
        }

    @pytest.mark.parametrize("page", ["/docs", "/redoc"])
    def test_docs_load_nothing_from_the_internet(self, client: httpx.Client, page: str) -> None:
        html = client.get(page).text
        sources = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert sources
        for source in sources:
            assert source.startswith("/"), source
            assert client.get(source).status_code == 200

    def test_openapi_names_the_routes(self, client: httpx.Client) -> None:
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/clip/analyze", "/clip/classify", "/v1/embeddings", "/search", "/healthz/ready"} <= set(
            paths
        )


def bomb() -> bytes:
    return encoded(Image.new("1", (12_000, 12_000)), "PNG")


BAD_FILES: dict[str, tuple[int, str]] = {
    "empty": (422, "empty_file"),
    "text": (415, "not_an_image"),
    "bmp": (415, "unsupported_format"),
    "truncated": (422, "truncated_image"),
    "bomb": (413, "too_many_pixels"),
    "11 MB": (413, "file_too_large"),
}


@pytest.fixture
def bad_file(request: pytest.FixtureRequest, picture: bytes) -> bytes:
    files: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "text": lambda: b"This is no picture.",
        "bmp": lambda: encoded(Image.new("RGB", (8, 8)), "BMP"),
        "truncated": lambda: picture[: len(picture) // 2],
        "bomb": bomb,
        "11 MB": lambda: picture + b"\0" * (11 * 1024 * 1024),
    }
    return files[request.param]()


def check_error(response: httpx.Response, status: int, code: str) -> Answer:
    """The contract's error shape, and nothing of our insides."""
    assert response.status_code == status, response.text
    body: Answer = response.json()
    assert set(body) == {"error", "detail", "request_id"}
    assert set(body["error"]) == {"code", "message", "suggestion"}
    assert body["error"]["code"] == code
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["suggestion"]
    assert response.headers["x-request-id"] == body["request_id"]
    assert "Traceback" not in response.text
    return body


class TestErrors:
    @pytest.mark.parametrize(
        ("bad_file", "status", "code"),
        [(n, *e) for n, e in BAD_FILES.items()],
        indirect=["bad_file"],
        ids=BAD_FILES,
    )
    def test_bad_pictures(self, client: httpx.Client, bad_file: bytes, status: int, code: str) -> None:
        check_error(analyze(client, bad_file, "a mug"), status, code)
        check_error(client.post("/clip/classify", files={"file": bad_file}), status, code)
        value = base64.b64encode(bad_file).decode()
        check_error(client.post("/search", json={"image": value}), status, code)

    def test_texts(self, client: httpx.Client, picture: bytes) -> None:
        assert analyze(client, picture, "x" * 500).status_code == 200
        body = check_error(analyze(client, picture, "x" * 501), 422, "text_too_long")
        assert "501" in body["detail"]
        assert "500" in body["detail"]
        for nothing in ("  ", "\u200c", "\u200f \u200c"):
            check_error(analyze(client, picture, nothing), 422, "empty_text")

    @pytest.mark.parametrize("threshold", ["nan", "inf", "1.5", "warm"])
    def test_thresholds(self, client: httpx.Client, picture: bytes, threshold: str) -> None:
        code = "bad_request" if threshold == "warm" else "bad_threshold"
        check_error(analyze(client, picture, "a mug", threshold=threshold), 422, code)

    def test_missing_and_unknown(self, client: httpx.Client, picture: bytes) -> None:
        check_error(client.post("/clip/analyze"), 422, "bad_request")
        check_error(client.post("/clip/analyze", data={"file": "no file", "text": "x"}), 422, "bad_request")
        check_error(analyze(client, picture, ""), 422, "empty_text")
        assert "'/nowhere'" in check_error(client.get("/nowhere"), 404, "not_found")["detail"]
        wrong = client.get("/clip/analyze")
        assert check_error(wrong, 405, "method_not_allowed")["detail"] == "'/clip/analyze' does not take GET."
        assert wrong.headers["allow"] == "POST"
        check_error(client.post("/search", content=b"{"), 422, "bad_request")
        binary = client.post("/search", content=picture, headers={"Content-Type": "image/jpeg"})
        body = check_error(binary, 422, "bad_request")
        assert "content type is 'image/jpeg'" in body["detail"] and "multipart" in body["error"]["suggestion"]
        check_error(client.post("/search", json={"txt": "a"}), 422, "bad_request")
        check_error(client.post("/search", json={}), 422, "bad_query")
        check_error(client.post("/search", json={"text": "a", "top_k": 0}), 422, "bad_request")
        check_error(
            client.post("/clip/classify", files={"file": picture}, data={"top_k": 0}), 422, "bad_request"
        )

    def test_embeddings(self, client: httpx.Client) -> None:
        def post(**body: Any) -> httpx.Response:
            return client.post("/v1/embeddings", json=body)

        assert check_error(post(input=[]), 422, "bad_batch")["error"]["suggestion"] == "Send at least one."
        check_error(post(input=["a"] * 65), 422, "bad_batch")
        check_error(post(input=""), 422, "empty_text")
        check_error(post(input="a", dimensions=4096), 422, "bad_dimensions")
        check_error(post(input=[{"image": "http://127.0.0.1/x.jpg"}]), 403, "url_not_allowed")
        check_error(post(input=[{"image": "***"}]), 422, "bad_base64")
        check_error(post(input=[{"text": "a", "image": "a"}]), 422, "bad_input")
        for tokens in ([1, 2, 3], [[1, 2, 3]]):
            assert "token ids" in check_error(post(input=tokens), 422, "bad_request")["detail"]
        check_error(post(), 422, "bad_input")
        check_error(post(input="a", messages=[{"content": "b"}]), 422, "bad_input")
        check_error(post(messages=[{"content": []}]), 422, "bad_input")

    def test_a_bad_query_is_no_failure_of_the_replica(self, client: httpx.Client) -> None:
        logs = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1] / "logs" / "serve"
        for query in ({"text": "a", "filter": {"nothing": 1}}, {"text": "a", "index": "nowhere"}):
            assert client.post("/search", json=query).status_code in (404, 422)
        (log,) = logs.glob("replica_catalens_Retriever_*.log")
        assert "Traceback" not in log.read_text()

    def test_a_million_values_are_refused_before_any_is_looked_at(self, client: httpx.Client) -> None:
        for route, field in (("/v1/embeddings", "input"), ("/clip/analyze-batch", "items")):
            check_error(client.post(route, json={field: [1] * 150_000}), 422, "bad_batch")
            check_error(client.post(route, json={field: [1] * 1_000_000}), 413, "too_many_values")

    def test_a_streamed_body_beyond_the_limit(self, client: httpx.Client) -> None:
        def stream() -> Iterator[bytes]:
            for _ in range(18):
                yield b" " * (1 << 20)

        check_error(client.post("/search", content=stream()), 413, "body_too_large")

    def test_request_ids(self, client: httpx.Client) -> None:
        named = client.get("/nowhere", headers={"x-request-id": "order-66"})
        assert named.json()["request_id"] == "order-66"
        assert named.headers["x-request-id"] == "order-66"
        made = [client.get("/nowhere").json()["request_id"] for _ in range(2)]
        assert made[0] != made[1]

    def test_one_bad_picture_fails_alone_among_32(
        self, client: httpx.Client, judged: list[tuple[bytes, str, int]]
    ) -> None:
        alone = [analyze(client, data, text).json()["similarity_score"] for data, text, _ in judged[:31]]
        requests = [(data, text) for data, text, _ in judged[:31]]
        requests.insert(7, (judged[7][0][:200], "a broken picture"))
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda r: analyze(client, *r), requests))
        check_error(answers.pop(7), 422, "truncated_image")
        together = [answer.json()["similarity_score"] for answer in answers]
        assert together == pytest.approx(alone, abs=1e-5)


def test_build_refuses_another_models_index_and_a_missing_model(built_index: Path, tmp_path: Path) -> None:
    from data_jobs.errors import InputError
    from serve_app.app import build
    from train_jobs import scratch

    scratch.build("scratch:tiny-clip", ["a mug"], seed=1).save(tmp_path / "another")
    with pytest.raises(InputError) as other:
        build({"model": str(tmp_path / "another"), "index": str(built_index)})
    assert other.value.code == "index_of_another_model"
    with pytest.raises(InputError) as missing:
        build({"model": str(tmp_path / "nothing")})
    assert missing.value.code == "model_not_found"


def test_metadata_of_hits_is_json(client: httpx.Client) -> None:
    hit = client.post("/search", json={"text": "کفش", "top_k": 1}).json()["hits"][0]
    assert hit["metadata"]["group_id"]
    json.dumps(hit)
