"""A model and labelled pairs it never saw -> honest numbers, each with a 95 % interval, and a report to look at.

    python -m train_jobs.evaluate --model DIR --csv test.csv [--image-base-path DIR] --output-dir OUT
    python -m train_jobs.evaluate --model DIR --data DATASET --output-dir OUT
    python -m train_jobs.evaluate --model DIR --csv test.csv --classes train_matches.csv --output-dir OUT

Writes OUT/report.html (for people, self-contained), OUT/metrics.json (the same numbers for programs), OUT/scores.csv
(every pair with its cosine, probability and verdict), OUT/run.json (the resolved flags) and, where rows of --csv
could not be used, OUT/rejects.csv. The columns `mismatch_kind` and `category`, where there are any, make the numbers
come apart. Distinct pictures and texts are embedded once each, by Ray tasks that read the dataset themselves; pairs
are scored when all of them are there, so that no row is padded, left out or counted twice.

Warns when the model's stored calibration no longer holds on these pairs, and when they are those that it was trained or
calibrated on. The exit code is 0 all the same.
"""

import dataclasses
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from data_jobs import command, dataset, images, progress, stream, text, thumbnails
from data_jobs.artefacts import publish, refuse_overwrite, write_file
from data_jobs.errors import InputError
from data_jobs.session import connected, placed
from train_jobs import drift, evaluation, evaluation_page, scoring
from train_jobs.arrays import Embeddings
from train_jobs.encoder import loaded
from train_jobs.evaluation_page import Case
from train_jobs.hub import DEFAULT_MODEL, local_folder
from train_jobs.pairdata import Distinct, slices
from train_jobs.spec import ModelSpec
from train_jobs.zero_shot import MOST_CLASSES, Classes, Listed, Matched

MARKER = "metrics.json"
KIND, CATEGORY = "mismatch_kind", "category"
IMAGE_SIZE = 256
"""As data_jobs.ingest's default; a model with larger pictures gets larger ones."""
MOST_CASES = 12
"""Of the worst verdicts of each kind on the page."""
KEPT = 64
"""Tasks for which a process keeps its model, also on a GPU, before it ends."""
_SCORED_AT_ONCE = 65_536


@dataclass(frozen=True)
class Evaluate:
    output_dir: Path
    """Where report.html, metrics.json, scores.csv and run.json appear."""
    model: str = DEFAULT_MODEL
    """Model directory or hub name."""
    csv: str | None = None
    """Labelled pairs: image_path,text,label and optionally mismatch_kind and category."""
    image_base_path: str | None = None
    """Folder that relative image paths start from."""
    data: Path | None = None
    """Dataset directory instead of --csv."""
    threshold: float | None = None
    """Cosine below which a pair is a mismatch (default: the model's calibrated one)."""
    classes: Path | None = None
    """Candidates of the zero-shot test: a CSV or .tsv (the distinct texts of its matches) or a text file (one a line).
    Default: the distinct texts of the data's matches, if there are at most 500."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    rows_per_task: int = 256
    """Distinct pictures or texts that one task embeds."""
    overwrite: bool = False
    """Replace an earlier evaluation in the output directory."""


def run(config: Evaluate) -> dict[str, Any]:
    """Embed, score, measure, write; returns what metrics.json holds. Raises InputError."""
    _check(config)
    listed = None if config.classes is None else Listed.read(config.classes)
    model = str(local_folder(config.model)[0].absolute())
    with publish(config.output_dir, marker=MARKER, overwrite=config.overwrite) as folder, connected():
        workers = _Workers(model, config.device)
        data = config.data if config.data is not None else _ingested(config, folder, workers.spec)
        report = dataset.read_report(data)
        pairs = _Pairs.read(data)
        classes = Classes.of(pairs.matched(), listed)
        pictures, texts = _embedded(workers, pairs, classes, config.rows_per_task)
        scores = _cosines(pictures, texts, pairs)
        threshold = scoring.threshold_for(workers.spec, config.threshold)
        found = {
            "model": config.model,
            "model_hash": workers.spec.model_hash,
            "data": str(config.csv or config.data),
            "data_fingerprint": report["fingerprint"],
            "n_rejected": report["pairs"]["rejected"] if config.csv is not None else 0,
            "threshold_from": _threshold_from(config, workers.spec),
            **_measured(pairs, pictures, texts, scores, threshold, workers.spec, classes),
        }
        found["warnings"] = [*_seen_before(report["fingerprint"], workers.spec), *found["warnings"]]
        found = evaluation.without_nan(found)
        _write_scores(folder / "scores.csv", pairs, scores, threshold, workers.spec)
        cases = _cases(data, pairs, scores, threshold, workers.spec)
        page = evaluation_page.render(
            found, spec=workers.spec, scores=scores, labels=pairs.labels, cases=cases
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / "run.json").write_text(json.dumps(dataclasses.asdict(config), indent=2, default=str))
        if config.csv is not None:
            if found["n_rejected"]:
                (data / "rejects.csv").rename(folder / "rejects.csv")
            shutil.rmtree(data)
        write_file(folder / MARKER, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))
    print(_summary(config, found, report))
    return found


def _check(config: Evaluate) -> None:
    """Raise InputError for flags that cannot be, before any work."""
    command.positive("rows_per_task", config.rows_per_task)
    if config.threshold is not None:
        command.within("threshold", config.threshold, -1, 1)
    if (config.csv is None) == (config.data is None):
        raise InputError("bad_arguments", "Give either --csv or --data.", "See --help.")
    refuse_overwrite(config.output_dir, marker=MARKER, overwrite=config.overwrite)
    inputs = (config.csv, config.image_base_path, config.data, config.classes, config.model)
    command.outside(config.output_dir, *inputs)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a dataset but for their pictures, part by part, and what is distinct among them."""

    table: pa.Table
    labels: NDArray[np.int64]  # [N]
    kinds: NDArray[np.object_]  # [N], "" for none
    categories: NDArray[np.object_]
    picture: NDArray[np.int64]  # [N] number of each pair's picture
    places: list[tuple[Path, int]]  # of each distinct picture: the Parquet file and the row in it
    words: NDArray[np.int64]  # [N] number of each pair's text
    texts: list[str]  # distinct, normalised

    @classmethod
    def read(cls, data: Path) -> "_Pairs":
        """Raises InputError (no_pairs, one_label)."""
        names = ["pair_id", "image_path", "image_sha256", "text", "label", "text_group", "metadata"]
        files = sorted((data / "pairs").glob("*.parquet"))
        parts = []
        for file in files:
            with pq.ParquetFile(file) as part:
                parts.append(part.read(columns=names))
        table = pa.concat_tables(parts)
        labels = table["label"].to_numpy().astype(np.int64)
        if not len(labels):
            raise InputError("no_pairs", f"{data} holds no pairs.", "See its rejects for the reasons.")
        if len(set(labels.tolist())) == 1:
            raise InputError(
                "one_label",
                f"All {len(labels)} pairs have the label {labels[0]}; metrics need matches and mismatches.",
                "Make mismatches of the matches: python -m data_jobs.make_mismatches --csv F --output G.",
            )
        everywhere = [
            (file, row) for file, part in zip(files, parts, strict=True) for row in range(len(part))
        ]
        pictures = Distinct.of(table["image_sha256"].to_pylist())
        normalised = [text.normalize(words) for words in table["text"].to_pylist()]
        texts = Distinct.of(normalised)
        metadata = [json.loads(values) for values in table["metadata"].to_pylist()]
        return cls(
            table=table.drop_columns(["metadata"]),
            labels=labels,
            kinds=np.array([str(values.get(KIND, "")) for values in metadata], object),
            categories=np.array([str(values.get(CATEGORY, "")) for values in metadata], object),
            picture=pictures.index,
            places=[everywhere[row] for row in pictures.first],
            words=texts.index,
            texts=[normalised[row] for row in texts.first],
        )

    def column(self, name: str) -> list[Any]:
        return self.table[name].to_pylist()

    def matched(self) -> Matched:
        rows = np.flatnonzero(self.labels == 1)
        return Matched(
            pictures=self.picture[rows].tolist(),
            texts=[self.texts[number] for number in self.words[rows]],
            groups=self.table["text_group"].take(rows).to_pylist(),
            categories=self.categories[rows].tolist(),
        )


class _Workers:
    """The model in Ray's worker processes: loaded once by each."""

    def __init__(self, model: str, device: str) -> None:
        device, gpus = placed(device)
        self._arguments = (model, uuid.uuid4().hex, device)  # another run may find other weights at the path
        self._options = {"num_gpus": gpus}
        self.spec: ModelSpec = ray.get(_spec_of.options(**self._options).remote(*self._arguments))

    def texts(self, texts: Sequence[str]) -> Any:
        """A reference to float32 [len(texts), D]."""
        return _embed_texts.options(**self._options).remote(*self._arguments, list(texts))

    def pictures(self, file: Path, rows: Sequence[int]) -> Any:
        """A reference to float32 [len(rows), D], of the pictures in rising `rows` of a Parquet file."""
        return _embed_pictures.options(**self._options).remote(*self._arguments, file.absolute(), list(rows))


@ray.remote(num_cpus=1)
def _spec_of(model: str, version: str, device: str) -> ModelSpec:
    return loaded(model, version, device).spec


@ray.remote(num_cpus=1, max_calls=KEPT)
def _embed_texts(model: str, version: str, device: str, texts: list[str]) -> Embeddings:
    return loaded(model, version, device).texts(texts)


@ray.remote(num_cpus=1, max_calls=KEPT)
def _embed_pictures(model: str, version: str, device: str, file: Path, rows: list[int]) -> Embeddings:
    encoder = loaded(model, version, device)
    pictures = _stored(file, rows)
    parts = []
    while batch := list(islice(pictures, encoder.batch_size)):
        parts.append(encoder.images([images.decode(data) for data in batch]))
    return np.concatenate(parts)


def _stored(file: Path, rows: Sequence[int]) -> Iterator[bytes]:
    """The pictures in `rows`, rising, of a Parquet file; only some are in memory at a time."""
    wanted, start = list(reversed(rows)), 0
    with pq.ParquetFile(file) as part:
        for batch in part.iter_batches(batch_size=64, columns=["image"]):
            while wanted and wanted[-1] < start + batch.num_rows:
                yield batch["image"][wanted.pop() - start].as_py()
            start += batch.num_rows
            if not wanted:
                return


def _ingested(config: Evaluate, folder: Path, spec: ModelSpec) -> Path:
    """The pairs of --csv as a dataset beside the output, where every node sees it; it goes when we are done."""
    assert config.csv is not None
    data = folder / "data"
    size = max(IMAGE_SIZE, spec.image_shortest)
    stream.pairs_of_csv(config.csv, data, image_base_path=config.image_base_path, image_size=size)
    return data


def _embedded(
    workers: _Workers, pairs: _Pairs, classes: Classes | None, size: int
) -> tuple[Embeddings, Embeddings]:
    """Distinct pictures [P, D]; distinct texts, and after them the classes, [T + K, D].

    Raises InputError (not_finite).
    """
    texts = pairs.texts + (classes.texts if classes else [])
    with progress.bar("evaluate", "embeddings", len(pairs.places) + len(texts)) as bar:
        pictures = [workers.pictures(file, rows) for file, rows in _by_file(pairs.places, size)]
        words = [workers.texts(texts[start : start + size]) for start in range(0, len(texts), size)]

        def gathered(references: list[Any]) -> Embeddings:
            parts = []
            for reference in references:
                parts.append(ray.get(reference))
                bar.update(len(parts[-1]))
            return np.concatenate(parts)

        found = gathered(pictures), gathered(words)
    for rows in found:
        if broken := int((~np.isfinite(rows).all(axis=1)).sum()):
            raise InputError(
                "not_finite",
                f"{broken} of {len(rows)} embeddings of the model are not finite.",
                "Its weights are broken; train with a lower learning rate.",
            )
    return found


def _by_file(places: Sequence[tuple[Path, int]], size: int) -> Iterator[tuple[Path, Sequence[int]]]:
    """At most `size` rows at a time, all of one file; `places` are in the order of files and rows."""
    for file, of_file in groupby(places, key=lambda place: place[0]):
        for rows in slices([row for _, row in of_file], size):
            yield file, rows


def _cosines(pictures: Embeddings, texts: Embeddings, pairs: _Pairs) -> NDArray[np.float32]:
    """Every pair's cosine, float32 [N]."""
    scores = np.empty(len(pairs.labels), np.float32)
    for start in range(0, len(scores), _SCORED_AT_ONCE):
        rows = slice(start, start + _SCORED_AT_ONCE)
        scores[rows] = np.einsum("nd,nd->n", pictures[pairs.picture[rows]], texts[pairs.words[rows]])
    return scores


def _measured(
    pairs: _Pairs,
    pictures: Embeddings,
    texts: Embeddings,
    scores: NDArray[np.float32],
    threshold: float,
    spec: ModelSpec,
    classes: Classes | None,
) -> dict[str, Any]:
    groups = pairs.matched().groups
    matches = pairs.labels == 1
    seen = list(dict.fromkeys(zip(pairs.picture[matches].tolist(), groups, strict=True)))
    said = list(dict.fromkeys(zip(pairs.words[matches].tolist(), groups, strict=True)))
    warnings: tuple[str, ...] = ()
    if spec.calibration is not None:
        warnings = drift.holds(scores, pairs.labels, spec.calibration, clusters=pairs.picture).warnings
    found = evaluation.measure(
        scores,
        pairs.labels,
        threshold,
        spec,
        kinds=pairs.kinds,
        categories=pairs.categories,
        clusters=pairs.picture,
    )
    zero_shot = None
    if classes is not None:
        zero_shot = evaluation.zero_shot(
            pictures[list(classes.right)], texts[len(pairs.texts) :], list(classes.right.values())
        )
        zero_shot["classes"] = classes.origin
    return found | {
        "n_pictures": len(pairs.places),
        "n_texts": len(pairs.texts),
        "retrieval": evaluation.retrieval_with_intervals(
            pictures[[number for number, _ in seen]],
            texts[[number for number, _ in said]],
            [group for _, group in seen],
            [group for _, group in said],
        ),
        "zero_shot": zero_shot,
        "warnings": list(warnings),
    }


def _seen_before(fingerprint: str, spec: ModelSpec) -> list[str]:
    """What to say where the model met these very pairs before."""
    met = {"trained": spec.data_fingerprint}
    if spec.calibration is not None:
        met["calibrated"] = spec.calibration.data_fingerprint
    return [
        f"These are the pairs that the model was {how} on, so its numbers here are too good. Evaluate it on others."
        for how, known in met.items()
        if known == fingerprint
    ]


def _threshold_from(config: Evaluate, spec: ModelSpec) -> str:
    if config.threshold is not None:
        return "flag"
    return "default" if spec.threshold is None else "model"


def _write_scores(
    path: Path, pairs: _Pairs, scores: NDArray[np.float32], threshold: float, spec: ModelSpec
) -> None:
    table = pairs.table.select(["image_path", "text", "label", "pair_id"]).to_pandas()
    table[KIND] = pairs.kinds
    if pairs.categories.any():
        table[CATEGORY] = pairs.categories
    table["score"], table["is_mismatch"] = scores, scores < threshold
    if spec.calibration is not None:
        table["match_probability"] = scoring.probability(scores, spec.calibration)
    table.sort_values(["score", "pair_id"]).to_csv(path, index=False)


def _cases(
    data: Path, pairs: _Pairs, scores: NDArray[np.float32], threshold: float, spec: ModelSpec
) -> dict[str, list[Case]]:
    """The worst verdicts, worst first: "false_matches" and "missed_matches", with their pictures."""
    order = np.argsort(scores, kind="stable")
    called = scores[order] >= threshold
    label = pairs.labels[order]
    rows = {
        "false_matches": order[called & (label == 0)][::-1][:MOST_CASES],
        "missed_matches": order[~called & (label == 1)][:MOST_CASES],
    }
    ids, paths, texts = (pairs.column(name) for name in ("pair_id", "image_path", "text"))
    wanted = {ids[row] for chosen in rows.values() for row in chosen}
    small = {pair_id: thumbnails.data_uri(image) for pair_id, image in thumbnails.stored(data, wanted)}

    def case(row: int) -> Case:
        score = float(scores[row])
        return Case(
            picture=small.get(ids[row]),
            image_path=paths[row],
            text=texts[row],
            score=score,
            probability=None
            if spec.calibration is None
            else float(scoring.probability(score, spec.calibration)),
            kind=pairs.kinds[row],
            category=pairs.categories[row],
        )

    return {name: [case(int(row)) for row in chosen] for name, chosen in rows.items()}


_ROWS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "ece": "calibration error",
    "brier": "Brier score",
}


def _summary(config: Evaluate, found: dict[str, Any], report: dict[str, Any]) -> str:
    """What the terminal shows: the numbers, then all that somebody must know about them."""
    origin = {"flag": "as given", "model": "the model's own", "default": "no model's own: the default"}
    lines = [
        f"{found['n']} pairs ({found['n_match']} matches) of {found['n_pictures']} pictures and {found['n_texts']} "
        f"texts; threshold {found['threshold']:.4f}, {origin[found['threshold_from']]}",
        *(_row(title, found, name) for name, title in _ROWS.items() if name in found),
    ]
    for kind, part in found["by_mismatch_kind"].items():
        lines.append(f"  mismatches {kind!r}: {part['n_mismatch']}, against all matches")
        lines += [_row(f"  {name}", part, name.lower()) for name in ("AUROC", "caught", "accuracy")]
    for way, title in (("image_to_text", "picture to text"), ("text_to_image", "text to picture")):
        lines += [_row(f"{title} @{k}", found["retrieval"], f"{way}_recall@{k}") for k in evaluation.KS]
    if (tested := found["zero_shot"]) is None:
        lines.append(
            f"  no zero-shot test: the matches have more than {MOST_CLASSES} texts; name some: --classes"
        )
    else:
        for k in (1, 5):
            chance = f"   chance {tested[f'chance_top{k}']:.3f}"
            lines.append(_row(f"zero-shot top-{k}", tested, f"top{k}") + chance)
        left_out = f"; {tested['n_left_out']} have no class among them" if tested["n_left_out"] else ""
        lines.append(
            f"    {tested['n']} pictures, {tested['n_classes']} classes: {tested['classes']}{left_out}"
        )
    if found["n_rejected"]:
        lines.append(f"rows left out: {found['n_rejected']}, listed in {config.output_dir}/rejects.csv")
        for reason in report["rejects"]["codes"]:
            first = reason["first"]
            place = f"{first['source']}:{first['line']}"
            lines.append(f"  {reason['code']}, {reason['count']}: {place}: {first['message']}")
    if "ece" not in found:
        lines.append("The model was never calibrated: it gives no probabilities.")
    lines += [f"WARNING: {warning}" for warning in found["warnings"]]
    return "\n".join([*lines, f"{config.output_dir}/report.html shows it, with the worst mistakes."])


def _row(title: str, found: dict[str, Any], name: str) -> str:
    value, (low, high) = found[name], found["intervals"][name]
    interval = "" if low is None else f"  {low:.3f} to {high:.3f}"
    if low is not None and low == high:
        interval += " (no draw of these pairs differs: more pairs would tell)"
    return f"  {title:22} {'-' if value is None else f'{value:.4f}'}{interval}"


if __name__ == "__main__":
    command.main(Evaluate, run, __doc__)
