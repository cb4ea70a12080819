"""A model and labelled pairs it never saw -> honest numbers.

    python -m train_jobs.evaluate --model DIR --csv test.csv [--image-base-path DIR] --output-dir OUT

Writes OUT/metrics.json and OUT/scores.csv (every pair with its cosine, probability and verdict). A column
`mismatch_kind` in the CSV makes the metrics come apart by kind: each kind's mismatches against all matches.
Pairs are scored by Ray tasks.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from data_jobs import command, dataset, progress
from data_jobs.artefacts import publish
from data_jobs.errors import InputError
from data_jobs.session import connected
from train_jobs import metrics, scoring
from train_jobs.checkpoints import DEFAULT_MODEL, local_folder
from train_jobs.encoder import Encoder
from train_jobs.pairdata import PairData, score_pairs
from train_jobs.spec import ModelSpec

MARKER = "metrics.json"
KIND = "mismatch_kind"


@dataclass(frozen=True)
class Evaluate:
    output_dir: Path
    """Where metrics.json and scores.csv appear."""
    model: str = DEFAULT_MODEL
    """Model directory or hub name."""
    csv: Path | None = None
    """Labelled pairs: image_path,text,label and optionally mismatch_kind."""
    image_base_path: Path | None = None
    """Folder that relative image paths start from."""
    data: Path | None = None
    """Dataset directory instead of --csv."""
    threshold: float | None = None
    """Cosine below which a pair is a mismatch (default: the model's calibrated one)."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    rows_per_task: int = 1024
    """Pairs that one task scores."""
    overwrite: bool = False
    """Replace an earlier evaluation in the output directory."""


def run(config: Evaluate) -> dict[str, Any]:
    """Score, measure, write; returns the metrics. Raises InputError."""
    command.positive("rows_per_task", config.rows_per_task)
    if (config.csv is None) == (config.data is None):
        raise InputError("bad_arguments", "Give either --csv or --data.", "See --help.")
    model = str(local_folder(config.model)[0].absolute())
    with publish(config.output_dir, marker=MARKER, overwrite=config.overwrite) as folder:
        source = config.data
        if config.csv is not None:
            source = folder / "data"
            report = dataset.from_csv(config.csv, source, image_base_path=config.image_base_path)
            if report["pairs"]["rejected"]:
                print(f"{config.csv}: left out {report['codes']}; see {config.output_dir}/data/rejects")
        assert source is not None
        data = PairData.open(source)
        table = dataset.read_pairs(source, ["image_path", "text", "label", "metadata"]).to_pandas()
        if not {0, 1} <= set(data.labels.tolist()):
            raise InputError(
                "one_label",
                f"All {len(data)} pairs have the label {data.labels[0]}.",
                "Metrics need matches and mismatches.",
            )
        scores, spec = _score(config, model, data)
        threshold = scoring.threshold_for(spec, config.threshold)
        kinds = np.array([json.loads(m).get(KIND, "") for m in table.pop("metadata")])
        found = measure(scores, data.labels, threshold, spec, kinds)
        found |= {"model": config.model, "model_hash": spec.model_hash, "data_fingerprint": data.fingerprint}
        (folder / MARKER).write_text(json.dumps(found, indent=2))
        table[KIND], table["score"], table["is_mismatch"] = kinds, scores, scores < threshold
        if spec.calibration is not None:
            table["match_probability"] = scoring.probability(scores, spec.calibration)
        table.sort_values("score").to_csv(folder / "scores.csv", index=False)
    _print(found)
    return found


def measure(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    threshold: float,
    spec: ModelSpec,
    kinds: NDArray[np.str_] | None = None,
) -> dict[str, Any]:
    """All metrics of scores [N] and labels [N]; by kind of mismatch where `kinds` [N] names any."""
    found: dict[str, Any] = {
        "auroc": metrics.auroc(scores, labels),
        "average_precision": metrics.average_precision(scores, labels),
        **metrics.at_threshold(scores, labels, threshold),
        "threshold": threshold,
        "n": len(labels),
        "n_match": int((labels == 1).sum()),
    }
    if spec.calibration is not None:
        probabilities = scoring.probability(scores, spec.calibration)
        found["ece"] = metrics.expected_calibration_error(probabilities, labels)
        found["brier"] = metrics.brier(probabilities, labels)
    named = sorted(set(kinds.tolist()) - {""}) if kinds is not None else []
    found["by_mismatch_kind"] = {}
    for kind in named:
        rows = (labels == 1) | (kinds == kind)
        found["by_mismatch_kind"][kind] = {
            "auroc": metrics.auroc(scores[rows], labels[rows]),
            "accuracy": metrics.at_threshold(scores[rows], labels[rows], threshold)["accuracy"],
            "n_mismatch": int((kinds == kind).sum()),
        }
    return found


def _score(config: Evaluate, model: str, data: PairData) -> tuple[NDArray[np.float32], ModelSpec]:
    """Every pair's cosine, in the data's order, and the model's spec."""
    size = config.rows_per_task
    chunks = [range(start, min(start + size, len(data))) for start in range(0, len(data), size)]
    with connected(), progress.bar("evaluate", "pairs", len(data)) as bar:
        task = _score_rows.options(num_gpus=1 if config.device == "cuda" else 0)
        running = [task.remote(model, config.device, data.take(list(rows))) for rows in chunks]
        parts = []
        for reference, rows in zip(running, chunks, strict=True):
            parts.append(ray.get(reference))
            bar.update(len(rows))
    return np.concatenate([scores for scores, _ in parts]), parts[0][1]


@ray.remote(num_cpus=1)
def _score_rows(model: str, device: str, data: PairData) -> tuple[NDArray[np.float32], ModelSpec]:
    encoder = Encoder.load(model, device)
    return score_pairs(encoder, data), encoder.spec


def _print(found: dict[str, Any]) -> None:
    print(
        f"{found['n']} pairs: AUROC {found['auroc']:.4f}, average precision "
        f"{found['average_precision']:.4f}, accuracy {found['accuracy']:.3f} at {found['threshold']:.3f}"
    )
    for kind, part in found["by_mismatch_kind"].items():
        print(f"  {kind:16} AUROC {part['auroc']:.4f}, accuracy {part['accuracy']:.3f}")


if __name__ == "__main__":
    command.main(Evaluate, run, __doc__)
