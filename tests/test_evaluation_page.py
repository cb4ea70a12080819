"""The page of an evaluation: its numbers, its charts, and, in a real browser, that it only shows."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import jpeg
from test_evaluation import CALIBRATED, SPEC

from data_jobs import thumbnails
from train_jobs import evaluation, evaluation_page
from train_jobs.evaluation_page import Axis, Case, Frame, between, ratio, share
from train_jobs.spec import Estimate, ModelSpec, Threshold

PERSIAN = "سیب سرخِ درختی، کیلویی ۲۵٬۰۰۰ تومان"
HOSTILE = "<script>document.title='owned'</script><img src=http://evil.test/a onerror=\"document.title='owned'\">'\"&"
PROMISING = CALIBRATED.replace(
    threshold=Threshold(
        0.5, 0.45, 0.55, "precision=0.95", 0.5, Estimate(0.95, 0.91, 0.98), Estimate(0.62, 0.55, 0.7)
    )
)


def _drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    noise = np.random.default_rng(0).normal(size=count)
    return (0.45 + 0.15 * labels + 0.1 * noise).astype(np.float32), labels


def _case(**values: Any) -> Case:
    facts: dict[str, Any] = {
        "picture": thumbnails.data_uri(jpeg("red", 64)),
        "image_path": "/photos/fruit/a.jpg",
        "text": "a ripe apple",
        "score": 0.61,
        "probability": 0.7,
        "kind": "",
        "category": "",
    }
    return Case(**(facts | values))


def _page(
    spec: ModelSpec = PROMISING,
    cases: dict[str, list[Case]] | None = None,
    kinds: list[str] | None = None,
    categories: list[str] | None = None,
    count: int = 60,
    **values: Any,
) -> str:
    scores, labels = _drawn(count)
    found = evaluation.measure(scores, labels, 0.5, spec, kinds=kinds, categories=categories, draws=20)
    vectors = np.eye(4, dtype=np.float32)
    found |= {
        "model": "models/mine",
        "model_hash": "0123456789abcdef",
        "data": "pairs.csv",
        "data_fingerprint": "f" * 32,
        "n_rejected": 0,
        "threshold_from": "model",
        "n_pictures": 30,
        "n_texts": 12,
        "retrieval": evaluation.retrieval_with_intervals(vectors, vectors, list("ABCD"), list("ABCD")),
        "zero_shot": None,
        "warnings": [],
        **values,
    }
    cases = {"false_matches": [], "missed_matches": []} | (cases or {})
    return evaluation_page.render(found, spec=spec, scores=scores, labels=labels, cases=cases)


def _words(html: str) -> str:
    """What a reader reads, in one line."""
    body = re.sub(r"<style>.*?</style>", " ", html[html.index("<body>") :], flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_the_numbers_are_on_the_page() -> None:
    scores, labels = _drawn(60)
    found = evaluation.measure(scores, labels, 0.5, PROMISING, draws=20)
    words = _words(_page())
    counts = found["confusion"]
    assert f"{100 * found['accuracy']:.1f} % of 60 pairs judged right models/mine on pairs.csv" in words
    low, high = found["intervals"]["auroc"]
    assert f"AUROC {found['auroc']:.3f} {low:.3f} to {high:.3f} Average precision" in words
    assert f"Calibration error (less is better) {found['ece']:.3f}" in words
    assert f"is a match {counts['match_as_match']} " in words
    assert f"is a mismatch {counts['mismatch_as_match']} " in words
    assert (
        "Promised precision 0.950 0.910 to 0.980, where 50.0 % are matches ; here, weighted to that share, "
        f"{found['precision']:.3f}" in words
    )
    assert "Stored threshold 0.5000 0.450 to 0.550, by precision=0.95" in words
    assert "Hash 0123456789abcdef" in words
    assert "platt, fitted on 100 pairs" in words
    assert "no longer holds" not in words and "Never calibrated" not in words


def test_a_model_that_was_never_calibrated_is_said_to_be() -> None:
    words = _words(_page(SPEC, threshold_from="default"))
    assert "Never calibrated. The model gives no probabilities. The threshold of 0.500 is the same" in words
    assert "Calibration none" in words
    assert "Do the probabilities hold?" not in words and "Brier" not in words
    assert "for models without a threshold of their own" in words


def test_warnings_come_first() -> None:
    words = _words(_page(warnings=["The cosines have moved.", HOSTILE]))
    assert words.index("Warnings The cosines have moved.") < words.index("AUROC")


def test_a_warning_does_not_hide_that_there_is_no_calibration() -> None:
    assert "Never calibrated." in _words(_page(SPEC, warnings=["These are the pairs it was trained on."]))


def test_a_promise_is_held_against_its_own_share_of_matches() -> None:
    """30 of 60 match here; the threshold promises a precision where 9 of 10 do."""
    scores, labels = _drawn(60)
    assert PROMISING.threshold is not None
    spec = PROMISING.replace(threshold=dataclasses.replace(PROMISING.threshold, prevalence=0.9))
    called = scores >= 0.5
    hits, alarms = 0.9 * called[labels == 1].mean(), 0.1 * called[labels == 0].mean()
    words = _words(_page(spec))
    assert f"where 90.0 % are matches ; here, weighted to that share, {hits / (hits + alarms):.3f}" in words
    assert hits / (hits + alarms) > 0.05 + evaluation.measure(scores, labels, 0.5, spec, draws=1)["precision"]


def test_kinds_and_categories_have_tables() -> None:
    kinds = ["" if n % 2 else ["near", "far", "far"][n % 3] for n in range(60)]
    categories = [f"category {n // 4}" for n in range(60)]
    html = _page(kinds=kinds, categories=categories)
    words = _words(html)
    assert "Kind Mismatches AUROC Caught Accuracy far 20 " in words and " near 10 " in words
    assert "By category 15" in words and "3 more" in words
    accuracies = [float(value) for value in re.findall(r'<span style="--share:([\d.]+)%', html)]
    assert accuracies == sorted(accuracies) and len(accuracies) == 15
    scores, labels = _drawn(60)
    part = evaluation.measure(scores, labels, 0.5, PROMISING, categories=categories, draws=20)["by_category"][
        "category 3"
    ]
    low, high = part["intervals"]["accuracy"]
    assert f"{part['accuracy']:.3f} {low:.3f} to {high:.3f}" in words[words.index("category 3 ") :][:80]
    assert html[: html.index("<summary>3 more</summary>")].count('<span style="--share') == 12
    assert "By kind" not in _words(_page()) and "By category" not in _words(_page())


def test_mistakes_show_their_pictures_and_texts() -> None:
    cases = {
        "false_matches": [_case(kind="near", text=PERSIAN), _case(picture=None, probability=None)],
        "missed_matches": [],
    }
    html = _page(cases=cases)
    words = _words(html)
    assert f"near 0.610, P 0.70 {PERSIAN} fruit/a.jpg no picture 0.610 a ripe apple" in words
    assert f'<span class="text" dir="auto">{PERSIAN}</span>' in html
    assert html.count('<img src="data:image/jpeg;base64,') == 1
    assert "The 2 worst are shown; scores.csv has all." in words
    assert re.search(r"Matches taken for mismatches \d+ None\.", words)


def test_search_and_zero_shot_say_among_how_many() -> None:
    vectors = np.eye(4, dtype=np.float32)
    right = [np.array([row]) for row in range(3)] + [np.array([], np.int64)]
    tested = evaluation.zero_shot(vectors, vectors, right) | {"classes": "/lists/classes.txt"}
    words = _words(_page(zero_shot=tested))
    assert "Text of a picture 4 pictures, among 4 texts 1.000 1.000 to 1.000" in words
    assert "3 pictures over 4 classes, 1 more have none of them" in words
    assert "chance 0.250" in words and "The classes are /lists/classes.txt." in words
    assert "zero-shot" not in _words(_page())


def test_numbers_that_are_not_determined_are_dashes() -> None:
    assert [ratio(None), ratio(float("nan")), ratio(0.12345), ratio(0.5, 1)] == ["–", "–", "0.123", "0.5"]
    assert [between([0.1, 0.25], 2), between([None, None])] == ["0.10 to 0.25", ""]
    assert [share(0.8463), share(None)] == ["84.6 %", "–"]


def test_a_frame_turns_values_into_pixels() -> None:
    frame = Frame(Axis("", 0, 10, ()), Axis("", -1, 1, ()), left=50, right=150, top=20, bottom=120)
    assert [frame.x(0), frame.x(10), frame.y(-1), frame.y(1), frame.y(0)] == [50, 150, 120, 20, 70]
    assert frame.line([(0, -1), (5, -1), (10, -1), (10, 1)]) == "M50 120L150 120L150 20"


def test_curves_are_exact_where_they_can_be_checked_by_eye() -> None:
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([1, 0, 1, 0])
    roc = evaluation_page._roc(scores, labels, {"mismatch_as_match": 1, "match_as_match": 2})
    frame = roc["frame"]
    corners = [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert roc["curve"] == frame.line(corners)
    assert roc["here"] == (frame.x(0.5), frame.y(1))
    found = {"n": 4, "n_match": 2, "recall": 1.0, "precision": 2 / 3}
    curve = evaluation_page._precision_recall(scores, labels, found)
    assert curve["curve"] == frame.line([(0, 1), (0.5, 1), (0.5, 2 / 3), (1, 2 / 3)])
    histogram = evaluation_page._histogram(scores, labels, 0.75)
    assert histogram["match"].startswith("M") and histogram["frame"].x(0.75) == histogram["threshold"]


def test_a_curve_of_many_pairs_stays_small() -> None:
    scores, labels = _drawn(100_000)
    roc = evaluation_page._roc(scores, labels, {"mismatch_as_match": 1, "match_as_match": 1})
    assert len(roc["curve"]) < 20_000
    assert roc["curve"].endswith(f"L{roc['frame'].right} {roc['frame'].top}")


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.37), (0, 1), (0.1, 0.1001), (-1.02, 1.02)])
def test_axes_have_a_few_round_ticks(low: float, high: float) -> None:
    axis = evaluation_page._axis("", low, high)
    values = [value for value, _ in axis.ticks]
    assert 2 <= len(values) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    assert [float(label) for _, label in axis.ticks] == pytest.approx(values)


def test_equal_scores_still_make_a_page() -> None:
    labels = np.arange(20) % 2
    scores = np.full(20, 0.5, np.float32)
    shape = evaluation_page._histogram(scores, labels, 0.5)
    assert "nan" not in shape["match"] and shape["frame"].left < shape["threshold"] < shape["frame"].right


def test_equal_evaluations_give_equal_pages() -> None:
    assert _page() == _page()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose every free field is hostile, long or Persian."""
    name = f"/photos/{HOSTILE}/\u202egpj.{'x' * 3000}"
    cases = {
        "false_matches": [
            _case(text=HOSTILE * 100, image_path=name, kind=HOSTILE, picture=None),
            _case(text=PERSIAN, image_path="/photos/سیب.jpg"),
        ],
        "missed_matches": [_case(text="z" * 10_000), _case(text=f"{PERSIAN} 10% OFF")],
    }
    kinds = ["" if n % 2 else [HOSTILE, "k" * 500][n % 4 // 2] for n in range(60)]
    categories = [[HOSTILE, PERSIAN, "c" * 500, f"category {n}"][n % 4] for n in range(60)]
    tested = evaluation.zero_shot(
        np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), [np.array([0])] * 2
    )
    html = _page(
        PROMISING.replace(base_model=HOSTILE * 50),
        cases,
        kinds,
        categories,
        model=HOSTILE * 50,
        data=f"{'d' * 2000}/{HOSTILE}",
        warnings=[HOSTILE, "w" * 900],
        zero_shot=tested | {"classes": name},
        n_rejected=3,
    )
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_runs_and_nothing_is_fetched(
    browser: Any, hostile: Path, width: int, scheme: str
) -> None:
    requests: list[str] = []
    messages: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.goto(hostile.as_uri(), wait_until="networkidle")
    opened.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert opened.title() == "Evaluation · Catalens"
    assert [url for url in requests if not url.startswith("data:image/jpeg")] == [hostile.as_uri()]
    assert messages == []
    assert opened.evaluate("document.scripts.length") == 0
    assert (
        opened.evaluate("document.querySelectorAll('[onerror],[onload],[onclick],iframe,object').length") == 0
    )
    pictures = opened.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(pictures) == 3 and all(pictures)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
    assert len(opened.inner_text("body")) < 30_000
    assert "<script>document.title" in opened.inner_text("body"), "it is shown as text"
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_charts_are_drawn_named_and_readable(browser: Any, hostile: Path, scheme: str) -> None:
    opened = browser.new_page(color_scheme=scheme)
    opened.goto(hostile.as_uri())
    charts = opened.evaluate(
        """[...document.querySelectorAll('svg')].map(chart => ({
            name: document.getElementById(chart.getAttribute('aria-labelledby').split(' ')[0]).textContent,
            size: [...chart.querySelectorAll('path, circle')].map(shape => shape.getBBox().width),
            inside: [...chart.querySelectorAll('path, circle, text, rect')].every(shape => {
                const part = shape.getBoundingClientRect(), whole = chart.getBoundingClientRect();
                return part.left >= whole.left - 1 && part.right <= whole.right + 1
                    && part.top >= whole.top - 1 && part.bottom <= whole.bottom + 1 }),
            ink: getComputedStyle(chart.querySelector('.label')).fill,
            page: getComputedStyle(chart.closest('section')).backgroundColor,
        }))"""
    )
    opened.close()
    assert [chart["name"] for chart in charts] == [
        "Histogram of cosines by label",
        "ROC curve",
        "Precision-recall curve",
        "Reliability diagram",
    ]
    for chart in charts:
        assert chart["inside"] and all(width > 0 for width in chart["size"])
        ink, ground = (sum(map(int, re.findall(r"\d+", chart[name])[:3])) for name in ("ink", "page"))
        assert abs(ink - ground) > 400, "dark on light, or light on dark"


def test_in_a_browser_persian_runs_from_right_to_left(browser: Any, hostile: Path) -> None:
    opened = browser.new_page()
    opened.goto(hostile.as_uri())
    directions = opened.evaluate(
        "[...document.querySelectorAll('[dir=auto]')].map(e => [e.textContent, getComputedStyle(e).direction])"
    )
    opened.close()
    persian = {direction for text, direction in directions if text.startswith("سیب")}
    others = {direction for text, direction in directions if text.startswith(("<script", "zzz"))}
    assert (persian, others) == ({"rtl"}, {"ltr"})
    assert sum(text.startswith("سیب") for text, _ in directions) >= 3
