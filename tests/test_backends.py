"""Backends: the Encoder's answers whatever the arithmetic, a gate that refuses, and a choice that says why."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_models import siglip2

from data_jobs.artefacts import sha256
from data_jobs.errors import InputError
from train_jobs import backends, scratch
from train_jobs.backends import (
    FLOAT32,
    INT8,
    NAMES,
    TORCH,
    Answers,
    Backend,
    Labelled,
    Probe,
    TorchTowers,
    cpu_name,
    fidelity,
    open_backend,
    problem,
    quickest,
)
from train_jobs.encoder import Encoder
from train_jobs.openvino_towers import (
    FOLDER,
    MARKER,
    Fidelity,
    Manifest,
    Measured,
    OpenVinoTowers,
    Speed,
    convert,
)

TEXTS = [
    "a mug", "a plain blue sofa beside a lamp on a wooden floor", "ماگ قرمز", "lamp",
    "کیک شکلاتی با گردو و خامه در ظرف سفید روی میز چوبی", "a red mug on wood", "",
]  # fmt: skip
KINDS = ["scratch:tiny-clip", "scratch:resnet", "tiny clip", "tiny siglip", "tiny dual"]
FAITHFUL = Fidelity(1.0, 1.0, 1.0, 1.0)


def pixels_of(encoder: Encoder, count: int = 5) -> np.ndarray:
    side = encoder.spec.image_size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family with an export of float32 and bfloat16 whose measurements are made up."""
    return made(request.param, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("scratch:tiny-clip", tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture
def copied(clip: Path, tmp_path: Path) -> Path:
    """A model with an export to change."""
    shutil.copytree(clip, tmp_path / "model")
    return tmp_path / "model"


def made(kind: str, folder: Path) -> Path:
    if kind.startswith(scratch.PREFIX):
        scratch.build(kind, TEXTS).save(folder)
    else:
        tiny.encoder(kind.removeprefix("tiny ")).save(folder)
    encoder = Encoder.load(folder, "cpu")
    (folder / FOLDER).mkdir()
    convert(encoder).save(folder / FOLDER / "float32")
    write_manifest(folder, dict.fromkeys((FLOAT32, "openvino-float32", "openvino-bfloat16"), 1.0))
    return folder


def write_manifest(folder: Path, images_per_s: dict[str, float], **changes: Any) -> None:
    """An export.json of these backends with a speed each."""
    spec = Encoder.load(folder, "cpu").spec
    graphs = sorted((folder / FOLDER).glob("*/*"))
    manifest = Manifest(
        weights_sha256=str(spec.weights_sha256),
        model_hash=spec.model_hash,
        versions={},
        cpu=cpu_name(),
        measured_on={},
        backends={
            name: Measured(True, "", FAITHFUL, {1: Speed(speed, speed)})
            for name, speed in images_per_s.items()
        },
        files={str(path.relative_to(folder / FOLDER)): sha256(path) for path in graphs},
    )
    (folder / FOLDER / MARKER).write_text(dataclasses.replace(manifest, **changes).to_json())


def least_cosine(backend: Backend, encoder: Encoder) -> float:
    pictures = pixels_of(encoder)
    rows = (backend.images(pictures) * encoder.images(pictures)).sum(axis=1)
    words = (backend.texts(TEXTS) * encoder.texts(TEXTS)).sum(axis=1)
    return float(min(rows.min(), words.min()))


# ------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", [FLOAT32, "openvino-float32"])
def test_float32_answers_are_the_encoders(folder: Path, name: str) -> None:
    """Odd batches of three, and of ever other lengths."""
    encoder, backend = Encoder.load(folder, "cpu"), open_backend(folder, name, "cpu", batch_size=3)
    pictures = pixels_of(encoder)
    assert (backend.name, backend.device, backend.spec) == (name, "cpu", encoder.spec)
    np.testing.assert_allclose(backend.images(pictures), encoder.images(pictures), atol=1e-4)
    for texts in (TEXTS, TEXTS[::-1], TEXTS[-1:], TEXTS[1:2]):
        np.testing.assert_allclose(backend.texts(texts), encoder.texts(texts), atol=1e-4)
    np.testing.assert_array_equal(backend.texts_of(backend.token_ids(TEXTS)), backend.texts(TEXTS))


@pytest.mark.parametrize("name", ["torch-bfloat16", "torch-float16", "openvino-bfloat16"])
def test_halved_answers_are_near_and_of_unit_norm(folder: Path, name: str) -> None:
    encoder, backend = Encoder.load(folder, "cpu"), open_backend(folder, name, "cpu")
    assert least_cosine(backend, encoder) >= 0.999
    for rows in (backend.images(pixels_of(encoder)), backend.texts(TEXTS)):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    if name.startswith("torch"):
        assert not np.array_equal(backend.texts(TEXTS), encoder.texts(TEXTS))  # it is another arithmetic


@pytest.mark.parametrize("name", [FLOAT32, "openvino-float32"])
def test_nothing_in_nothing_out(clip: Path, name: str) -> None:
    backend = open_backend(clip, name, "cpu")
    empty = np.empty((0, backend.spec.image_size, backend.spec.image_size, 3), np.uint8)
    for rows in (backend.images(empty), backend.texts([]), backend.texts_of([])):
        assert rows.shape == (0, backend.spec.embedding_dim)
        assert rows.dtype == np.float32


@pytest.mark.parametrize("name", [FLOAT32, "openvino-float32"])
def test_pixels_that_cannot_be_written_to_are_taken(clip: Path, name: str) -> None:
    """As Ray hands them over."""
    encoder, backend = Encoder.load(clip, "cpu"), open_backend(clip, name, "cpu")
    pictures = pixels_of(encoder)
    pictures.flags.writeable = False
    np.testing.assert_allclose(backend.images(pictures), encoder.images(pictures), atol=1e-4)


class Recording:
    """Towers that remember how large their batches were."""

    device = "cpu"

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.shapes: list[tuple[int, ...]] = []

    def image(self, pixels: np.ndarray) -> np.ndarray:
        self.shapes.append(pixels.shape)
        return np.zeros((len(pixels), self.dimensions), np.float32)

    def text(self, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        self.shapes.append(tuple(ids.shape))
        return np.zeros((len(ids), self.dimensions), np.float32)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_batches_are_bounded_by_rows_and_by_padded_tokens(kind: str) -> None:
    encoder = tiny.encoder(kind)
    towers = Recording(encoder.spec.embedding_dim)
    backend = Backend("", towers, encoder.spec, encoder.tokens, batch_size=4, batch_tokens=30)
    ids = [[0] * length for length in (16, 2, 3, 2, 8, 2, 2, 12, 9)]
    backend.texts_of(ids)
    if kind == "siglip":  # every text takes its 16 tokens
        assert towers.shapes == [(1, 16)] * 9
    else:
        assert towers.shapes == [(4, 2), (3, 9), (1, 12), (1, 16)]
    towers.shapes.clear()
    backend.images(pixels_of(encoder, 9))
    assert [shape[0] for shape in towers.shapes] == [4, 4, 1]


# ------------------------------------------------------------------------------------- gates


def _unit(rows: list[list[float]]) -> np.ndarray:
    found = np.array(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


PICTURES = _unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
WORDS = _unit([[1, 0.2, 0], [0.2, 1, 0], [0, 0.3, 1]])
PAIRS = Labelled(
    picture=np.array([0, 1, 2, 0, 1, 2]),
    text=np.array([0, 1, 2, 1, 2, 0]),
    labels=np.array([1, 1, 1, 0, 0, 0]),
    threshold=0.5,
)


def test_the_same_answers_are_faithful() -> None:
    reference = Answers(PICTURES, WORDS)
    found = fidelity(reference, reference, PAIRS)
    assert (found.auroc, found.auroc_float32, found.auroc_loss) == (1.0, 1.0, 0.0)
    assert (found.largest_score_shift, found.verdicts_changed) == (0.0, 0)
    assert found.image_cosine_min == pytest.approx(1) and found.text_cosine_mean == pytest.approx(1)
    assert [problem(name, found) for name in NAMES] == [""] * len(NAMES)


def test_damaged_answers_are_refused_with_their_numbers() -> None:
    """One of three texts points elsewhere: its match falls below all mismatches."""
    damaged = WORDS.copy()
    damaged[1] = [1, 0, 0]
    found = fidelity(Answers(PICTURES, WORDS), Answers(PICTURES, damaged), PAIRS)
    assert found.image_cosine_min == pytest.approx(1)
    assert found.text_cosine_min == pytest.approx(0.2 / np.hypot(1, 0.2))
    assert found.text_cosine_mean < 0.8
    # Scores now: matches .98, 0, .96; mismatches 1, .29, 0.
    assert (found.auroc_float32, found.auroc) == (1.0, pytest.approx(4.5 / 9))
    assert found.largest_score_shift == pytest.approx(1 / np.hypot(1, 0.2), abs=1e-6)
    assert found.verdicts_changed == 2
    assert "falls by 0.5000, from 1.0000 in float32 to 0.5000, and may fall by 0.005" in problem(INT8, found)
    assert problem(INT8, found, most_auroc_loss=0.5) == ""
    assert "as low as 1.00000 for a picture and 0.19612 for a text" in problem("torch-bfloat16", found)


@pytest.mark.parametrize("name", sorted({*NAMES} - {INT8}))
def test_one_bad_cosine_is_enough(name: str) -> None:
    good = Fidelity(0.9991, 1.0, 0.9991, 1.0)
    assert problem(name, good) == ""
    assert problem(name, good, least_cosine=0.9995) != ""
    assert problem(name, dataclasses.replace(good, image_cosine_min=0.9989)) != ""
    assert problem(name, dataclasses.replace(good, text_cosine_min=0.9989)) != ""


def test_answers_that_are_not_finite_never_pass() -> None:
    broken = PICTURES.copy()
    broken[0, 0] = np.nan
    found = fidelity(Answers(PICTURES, WORDS), Answers(broken, WORDS), PAIRS)
    assert found.image_cosine_min == -1
    assert problem("torch-float16", found) and problem(INT8, found)


def test_a_model_that_overflows_float16_is_refused_by_name(clip: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(clip, "cpu")
    with torch.no_grad():
        encoder.towers.model.visual_projection.weight *= 1e6  # float32 and bfloat16 divide by the norm
    encoder.save(tmp_path / "model")
    with pytest.raises(InputError) as refused:
        open_backend(tmp_path / "model", "torch-float16", "cpu")
    assert refused.value.code == "gate_failed"
    assert "-1.00000 for a picture" in refused.value.message
    assert least_cosine(open_backend(tmp_path / "model", "torch-bfloat16", "cpu"), encoder) >= 0.999


def test_probes_are_the_same_every_time(clip: Path) -> None:
    spec = Encoder.load(clip, "cpu").spec
    one, other = Probe.of(spec), Probe.of(spec)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.pixels.shape == (4, spec.image_size, spec.image_size, 3)
    assert one.texts == other.texts and len(set(one.texts)) == 8
    assert sum(any("\u0600" <= letter <= "\u06ff" for letter in text) for text in one.texts) == 4


# ------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({FLOAT32: 10.0}, FLOAT32),
        ({FLOAT32: 10.0, "torch-bfloat16": 10.9}, FLOAT32),  # not worth it
        ({FLOAT32: 10.0, "torch-bfloat16": 11.1}, "torch-bfloat16"),
        ({FLOAT32: 10.0, "openvino-bfloat16": 40.0, INT8: 43.0}, "openvino-bfloat16"),
        ({FLOAT32: 10.0, "openvino-bfloat16": 40.0, INT8: 80.0}, INT8),
        ({FLOAT32: 10.0, "openvino-bfloat16": 5.0, INT8: 8.0}, FLOAT32),
    ],
)
def test_the_quickest_must_be_worth_what_it_loses(speeds: dict[str, float], chosen: str) -> None:
    assert quickest({name: Speed(speed, speed) for name, speed in speeds.items()}) == chosen


def test_a_pair_takes_a_picture_and_a_text() -> None:
    assert Speed(images=20.0, texts=80.0).pairs == pytest.approx(16.0)


def test_auto_goes_by_the_exports_speeds_on_such_a_processor(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    for fast in ("openvino-float32", "openvino-bfloat16", FLOAT32):
        speeds = dict.fromkeys((FLOAT32, "openvino-float32", "openvino-bfloat16"), 10.0) | {fast: 100.0}
        write_manifest(copied, speeds)
        assert open_backend(copied, device="cpu").name == fast
        said = caplog.messages[-1]
        assert f": {fast} on cpu" in said and f"{fast} 50.0 pairs/s" in said
        assert "by the measurements of its export" in said


def test_the_nearest_number_of_threads_counts(copied: Path) -> None:
    slow, fast = Speed(1.0, 1.0), Speed(9.0, 9.0)
    found = {
        FLOAT32: Measured(True, "", FAITHFUL, {1: slow, 8: fast}),
        "openvino-float32": Measured(True, "", FAITHFUL, {1: fast, 8: slow}),
    }
    write_manifest(copied, {}, backends=found)
    before = torch.get_num_threads()
    try:
        assert open_backend(copied, device="cpu", threads=2).name == "openvino-float32"
        assert open_backend(copied, device="cpu", threads=7).name == FLOAT32
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)


def test_elsewhere_auto_tries_what_there_is(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Speeds of another processor are not believed, whatever they promise."""
    caplog.set_level(logging.INFO, backends.__name__)
    write_manifest(copied, {FLOAT32: 1.0, "openvino-float32": 2.0, "openvino-bfloat16": 1e9}, cpu="another")
    chosen = open_backend(copied, device="cpu")
    said = caplog.messages[-1]
    assert "as just tried" in said and f": {chosen.name} on cpu" in said
    for name in (FLOAT32, "openvino-bfloat16"):
        assert f"{name} " in said
    assert "export again on this one" in said
    assert "000000000" not in said
    assert least_cosine(chosen, Encoder.load(copied, "cpu")) >= 0.999


def test_without_an_export_torch_serves(clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    backend = open_backend(clip, device="cpu", exported=tmp_path)
    assert backend.name in TORCH
    assert f"nothing is exported to {tmp_path}" in caplog.messages[-1]
    assert least_cosine(backend, Encoder.load(clip, "cpu")) >= 0.999


def _other_weights(folder: Path) -> Encoder:
    """Save other weights in the same place, with the old export beside them."""
    encoder = Encoder.load(folder, "cpu")
    with torch.no_grad():
        encoder.towers.model.visual_projection.weight.add_(0.1)
    shutil.move(folder / FOLDER, folder.with_name("kept"))
    encoder.save(folder, overwrite=True)
    shutil.move(folder.with_name("kept"), folder / FOLDER)
    return encoder


@pytest.mark.parametrize("what", ["weights", "preprocessing"])
def test_an_export_of_another_model_is_passed_over_by_auto_and_refused_by_name(
    copied: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    speeds = {FLOAT32: 1.0, "openvino-float32": 9.0}
    write_manifest(copied, speeds)
    assert open_backend(copied, device="cpu").name == "openvino-float32"
    if what == "weights":
        encoder = _other_weights(copied)
    else:
        facts = json.loads((copied / "spec.json").read_text())
        facts["image_mean"] = [0.4, 0.5, 0.6]
        (copied / "spec.json").write_text(json.dumps(facts))
        encoder = Encoder.load(copied, "cpu")
    backend = open_backend(copied, device="cpu")
    assert backend.name in TORCH
    assert "is passed over: The export was made of weights" in caplog.messages[-1]
    assert least_cosine(backend, encoder) >= 0.999
    with pytest.raises(InputError) as refused:
        open_backend(copied, "openvino-float32")
    assert refused.value.code == "stale_export"
    assert encoder.spec.model_hash in refused.value.message


def test_what_did_not_pass_is_never_chosen(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    fast = {1: Speed(1e6, 1e6)}
    found = {
        FLOAT32: Measured(True, "", FAITHFUL, {1: Speed(1.0, 1.0)}),
        "openvino-bfloat16": Measured(False, "the cosine is bad", FAITHFUL, fast),
        INT8: Measured(False, "the AUROC falls", FAITHFUL, fast),
    }
    write_manifest(copied, {}, backends=found)
    assert open_backend(copied, device="cpu").name == FLOAT32
    assert f"without {INT8}: When exported, the AUROC falls" in caplog.messages[-1]
    for name in ("openvino-bfloat16", INT8):
        with pytest.raises(InputError) as refused:
            open_backend(copied, name)
        assert refused.value.code == "gate_failed"
    with pytest.raises(InputError) as refused:
        open_backend(copied, "openvino-float32")
    assert refused.value.code == "not_exported"


def test_a_damaged_file_is_passed_over_by_auto_and_refused_by_name(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    write_manifest(copied, {FLOAT32: 1.0, "openvino-float32": 9.0})
    weights = copied / FOLDER / "float32" / "text.bin"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    assert open_backend(copied, device="cpu").name == FLOAT32
    assert f"{weights} is not the file that was exported" in caplog.messages[-1]
    weights.unlink()
    with pytest.raises(InputError) as refused:
        open_backend(copied, "openvino-float32")
    assert refused.value.code == "damaged_export"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format_version": 99}', '{"format_version": 1, "cpu": ""}']
)
def test_a_manifest_that_cannot_be_read_is_said(
    copied: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    (copied / FOLDER / MARKER).write_text(content)
    assert open_backend(copied, device="cpu").name in TORCH
    assert "is passed over" in caplog.messages[-1]
    with pytest.raises(InputError) as refused:
        open_backend(copied, "openvino-float32")
    assert refused.value.code == "bad_export"


def test_a_manifest_reads_back(copied: Path) -> None:
    found = Manifest.read(copied / FOLDER)
    assert found is not None
    assert json.loads(found.to_json()) == json.loads((copied / FOLDER / MARKER).read_text())
    assert found.backends["openvino-float32"].speeds == {1: Speed(1.0, 1.0)}
    assert Manifest.read(copied) is None


def test_without_openvino_torch_serves_and_the_package_is_named(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, backends.__name__)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert open_backend(clip, device="cpu").name in TORCH
    assert "The package openvino is not installed" in caplog.messages[-1]
    for ask in (lambda: open_backend(clip, "openvino-float32"), lambda: convert(Encoder.load(clip, "cpu"))):
        with pytest.raises(InputError) as refused:
            ask()
        assert refused.value.code == "backend_missing"
        assert "pip install openvino" in refused.value.suggestion


@pytest.mark.parametrize(
    ("name", "device", "code"),
    [
        ("onnx", "auto", "unknown_backend"),
        ("openvino-int8", "cuda", "wrong_device"),
        ("openvino-int8", "auto", "not_exported"),
        ("torch-float32", "tpu", "no_such_device"),
    ],
)
def test_what_cannot_be_is_refused(clip: Path, name: str, device: str, code: str) -> None:
    with pytest.raises(InputError) as refused:
        open_backend(clip, name, device)
    assert refused.value.code == code


def test_no_export_by_name_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        open_backend(clip, "openvino-float32", exported=tmp_path)
    assert refused.value.code == "no_export"
    assert "python -m train_jobs.export" in refused.value.suggestion


def test_a_naflex_model_is_served_by_torch_and_not_converted(tmp_path: Path) -> None:
    folder = siglip2(tmp_path / "naflex")
    encoder = Encoder.load(folder, "cpu")
    assert least_cosine(open_backend(folder, "torch-bfloat16", "cpu"), encoder) >= 0.999
    with pytest.raises(InputError) as refused:
        convert(encoder)
    assert refused.value.code == "unsupported_family"


def test_telemetry_of_the_packages_is_kept_out(clip: Path) -> None:
    """Else converting a model is reported to their makers, over the network."""
    open_backend(clip, "openvino-float32")
    with pytest.raises(ImportError):
        __import__("openvino_telemetry")


def test_towers_of_torch_leave_the_encoder_as_it_was(clip: Path) -> None:
    encoder = Encoder.load(clip, "cpu")
    before = encoder.texts(TEXTS)
    TorchTowers(encoder, torch.bfloat16)
    np.testing.assert_array_equal(encoder.texts(TEXTS), before)


def test_openvino_uses_as_many_threads_as_it_is_told(clip: Path) -> None:
    for threads in (1, 2):
        compiled = OpenVinoTowers(clip / FOLDER, "float32", threads)._image.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert not compiled.get_property("ENABLE_CPU_PINNING")  # replicas would share the first cores


def test_lanes_of_openvino_answer_each_its_own_at_the_same_time(clip: Path) -> None:
    backend = open_backend(clip, "openvino-float32", threads=2)
    lanes = backend.lanes(2)
    size, random = backend.spec.image_size, np.random.default_rng(0)
    pictures = [[random.integers(0, 256, (3, size, size, 3), np.uint8) for _ in range(20)] for _ in lanes]
    words = [[[f"{TEXTS[0]} {lane} {number}"] for number in range(20)] for lane in range(2)]
    expected = [
        [(backend.images(p), backend.texts(w)) for p, w in zip(*work, strict=True)]
        for work in zip(pictures, words, strict=True)
    ]

    def run(number: int) -> list[tuple[Any, Any]]:
        lane = lanes[number]
        return [(lane.images(p), lane.texts(w)) for p, w in zip(pictures[number], words[number], strict=True)]

    with ThreadPoolExecutor(2) as threads:
        for found, wanted in zip(threads.map(run, range(2)), expected, strict=True):
            for (images, texts), (images_wanted, texts_wanted) in zip(found, wanted, strict=True):
                np.testing.assert_allclose(images, images_wanted, atol=1e-5)
                np.testing.assert_allclose(texts, texts_wanted, atol=1e-5)
    shared = lanes[0]._towers._image.get_compiled_model()
    assert shared.get_property("NUM_STREAMS") == 2, "two models would hold the weights twice"


def test_torch_has_no_lanes_and_one_thread_needs_none(clip: Path) -> None:
    assert open_backend(clip, "torch-float32").lanes(2) == []
    assert open_backend(clip, "openvino-float32").lanes(1) == []


def test_openvino_is_opened_without_the_model_of_transformers(clip: Path) -> None:
    """It would take seconds of every start, and the memory of its weights."""
    code = (
        "import sys\n"
        "from train_jobs.backends import open_backend\n"
        f"open_backend({str(clip)!r}, 'openvino-float32').texts(['a mug'])\n"
        "assert 'train_jobs.encoder' not in sys.modules and 'transformers.modeling_utils' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_openvino_refuses_other_weights_as_torch_does(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError) as refused:
        open_backend(copied, "openvino-float32")
    assert refused.value.code == "weights_changed"
