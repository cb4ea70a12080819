"""The service's numbers as Ray's metrics: `ray_catalens_...` on every node's metrics port, for Prometheus."""

from collections.abc import Callable

from ray.serve.metrics import Counter, Gauge, Histogram

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
ITEMS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
DISTANCES = [round(0.05 * step, 2) for step in range(1, 25)]  # 0.05 to 1.2: Ray wants bounds above 0

COUNTERS = {
    "requests_total": ("Requests answered.", ("route", "status")),
    "cache_lookups_total": ("Embeddings looked up in the cache.", ("kind", "outcome")),
    "batch_retries_total": ("Batches sent again after a replica died.", ()),
    "verdicts_total": ("Verdicts.", ("verdict",)),
}
HISTOGRAMS = {
    "request_seconds": ("From a request to its answer.", ("route",), SECONDS),
    "stage_seconds": ("A request's time in a stage.", ("stage",), SECONDS),
    "queue_seconds": ("An item's wait for its batch.", ("model", "kind"), SECONDS),
    "batch_items": ("Items a batch.", ("model", "kind"), ITEMS),
    "batch_seconds": ("A batch's way to the model and back.", ("model", "kind"), SECONDS),
    "cosine_distance": ("1 - cosine of verdicts: its drift is the data's, or the model's.", (), DISTANCES),
}
GAUGES = {
    "waiting": ("Pictures, or tokens, that wait for the model.", ("model", "kind")),
    "shadow_recall": ("Share of the nearest documents that sampled searches found.", ("version", "modality")),
}


def sink() -> Callable[[str, float, dict[str, str]], None]:
    """For telemetry.collect_by, in a replica."""
    tell: dict[str, Callable[[float, dict[str, str]], None]] = {}
    for name, (about, tags) in COUNTERS.items():
        tell[name] = Counter(f"catalens_{name}", about, tag_keys=tags).inc
    for name, (about, tags, bounds) in HISTOGRAMS.items():
        tell[name] = Histogram(f"catalens_{name}", about, boundaries=bounds, tag_keys=tags).observe
    for name, (about, tags) in GAUGES.items():
        tell[name] = Gauge(f"catalens_{name}", about, tag_keys=tags).set
    return lambda name, value, given: tell[name](value, given)
