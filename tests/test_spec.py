"""ModelSpec: facts survive the round trip, and what is missing, unknown or unfit is named."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from data_jobs import text
from data_jobs.errors import InputError
from train_jobs.spec import FILE, FORMAT_VERSION, QUANTILES, Calibration, Estimate, ModelSpec, Threshold

PLATT = Calibration(
    method="platt",
    slope=31.4,
    intercept=-8.1,
    knots=(),
    pairs=400,
    sample_prevalence=0.5,
    prevalence=0.8,
    ece=0.021,
    match_quantiles=tuple(0.2 + step / 100 for step in range(QUANTILES)),
    mismatch_quantiles=tuple(0.1 + step / 100 for step in range(QUANTILES)),
    data_fingerprint="11aa",
)
ISOTONIC = dataclasses.replace(
    PLATT, method="isotonic", knots=((0.1, 0.002), (0.25, 0.5), (0.4, 0.998)), data_fingerprint=None
)
SPEC = ModelSpec(
    base_model="پایه/clip",
    base_revision="3d74acf",
    family="clip",
    embedding_dim=128,
    image_size=64,
    image_resize="squash",
    image_shortest=64,
    image_resample="bicubic",
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
    context_length=77,
    pad_to_context=False,
    text_normalizer=text.VERSION,
    logit_scale=1 / 0.07,
    logit_bias=-1.5,
    calibration=PLATT,
    threshold=Threshold(
        value=0.271,
        low=0.262,
        high=0.283,
        policy="precision=0.95",
        prevalence=0.8,
        precision=Estimate(0.95, 0.91, 0.98),
        recall=Estimate(0.84, 0.77, 0.9),
    ),
    metrics={"auroc": 0.98, "ece": 0.021},
    data_fingerprint="00ff",
    weights_sha256="ab" * 32,
)
FIELDS = [field.name for field in dataclasses.fields(ModelSpec)]


def _facts(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(SPEC.to_json())
    return facts | changes


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SPEC.replace(calibration=ISOTONIC),
        SPEC.replace(calibration=None, threshold=None, base_revision=None, data_fingerprint=None),
    ],
    ids=["platt", "isotonic", "plain"],
)
def test_round_trip(spec: ModelSpec) -> None:
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert again.model_hash == spec.model_hash
    assert isinstance(again.image_mean, tuple)


def test_json_is_for_people_too() -> None:
    content = SPEC.to_json()
    assert "پایه/clip" in content
    assert json.loads(content)["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_named(name: str) -> None:
    facts = _facts()
    del facts[name]
    with pytest.raises(InputError, match=rf"lacks \['{name}'\]") as refusal:
        ModelSpec.from_json(json.dumps(facts))
    assert refusal.value.code == "bad_spec"


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown fields \['colour', 'size'\]") as refusal:
        ModelSpec.from_json(json.dumps(_facts(size=1, colour="red")), "models/a/spec.json")
    assert refusal.value.code == "bad_spec"
    assert "models/a/spec.json" in refusal.value.message


@pytest.mark.parametrize("version", [None, 0, 1, 3, "2"])
def test_another_format_is_refused(version: Any) -> None:
    with pytest.raises(InputError, match=f"format {version}") as refusal:
        ModelSpec.from_json(json.dumps(_facts(format_version=version)))
    assert refusal.value.code == "bad_spec"


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("calibration", {"temperature": 1.0}, "temperature"),
        ("threshold", {"mode": "best"}, "mode"),
    ],
)
def test_an_unknown_field_of_a_part_is_named(part: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"{part}.*{named}") as refusal:
        ModelSpec.from_json(json.dumps(_facts(**{part: _facts()[part] | changes})))
    assert refusal.value.code == "bad_spec"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("calibration", "knots"),
        ("calibration", "match_quantiles"),
        ("threshold", "low"),
        ("threshold", "recall"),
    ],
)
def test_a_missing_field_of_a_part_is_named(part: str, name: str) -> None:
    facts = _facts()
    del facts[part][name]
    with pytest.raises(InputError, match=rf"{part}.*{name}") as refusal:
        ModelSpec.from_json(json.dumps(facts))
    assert refusal.value.code == "bad_spec"


@pytest.mark.parametrize("rate", ["precision", "recall"])
def test_fields_of_an_estimate_are_named(rate: str) -> None:
    """The innermost part: a missing field, an unknown one, and no object at all."""
    for broken, named in (
        ({"value": 0.9, "low": 0.8}, r"lacks \['high'\]"),
        ({"value": 0.9, "low": 0.8, "high": 1.0, "level": 0.95}, r"unknown fields \['level'\]"),
        (0.9, r"lacks \['high', 'low', 'value'\]"),
        (None, r"lacks \['high', 'low', 'value'\]"),
    ):
        facts = _facts()
        facts["threshold"][rate] = broken
        with pytest.raises(InputError, match=named) as refusal:
            ModelSpec.from_json(json.dumps(facts), "models/a/spec.json")
        assert refusal.value.code == "bad_spec"
        assert refusal.value.message.startswith(f"The threshold of models/a/spec.json, {rate}, lacks")


@pytest.mark.parametrize(("method", "knots"), [("platt", ISOTONIC.knots), ("isotonic", ())])
def test_a_method_and_its_knots_belong_together(method: str, knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match=f"{method} has {len(knots)} knots"):
        dataclasses.replace(PLATT, method=method, knots=knots)
    broken = _facts()
    broken["calibration"] |= {"method": method, "knots": knots}
    with pytest.raises(InputError, match=f"{method} has {len(knots)} knots") as refusal:
        ModelSpec.from_json(json.dumps(broken))
    assert refusal.value.code == "bad_spec"


@pytest.mark.parametrize("content", ["", '{"format_version": 1,', "[]", "null", "12"])
def test_what_is_no_json_object_is_refused(content: str) -> None:
    with pytest.raises(InputError, match="models/a/spec.json") as refusal:
        ModelSpec.from_json(content, "models/a/spec.json")
    assert refusal.value.code == "bad_spec"


def test_another_text_normaliser_is_refused() -> None:
    with pytest.raises(InputError, match=f"'fa-0'.*'{text.VERSION}'") as refusal:
        ModelSpec.from_json(json.dumps(_facts(text_normalizer="fa-0")))
    assert refusal.value.code == "normalizer_mismatch"
    with pytest.raises(InputError):
        SPEC.replace(text_normalizer="fa-0")


@pytest.mark.parametrize("slope", [0.0, -3.0, math.nan])
def test_the_calibration_slope_must_be_positive(slope: float) -> None:
    with pytest.raises(ValueError, match=f"slope is {slope}"):
        dataclasses.replace(PLATT, slope=slope)
    broken = _facts()
    broken["calibration"]["slope"] = slope
    with pytest.raises(InputError, match=f"slope is {slope}") as refusal:
        ModelSpec.from_json(json.dumps(broken))
    assert refusal.value.code == "bad_spec"


@pytest.mark.parametrize(
    "changes",
    [
        {"weights_sha256": "cd" * 32}, {"family": "dual"}, {"embedding_dim": 256}, {"image_size": 65},
        {"image_resize": "crop"}, {"image_mean": (0.5, 0.5, 0.5)}, {"image_std": (0.5, 0.5, 0.5)},
        {"context_length": 64}, {"image_shortest": 72}, {"image_resample": "bilinear"}, {"pad_to_context": True},
    ],
    ids=str,
)  # fmt: skip
def test_the_hash_changes_with_all_that_changes_an_embedding(changes: dict[str, Any]) -> None:
    assert SPEC.replace(**changes).model_hash != SPEC.model_hash


def test_the_hash_stays_with_what_changes_no_embedding() -> None:
    same = SPEC.replace(
        base_model="other", base_revision=None, logit_scale=100.0, logit_bias=0.0, calibration=None,
        threshold=None, metrics={}, data_fingerprint=None,
    )  # fmt: skip
    assert same.model_hash == SPEC.model_hash


def test_the_hash_is_stable() -> None:
    """Indexes hold this value: a change makes every index of every user one "of another model"."""
    assert SPEC.model_hash == "2938afb47652e733"


def test_read(tmp_path: Path) -> None:
    assert ModelSpec.read(tmp_path) is None
    (tmp_path / FILE).write_text(SPEC.to_json(), encoding="utf-8")
    assert ModelSpec.read(tmp_path) == SPEC
    assert ModelSpec.read(str(tmp_path)) == SPEC
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(InputError, match=str(tmp_path / FILE)):
        ModelSpec.read(tmp_path)
