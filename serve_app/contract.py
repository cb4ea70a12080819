"""What goes over the wire: limits, responses, and which error is which status. Names are the contract's."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from data_jobs.errors import InputError
from train_jobs.scoring import Confidence, Quality

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_SINGLE_BODY_BYTES = 16 * 1024 * 1024
"""A picture as base64, and what else belongs to it."""
MAX_BODY_BYTES = dict.fromkeys(("/clip/analyze-batch", "/v1/embeddings", "/embeddings"), 64 * 1024 * 1024)
"""Of the routes that take several pictures."""
MAX_TEXT_CHARACTERS = 500
MAX_BATCH_ITEMS = 64
MAX_CATEGORIES = 1000
MAX_TOP_K = 1000
MAX_DIMENSIONS = 16384
"""Of any embedding; a model's own are fewer."""

_STATUS = {
    "file_too_large": 413,
    "body_too_large": 413,
    "too_many_pixels": 413,
    "too_many_values": 413,
    "not_an_image": 415,
    "unsupported_format": 415,
    "index_of_another_model": 409,
    "no_index": 404,
    "model_not_served": 404,
    "index_not_served": 404,
    "path_outside_root": 403,
    "paths_not_allowed": 403,
    "url_not_allowed": 403,
    "rate_limited": 429,
    "not_ready": 503,
}
"""Error codes that are not plainly 422, "understood, but cannot be used"."""


_MEANINGS = {
    401: "No API key, or a wrong one (where the deployment asks for one)",
    403: "Not allowed here",
    404: "Not here",
    409: "An index of another model",
    413: "Too large",
    415: "Not an accepted picture format",
    422: "Cannot be used",
    429: "Too busy; try again",
    500: "A fault of the server's",
    503: "Not ready, or too slow",
}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may answer with these."""
    told: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        told[status] = {"model": ErrorResponse, "description": _MEANINGS[status]}
        if status in (429, 503):
            told[status]["headers"] = _RETRY_AFTER
    return told


def status_of(error: InputError) -> int:
    """The HTTP status of an input error."""
    return _STATUS.get(error.code, 422)


_VERDICT: dict[str, Any] = {
    "is_mismatch": False,
    "similarity_score": 0.31,
    "threshold_used": 0.25,
    "confidence": "medium",
    "match_quality": "good",
    "match_probability": 0.92,
    "model": "best_model",
}
_PICTURE = "data:image/gif;base64,R0lGODdhAQABAIEAAMgeHgAAAAAAAAAAACwAAAAAAQABAAAIBAABBAQAOw=="
"""One red dot: an example that can be sent as it is."""


class Verdict(BaseModel):
    """Whether a picture shows what a text says."""

    model_config = ConfigDict(json_schema_extra={"examples": [_VERDICT]})

    is_mismatch: bool
    similarity_score: float = Field(description="Cosine of picture and text, -1 to 1.")
    threshold_used: float = Field(description="Cosines below it are mismatches.")
    confidence: Confidence = Field(description="How far the score is from the threshold.")
    match_quality: Quality
    match_probability: float | None = Field(
        description="Calibrated probability of a match, 0 to 1; null for a model that was never calibrated."
    )
    model: str


def _few(items: Any) -> Any:
    """Before any item is looked at: each of a million would cost an error message."""
    if isinstance(items, list) and len(items) > MAX_BATCH_ITEMS:
        raise PydanticCustomError(
            "bad_batch",
            "there are {count} items, more than the limit of {limit}; split them",
            {"count": len(items), "limit": MAX_BATCH_ITEMS},
        )
    return items


def _no_tokens(items: Any) -> Any:
    """OpenAI takes token ids as well; LangChain's client sends them unless told otherwise."""
    first = items[0] if isinstance(items, list) and items else None
    if isinstance(first[0] if isinstance(first, list) and first else first, int):
        raise PydanticCustomError(
            "token_ids",
            "token ids are those of another model's tokenizer; send texts "
            "(LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)",
        )
    return items


Few = BeforeValidator(_few)
"""A list of at most MAX_BATCH_ITEMS."""
NoTokens = BeforeValidator(_no_tokens)
"""Texts or items."""


class Item(BaseModel):
    """A picture, in exactly one of three ways, and a text."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(default=None, description="Base64 or data URI.")
    image_url: str | None = Field(default=None, description="Of a host that the deployment allows.")
    image_path: str | None = Field(default=None, description="A file below the deployment's image root.")
    text: str = Field(description="At most 500 characters.")
    threshold: float | None = Field(default=None, description="Cosine; default: the deployment's.")


class AnalyzeRequest(Item):
    """/clip/analyze as JSON."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": _PICTURE, "text": "a red mug"}]})

    model: str | None = None


class BatchRequest(BaseModel):
    """/clip/analyze-batch as JSON."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"image": _PICTURE, "text": "a red mug"}]}]},
    )

    items: Annotated[
        list[Any],
        Few,
        WithJsonSchema({"type": "array", "maxItems": MAX_BATCH_ITEMS, "items": Item.model_json_schema()}),
    ] = Field(description="Each is checked by itself.")
    model: str | None = None


class BatchResult(Verdict):
    """One item's verdict."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_VERDICT | {"index": 0, "image_path": "mug.jpg"}]}
    )

    index: int = Field(description="The item's place in the request, from 0.")
    image_path: str | None = Field(
        description="As the request named the picture: its path, URL or file name."
    )


class BatchError(BaseModel):
    """Why one item has no verdict. Its neighbours do not suffer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "index": 1, "code": "empty_text", "error": "The field 'text' is empty.",
                    "suggestion": "Send a description.", "image_path": "lamp.jpg",
                }
            ]
        }
    )  # fmt: skip

    index: int
    error: str
    image_path: str | None
    code: str
    suggestion: str


class BatchResponse(BaseModel):
    results: list[BatchResult] = Field(
        description="Of the items that could be judged, in the request's order."
    )
    errors: list[BatchError]
    model: str


class ClassifyRequest(BaseModel):
    """/clip/classify as JSON."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"image": _PICTURE, "top_k": 3}]}
    )

    image: str | None = Field(default=None, description="Base64 or data URI.")
    image_url: str | None = None
    image_path: str | None = None
    categories: str | list[str] | None = Field(
        default=None, description="Comma-separated, or a list; default: /clip/categories."
    )
    top_k: int = Field(default=5, ge=1, le=MAX_TOP_K)
    model: str | None = None


class CategoryScore(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"category": "mug", "score": 0.93}]})

    category: str
    score: float = Field(description="Softmax over all categories asked about.")


class Classification(BaseModel):
    top_matches: list[CategoryScore]
    model: str


class Categories(BaseModel):
    categories: list[str]
    count: int


class Health(BaseModel):
    status: Literal["healthy", "unhealthy"]
    service: str = "clip"
    model_loaded: bool
    device: str | None


class ClipConfig(BaseModel):
    """What the deployment does unless a request says otherwise."""

    similarity_threshold: float
    threshold_from: Literal["deployment", "model", "default"]
    default_categories_count: int
    model_loaded: bool
    model: str
    model_hash: str
    device: str
    backend: str
    embedding_dim: int
    calibrated: bool
    max_file_bytes: int = MAX_FILE_BYTES
    max_text_characters: int = MAX_TEXT_CHARACTERS
    max_batch_items: int = MAX_BATCH_ITEMS


class ClipInfo(BaseModel):
    """For clients of the older catalogue system."""

    available: bool
    model_name: str
    embedding_dim: int | None
    device: str | None
    cache_size_mb: float = Field(description="Embeddings in this process's cache.")


class GpuStatus(BaseModel):
    """For clients of the older catalogue system."""

    available: bool = Field(description="Whether the model runs on a GPU.")
    device: Literal["cuda", "rocm", "mps", "cpu"] | None
    gpu_name: str | None
    vram: float | None = Field(description="GB of the GPU's memory.")
    throughput: float | None = Field(description="Pictures a second, lately, while there was work.")
    first_run: bool = Field(description="No picture has been embedded yet.")
    clip_available: bool
    error: str | None


class ModelCard(BaseModel):
    """A served model, as OpenAI lists them, with what Catalens knows of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "catalens"
    aliases: list[str]
    model_hash: str
    embedding_dim: int
    calibrated: bool


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Live(BaseModel):
    status: Literal["live"] = "live"


class IndexState(BaseModel):
    """An index that can be searched."""

    version: str
    rows: int
    problem: str | None = Field(description="Why a newer version is not in use.")


class Ready(BaseModel):
    status: Literal["ready"]
    model: str
    index_version: str | None
    indexes: dict[str, IndexState]
    waiting: dict[str, int] = Field(description="Pictures and tokens in this process's queues.")


class EmbeddingItem(BaseModel):
    """One thing to embed: a text, or a picture as base64, data URI or URL."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    image: str | None = None


class ImageUrl(BaseModel):
    """OpenAI's way to give a picture: a data URI, or a URL of an allowed host."""

    url: str
    detail: str | None = None


class Part(BaseModel):
    """A part of a chat message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class ChatMessage(BaseModel):
    """A message is one thing to embed; of several parts, the mean of theirs, of unit norm again."""

    role: str = "user"
    content: Annotated[str | list[Part], Few]


class EmbeddingRequest(BaseModel):
    """OpenAI's embeddings request, with pictures."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["a red mug", "ماگ قرمز"], "model": "clip"}]}
    )

    input: Annotated[str | EmbeddingItem | list[str | EmbeddingItem] | None, NoTokens, Few] = None
    messages: Annotated[list[ChatMessage] | None, Few] = Field(
        default=None, description="Instead of `input`."
    )
    model: str | None = None
    modality: Literal["text", "image"] = Field(
        default="text",
        description="What the strings of `input` are: texts, or pictures as base64, data URI or URL.",
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        default=None,
        ge=1,
        le=MAX_DIMENSIONS,
        description="Keep the first so many components, and normalise again.",
    )
    user: str | None = None


class Embedding(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}]}
    )

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Unit norm; base64 is little-endian float32.")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Weights(BaseModel):
    """How much each part of a query counts; less than 0 means "less like this"."""

    model_config = ConfigDict(extra="forbid")

    text: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False)
    image: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False)
    embedding: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False)


class SearchRequest(BaseModel):
    """A text, a picture, an embedding of the served model, or several of these, to look for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "آش رشته", "top_k": 5},
                {"text": "in blue", "image": _PICTURE, "weights": {"text": 0.5}},
            ]
        },
    )

    text: str | None = None
    image: str | None = Field(default=None, description="Base64, data URI, or URL of an allowed host.")
    embedding: list[float] | None = Field(default=None, max_length=MAX_DIMENSIONS, fail_fast=True)
    weights: Weights = Weights()
    top_k: int = Field(default=10, ge=1, le=MAX_TOP_K)
    index: str | None = Field(default=None, description="Name of an index; default: the first.")
    filter: dict[str, Any] | None = Field(
        default=None, description='Which documents may be found, as {"category": "soup", "price": {"lt": 5}}.'
    )
    exact: bool = Field(default=False, description="Compare with every vector, however many there are.")


class SearchHit(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "soup-7", "score": 0.41, "title": "آش رشته", "passage_text": "آش رشته با کشک و نعناع داغ",
                    "image": "images/soup-7.jpg", "metadata": {"category": "soup"},
                }
            ]
        }
    )  # fmt: skip

    id: str
    score: float = Field(description="Cosine to the query.")
    title: str
    passage_text: str
    image: str | None = Field(description="A photo of what the passage is about, as the source names it.")
    metadata: dict[str, Any]

    @classmethod
    def of(cls, score: float, document: dict[str, Any]) -> "SearchHit":
        """From a row of schema.DOCSTORE."""
        return cls(
            id=document["id"],
            score=score,
            title=document["title"],
            passage_text=document["passage_text"],
            image=document["image_path"],
            metadata=json.loads(document["metadata"]),
        )


class SearchResponse(BaseModel):
    hits: list[SearchHit]
    index_version: str
    model: str


class ErrorBody(BaseModel):
    code: str
    message: str
    suggestion: str


class ErrorResponse(BaseModel):
    """Every error, whatever its status."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "empty_text", "message": "The field 'text' is empty.",
                        "suggestion": "Send a description.",
                    },
                    "detail": "The field 'text' is empty.",
                    "request_id": "3f2b8c0d5a7e4f19",
                }
            ]
        }
    )  # fmt: skip

    error: ErrorBody
    detail: str
    request_id: str

    @classmethod
    def of(cls, code: str, message: str, suggestion: str, request_id: str) -> "ErrorResponse":
        """The one place that fills it; `detail` repeats the message for older clients."""
        error = ErrorBody(code=code, message=message, suggestion=suggestion)
        return cls(error=error, detail=message, request_id=request_id)
