"""Metrics: their names, the dashboard that shows them, and a request's stages."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import REPO_ROOT

from serve_app import ray_metrics, telemetry

Told = list[tuple[str, float, dict[str, str]]]
KINDS = {"_bucket": "HISTOGRAMS", "_sum": "HISTOGRAMS", "_count": "HISTOGRAMS", "": "COUNTERS GAUGES"}


@pytest.fixture
def told() -> Iterator[Told]:
    seen: Told = []
    telemetry.collect_by(lambda name, value, tags: seen.append((name, value, tags)))
    yield seen
    telemetry.collect_by(None)


def test_whatever_is_told_is_a_metric_with_these_tags(told: Told) -> None:
    with telemetry.request(), telemetry.stage("decode"):
        telemetry.spent("queue", 0.1)
    for kind in ("image", "text"):
        for what in ("waiting", "queue_seconds", "batch_items", "batch_seconds"):
            telemetry.observer("clip", kind)(what, 3)
        telemetry.cache(kind, hits=2, misses=1)
    telemetry.retried()
    telemetry.verdict(True, 0.3)
    telemetry.answered("/search", 200, 0.1)
    telemetry.shadow_recall("v001", "text", 0.97)
    known = {**ray_metrics.COUNTERS, **ray_metrics.HISTOGRAMS, **ray_metrics.GAUGES}
    assert {name for name, _, _ in told} == set(known)
    for name, _, tags in told:
        assert set(tags) == set(known[name][1]), name
    assert ("cosine_distance", 0.7, {}) in told


def test_nothing_is_counted_where_nobody_collects() -> None:
    telemetry.verdict(True, 0.3)
    telemetry.spent("queue", 0.1)


def test_a_requests_stages_add_up_and_are_its_own() -> None:
    with telemetry.request() as first:
        telemetry.spent("queue", 0.25)
        with telemetry.request() as second:
            telemetry.spent("model", 1.0)
        telemetry.spent("queue", 0.25)
    assert first == {"queue": 0.5} and second == {"model": 1.0}
    assert telemetry.server_timing(first, 0.6) == "queue;dur=500.0, total;dur=600.0"


def test_ray_takes_every_metric() -> None:
    """In a process of its own: Ray keeps metrics for as long as a process lives."""
    code = (
        "from serve_app import ray_metrics\n"
        "sink = ray_metrics.sink()\n"
        "for group in (ray_metrics.COUNTERS, ray_metrics.HISTOGRAMS, ray_metrics.GAUGES):\n"
        "    for name, (_, tags, *_) in group.items(): sink(name, 1.0, dict.fromkeys(tags, 'x'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_dashboard_shows_all_metrics_and_no_other() -> None:
    dashboard: dict[str, Any] = json.loads((REPO_ROOT / "deploy" / "grafana.json").read_text())
    asked: set[str] = set()
    places = []
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        places.append((place["x"], place["y"]))
        for target in panel["targets"]:
            for name, suffix in re.findall(r"ray_catalens_(\w+?)(_bucket|_sum|_count)?\b", target["expr"]):
                groups = KINDS[suffix].split()
                assert any(name in getattr(ray_metrics, group) for group in groups), target["expr"]
                asked.add(name)
            for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
                tags = {tag.strip() for tag in group.split(",")} - {"le", "deployment"}
                for name in re.findall(r"ray_catalens_(\w+?)(?:_bucket|_sum|_count)?\b", target["expr"]):
                    known = {**ray_metrics.COUNTERS, **ray_metrics.HISTOGRAMS, **ray_metrics.GAUGES}
                    assert tags <= set(known[name][1]), target["expr"]
    assert asked == {*ray_metrics.COUNTERS, *ray_metrics.HISTOGRAMS, *ray_metrics.GAUGES}
    assert len(set(places)) == len(places) == len({panel["id"] for panel in dashboard["panels"]})
