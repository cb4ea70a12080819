"""What can be seen of the service: where a request's time went, and numbers for whoever collects them.

The functions here may be called anywhere; the middleware sends a request's stages as a Server-Timing header. Numbers go
to the sink of `collect_by`, which in a replica is Ray's metrics (`ray_metrics`), and nowhere before that is set.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Sink = Callable[[str, float, dict[str, str]], None]
"""Takes a number's name, the number and its tags: counted, observed or set, as the name's kind is."""

_sink: Sink | None = None
_stages: ContextVar[dict[str, float] | None] = ContextVar("stages", default=None)


def collect_by(sink: Sink | None) -> None:
    """From now on tell `sink`."""
    global _sink
    _sink = sink


def _tell(name: str, value: float, **tags: str) -> None:
    if _sink is not None:
        _sink(name, value, tags)


@contextmanager
def request() -> Iterator[dict[str, float]]:
    """Collect the stages of one request, seconds by name."""
    spent: dict[str, float] = {}
    token = _stages.set(spent)
    try:
        yield spent
    finally:
        _stages.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the block's time to a stage."""
    started = time.monotonic()
    try:
        yield
    finally:
        spent(name, time.monotonic() - started)


def spent(name: str, seconds: float) -> None:
    """So much of the request's time went into a stage: decode, queue, model, search."""
    stages = _stages.get()
    if stages is not None:
        stages[name] = stages.get(name, 0.0) + seconds
    _tell("stage_seconds", seconds, stage=name)


def server_timing(stages: dict[str, float], total: float) -> str:
    """The value of a Server-Timing header (W3C), milliseconds."""
    return ", ".join(f"{name};dur={s * 1000:.1f}" for name, s in [*stages.items(), ("total", total)])


def observer(model: str, kind: str) -> Callable[[str, float], None]:
    """What a model's Dispatcher of `kind` (image or text) tells."""

    def observe(what: str, value: float) -> None:
        _tell(what, value, model=model, kind=kind)

    return observe


def cache(kind: str, *, hits: int, misses: int) -> None:
    """Embeddings found in the cache, and not."""
    for outcome, count in (("hit", hits), ("miss", misses)):
        if count:
            _tell("cache_lookups_total", count, kind=kind, outcome=outcome)


def retried() -> None:
    """A batch is sent again, since its replica has died."""
    _tell("batch_retries_total", 1)


def verdict(is_mismatch: bool, score: float) -> None:
    """One verdict; the histogram of distances shows drift."""
    _tell("verdicts_total", 1, verdict="mismatch" if is_mismatch else "match")
    _tell("cosine_distance", 1 - score)


def answered(route: str, status: int, seconds: float) -> None:
    """One request."""
    _tell("requests_total", 1, route=route, status=str(status))
    _tell("request_seconds", seconds, route=route)


def refused(status: int, requests: int) -> None:
    """So many requests were refused before anything was known of them."""
    _tell("requests_total", requests, route="none", status=str(status))


def shadow_recall(version: str, modality: str, recall: float) -> None:
    """Of the nearest documents, the share that sampled searches have found."""
    _tell("shadow_recall", recall, version=version, modality=modality)
