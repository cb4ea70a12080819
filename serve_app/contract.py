"""What goes over the wire: limits, responses, and which error is which status. Names are the contract's."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from data_jobs.errors import InputError
from train_jobs.scoring import Confidence, Quality

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_TEXT_CHARACTERS = 500
MAX_BATCH_ITEMS = 64
MAX_CATEGORIES = 1000
MAX_TOP_K = 1000

_STATUS = {
    "file_too_large": 413,
    "body_too_large": 413,
    "too_many_pixels": 413,
    "not_an_image": 415,
    "unsupported_format": 415,
    "index_of_another_model": 409,
    "no_index": 404,
    "not_ready": 503,
}
"""Error codes that are not plainly 422, "understood, but cannot be used"."""


def status_of(error: InputError) -> int:
    """The HTTP status of an input error."""
    return _STATUS.get(error.code, 422)


class Verdict(BaseModel):
    """Whether a picture shows what a text says."""

    is_mismatch: bool
    similarity_score: float = Field(description="Cosine of picture and text, -1 to 1.")
    threshold_used: float = Field(description="Cosines below it are mismatches.")
    confidence: Confidence = Field(description="How far the score is from the threshold.")
    match_quality: Quality
    match_probability: float | None = Field(
        description="Calibrated probability of a match, 0 to 1; null for a model that was never calibrated."
    )
    model: str


class CategoryScore(BaseModel):
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


class Live(BaseModel):
    status: Literal["live"] = "live"


class Ready(BaseModel):
    status: Literal["ready", "busy"]
    model: str
    index_version: str | None


class EmbeddingItem(BaseModel):
    """One thing to embed: a text, or a picture as base64 or data URI."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    image: str | None = None


class EmbeddingRequest(BaseModel):
    """OpenAI's embeddings request, with pictures."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["a red mug", "ماگ قرمز"], "model": "clip"}]}
    )

    input: str | EmbeddingItem | list[str | EmbeddingItem]
    model: str | None = None
    modality: Literal["text", "image"] = Field(
        default="text",
        description="What the strings of `input` are: texts, or pictures as base64 or data URI.",
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        default=None, ge=1, description="Keep the first so many components, and normalise again."
    )
    user: str | None = None


class Embedding(BaseModel):
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


class SearchRequest(BaseModel):
    """A text or a picture to look for."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "آش رشته", "top_k": 5}]}
    )

    text: str | None = None
    image: str | None = Field(default=None, description="Base64 or data URI.")
    top_k: int = Field(default=10, ge=1, le=MAX_TOP_K)


class SearchHit(BaseModel):
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

    error: ErrorBody
    detail: str
    request_id: str

    @classmethod
    def of(cls, code: str, message: str, suggestion: str, request_id: str) -> "ErrorResponse":
        """The one place that fills it; `detail` repeats the message for older clients."""
        error = ErrorBody(code=code, message=message, suggestion=suggestion)
        return cls(error=error, detail=message, request_id=request_id)
