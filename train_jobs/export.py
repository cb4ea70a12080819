"""A model -> the same for OpenVINO, which serves it several times as fast on CPUs. What does not pass is not written.

    python -m train_jobs.export --model DIR
    python -m train_jobs.export --model DIR --precision float32 bfloat16 int8 --csv pairs.csv [--image-base-path DIR]

Writes both towers to DIR/openvino, where `serve_app` and train_jobs.backends find them, with export.json: what was
measured of each precision beside float32. bfloat16 (as float32) passes if no cosine between its embedding and
float32's is below 0.999. int8 is calibrated on pictures and texts of --csv, held-out labelled pairs like those that the
model will see, and passes if it loses at most 0.005 of AUROC on them.

int8 shifts cosines a little: export.json says by how much at most, and how many verdicts change at the model's
threshold. Speeds are measured on this machine, and others like it choose by them when they start: export where you
serve. Runs in this process. Exit code 0: all that was asked for is written; 2: something was refused (the rest is
written), or it cannot run.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_jobs import command, dataset, progress
from data_jobs.artefacts import publish, refuse_overwrite, sha256, write_file
from data_jobs.errors import InputError
from train_jobs import scoring
from train_jobs.backends import (
    FLOAT32,
    OPENVINO,
    TORCH,
    Answers,
    Backend,
    Labelled,
    Probe,
    TorchTowers,
    Towers,
    bfloat16_is_fast,
    cpu_name,
    fidelity,
    problem,
)
from train_jobs.calibration import MIN_PAIRS_PER_LABEL
from train_jobs.encoder import Encoder
from train_jobs.hub import DEFAULT_MODEL, local_folder
from train_jobs.openvino_towers import (
    FOLDER,
    GRAPHS,
    MARKER,
    Manifest,
    Measured,
    OpenVinoTowers,
    Precision,
    convert,
    package,
    quantised,
)
from train_jobs.pairdata import Distinct, PairData, slices

CALIBRATED_ON = 256
"""Distinct pictures, and texts, that int8 is calibrated on at most: more take longer and change little."""
_ROUNDS = 5
_HALF = "torch-bfloat16"


@dataclass(frozen=True)
class Export:
    model: str = DEFAULT_MODEL
    """Model directory or hub name."""
    precision: tuple[Precision, ...] = ()
    """What to write: float32, bfloat16, int8 (default: the first two, and int8 with --csv)."""
    csv: str | None = None
    """Labelled pairs: image_path,text,label. If all of them match, random mismatches are made. int8 needs them."""
    image_base_path: str | None = None
    """Folder that relative image paths start from."""
    output_dir: Path | None = None
    """Where the export appears (default: openvino in the model's directory)."""
    threads: tuple[int, ...] = ()
    """Numbers of threads to measure speeds with (default: 1, and one for each core)."""
    batch_size: int = 32
    """Most pictures or texts in one forward pass."""
    overwrite: bool = False
    """Replace an earlier export."""


def run(config: Export) -> Manifest:
    """Convert, quantise, measure, write; returns the manifest. Raises InputError, also after writing what passed."""
    precisions = _checked(config)
    output = config.output_dir or local_folder(config.model)[0] / FOLDER
    refuse_overwrite(output, marker=MARKER, overwrite=config.overwrite)
    command.outside(output, config.csv, config.image_base_path, config.model)
    for name in ("openvino", "nncf") if "int8" in precisions else ("openvino",):
        package(name)
    encoder = Encoder.load(config.model, "cpu", config.batch_size)
    questions = _Questions.of(config, encoder)
    with publish(output, marker=MARKER, overwrite=config.overwrite) as aside:
        _write_graphs(encoder, precisions, questions, aside)
        backends = _measure(encoder, precisions, questions, aside, _threads(config))
        passed = [precision for precision in precisions if backends[f"openvino-{precision}"].passed]
        if not passed:
            raise _refusal(precisions, passed, backends, questions, "nothing")
        for graphs in {GRAPHS[precision] for precision in precisions} - {
            GRAPHS[precision] for precision in passed
        }:
            shutil.rmtree(aside / graphs)
        manifest = Manifest(
            weights_sha256=str(encoder.spec.weights_sha256),
            model_hash=encoder.spec.model_hash,
            versions={name: metadata.version(name) for name in _packages(precisions)},
            cpu=cpu_name(),
            measured_on=questions.described,
            backends=backends,
            files={str(path.relative_to(aside)): sha256(path) for path in sorted(aside.glob("*/*"))},
        )
        write_file(aside / MARKER, manifest.to_json())
    _print(output, manifest)
    if len(passed) < len(precisions):
        raise _refusal(precisions, passed, backends, questions, str(output))
    return manifest


def _checked(config: Export) -> tuple[Precision, ...]:
    """The precisions to write. Raises InputError (bad_arguments, pairs_needed)."""
    command.positive("batch_size", config.batch_size)
    for threads in config.threads:
        command.positive("threads", threads)
    if "int8" in config.precision and config.csv is None:
        raise InputError(
            "pairs_needed",
            "int8 is calibrated and judged on labelled pairs, and there is no --csv.",
            "Give --csv with held-out pairs like those that the model will see, or leave int8 out.",
        )
    default: tuple[Precision, ...] = ("float32", "bfloat16")
    if config.csv is not None:
        default += ("int8",)
    return tuple(dict.fromkeys(config.precision)) or default


def _threads(config: Export) -> list[int]:
    return sorted(set(config.threads or (1, os.cpu_count() or 1)))


def _packages(precisions: tuple[Precision, ...]) -> list[str]:
    return ["openvino", *(["nncf"] if "int8" in precisions else []), "torch", "transformers"]


@dataclass(frozen=True)
class _Questions:
    """What the backends are asked: the distinct pictures and texts of the pairs, or probes where there are none."""

    probe: Probe
    data: PairData | None
    pictures: Distinct
    texts: Distinct
    labelled: Labelled | None
    described: dict[str, Any]

    @classmethod
    def of(cls, config: Export, encoder: Encoder) -> "_Questions":
        """Raises InputError (too_few_pairs, or what reading a dataset does)."""
        probe = Probe.of(encoder.spec)
        if config.csv is None:
            counts = {"pictures": len(probe.pixels), "texts": len(probe.texts)}
            return cls(probe, None, Distinct.of([]), Distinct.of([]), None, {"pairs": None, **counts})
        with tempfile.TemporaryDirectory() as scratch:
            report = dataset.from_csv(
                config.csv,
                Path(scratch) / "data",
                image_base_path=config.image_base_path,
                image_size=max(256, encoder.spec.image_shortest),
            )
            print(f"{config.csv}: {report['pairs']}, {report['codes'] or 'no remarks'}")
            data = PairData.open(Path(scratch) / "data").with_mismatches()
        matches = int(data.labels.sum())
        if min(matches, len(data) - matches) < MIN_PAIRS_PER_LABEL:
            raise InputError(
                "too_few_pairs",
                f"{config.csv} gives {matches} matches and {len(data) - matches} mismatches; "
                f"an AUROC needs {MIN_PAIRS_PER_LABEL} of each.",
                "Hold out more pairs.",
            )
        pictures, texts = Distinct.of(data.picture_ids), Distinct.of(data.texts)
        threshold = scoring.threshold_for(encoder.spec)
        described = {
            "pairs": config.csv,
            "data_fingerprint": data.fingerprint,
            "matches": matches,
            "mismatches": len(data) - matches,
            "pictures": len(pictures.first),
            "texts": len(texts.first),
            "threshold": threshold,
        }
        labelled = Labelled(pictures.index, texts.index, data.labels, threshold)
        return cls(probe, data, pictures, texts, labelled, described)

    def answers(self, backend: Backend) -> Answers:
        """A backend's embeddings of all of them."""
        if self.data is None:
            return self.probe.answers(backend)
        rows = []
        with progress.bar(backend.name, "pictures", len(self.pictures.first)) as bar:
            for chunk in slices(self.pictures.first, backend.batch_size):
                rows.append(backend.images(self.data.decode(chunk, backend.spec)))
                bar.update(len(chunk))
        return Answers(
            np.concatenate(rows), backend.texts([self.data.texts[row] for row in self.texts.first])
        )


def _write_graphs(
    encoder: Encoder, precisions: tuple[Precision, ...], questions: _Questions, aside: Path
) -> None:
    graphs = convert(encoder)
    if {"float32", "bfloat16"} & set(precisions):
        graphs.save(aside / "float32")
    if "int8" in precisions:
        data = questions.data
        assert data is not None
        pictures = (data.decode([row], encoder.spec)[0] for row in _spread(questions.pictures.first))
        texts = encoder.token_ids([data.texts[row] for row in _spread(questions.texts.first)])
        quantised(graphs, pictures, texts, encoder.tokens).save(aside / "int8")


def _spread(rows: list[int]) -> list[int]:
    """At most CALIBRATED_ON of them, evenly."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATED_ON)).astype(int)
    return [rows[place] for place in places]


def _measure(
    encoder: Encoder,
    precisions: tuple[Precision, ...],
    questions: _Questions,
    aside: Path,
    threads: list[int],
) -> dict[str, Measured]:
    """torch-float32, torch-bfloat16 where the processor has it, and the graphs in `aside`, by name."""

    def opened(name: str, count: int) -> Backend:
        torch.set_num_threads(count)
        towers: Towers = (
            TorchTowers(encoder, TORCH[name])
            if name in TORCH
            else OpenVinoTowers(aside, OPENVINO[name], count, keep=False)
        )
        return Backend(name, towers, encoder.spec, encoder.tokens, encoder.batch_size)

    names = [FLOAT32, *([_HALF] if bfloat16_is_fast() else [])]
    names += [f"openvino-{precision}" for precision in precisions]
    before = torch.get_num_threads()
    try:
        reference = _finite(questions.answers(opened(FLOAT32, threads[-1])))
        measured = {}
        for name in names:
            answers = reference if name == FLOAT32 else questions.answers(opened(name, threads[-1]))
            found = fidelity(reference, answers, questions.labelled)
            speeds = {}
            for count in threads:
                backend = opened(name, count)
                questions.probe.answers(backend)
                speeds[count] = questions.probe.speed(backend, _ROUNDS)
            reason = problem(name, found)
            measured[name] = Measured(not reason, reason, found, speeds)
        return measured
    finally:
        torch.set_num_threads(before)


def _finite(answers: Answers) -> Answers:
    broken = sum(int((~np.isfinite(rows)).any(axis=1).sum()) for rows in (answers.images, answers.texts))
    if broken:
        raise InputError(
            "not_finite",
            f"{broken} embeddings of the model are not finite in float32.",
            "Its weights are broken; train with a lower learning rate.",
        )
    return answers


def _refusal(
    precisions: tuple[Precision, ...],
    passed: list[Precision],
    backends: dict[str, Measured],
    questions: _Questions,
    written: str,
) -> InputError:
    refused = [precision for precision in precisions if precision not in passed]
    reasons = "; ".join(f"{precision}: {backends[f'openvino-{precision}'].problem}" for precision in refused)
    kept = f"{', '.join(passed)} in {written}" if passed else written
    return InputError(
        "gate_failed",
        f"Refused, measured on {questions.described['pairs'] or 'probes'}: {reasons}. Written: {kept}.",
        "Serve another precision; for int8, give more pairs, and such as the model will see.",
    )


def _print(output: Path, manifest: Manifest) -> None:
    print(f"{output}: measured on {manifest.measured_on}")
    for name, measured in manifest.backends.items():
        found = measured.fidelity
        speeds = ", ".join(
            f"{speed.images:.1f} pictures/s and {speed.texts:.0f} texts/s on {threads} thread(s)"
            for threads, speed in measured.speeds.items()
        )
        print(f"  {name}{'' if measured.passed else ' (REFUSED)'}: {speeds}")
        print(
            f"    least cosine to float32 {found.image_cosine_min:.5f} (pictures), {found.text_cosine_min:.5f} (texts)"
        )
        if found.auroc is not None:
            print(
                f"    AUROC {found.auroc:.4f}, {found.auroc_float32:.4f} in float32; scores shift by up to "
                f"{found.largest_score_shift:.4f}, which changes {found.verdicts_changed} verdicts at the threshold "
                f"{manifest.measured_on['threshold']:.4f}"
            )


if __name__ == "__main__":
    command.main(Export, run, __doc__)
