"""Two models, or more, on exactly the same pairs: which is better, by how much, and how sure that is.

    python -m train_jobs.compare --model A --model B --csv test.csv [--image-base-path DIR] --output-dir OUT
    python -m train_jobs.compare --model zero_shot --model fine_tuned --csv test.csv \\
        --wise-ft 0 0.25 0.5 0.75 1 --save-best MODEL --output-dir OUT

The first model is the one that the others are held against. Rows that cannot be read are left out for all. Pairs are
scored by Ray tasks; pictures, not pairs, are resampled, the same ones for all models. A column `mismatch_kind` makes
the AUROC come apart by kind. Use pairs that no model was trained on or chosen by. OUT/compare.json has every metric and
difference with its 95 % interval; where rows of --csv could not be used, OUT/rejects.csv names them.

Exit code 0: it ran, whatever the verdict; 1: with --fail-if-worse, a model is worse than the first; 2: cannot run.
"""

import json
import shutil
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import tyro
from numpy.typing import NDArray

from data_jobs import command, dataset, progress
from data_jobs.artefacts import publish, refuse_overwrite, write_file
from data_jobs.errors import InputError
from data_jobs.session import connected, placed
from train_jobs import comparison, scoring
from train_jobs.arrays import Embeddings
from train_jobs.comparison import IMAGE_TO_TEXT, LESS_IS_BETTER, TEXT_TO_IMAGE, Comparison, Measured, Scored
from train_jobs.encoder import Encoder, loaded
from train_jobs.evaluation import places, without_nan
from train_jobs.hub import local_folder
from train_jobs.interpolation import interpolate, mixed, refuse_unlike
from train_jobs.pairdata import Distinct, PairData, embed_pictures, slices
from train_jobs.spec import Estimate, ModelSpec

MARKER = "compare.json"
KIND = "mismatch_kind"
IMAGE_SIZE = 256
"""Shortest side of the pictures that are kept of a CSV, unless a model sees more; as data_jobs.ingest's default."""
KEPT = 64
"""Tasks for which a process keeps its model, also on a GPU, before it ends."""


@dataclass(frozen=True)
class Compare:
    output_dir: Path
    """Where compare.json and, if need be, rejects.csv appear."""
    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Model directory or hub name; give the flag once for each model, the one to beat first."""
    csv: str | None = None
    """Labelled pairs: image_path,text,label and optionally mismatch_kind."""
    image_base_path: str | None = None
    """Folder that relative image paths start from."""
    data: Path | None = None
    """Dataset directory instead of --csv."""
    wise_ft: tuple[float, ...] = ()
    """Also try the weights (1 - alpha) * first + alpha * second, for these alphas; for a model and its fine-tune."""
    save_best: Path | None = None
    """Write the model of the alpha with the highest AUROC here, uncalibrated."""
    fail_if_worse: bool = False
    """Exit with 1 if a model is worse than the first beyond doubt."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    rows_per_task: int = 1024
    """Pictures, or texts, that one task embeds."""
    seed: int = 0
    """Of the resamples."""
    overwrite: bool = False
    """Replace earlier outputs."""


@dataclass(frozen=True)
class _Subject:
    """What is scored: a model directory, or a mixture of two."""

    model: str
    other: str | None = None
    alpha: float = 0.0

    def load(self, version: str, device: str) -> Encoder:
        """`version` is as in encoder.loaded: a process keeps what it loaded or mixed last."""
        if self.other is None:
            return loaded(self.model, version, device)
        return mixed(self.model, self.other, self.alpha, version, device)

    @classmethod
    def between(cls, a: str, b: str, alpha: float) -> "_Subject":
        """At either end the model itself, which need not be scored twice."""
        if alpha in (0, 1):
            return cls(b if alpha else a)
        return cls(a, b, alpha)


def run(config: Compare) -> int:
    """Score, compare, print, write; returns the exit code. Raises InputError."""
    _check(config)
    folders = [str(local_folder(name)[0].absolute()) for name in config.model]
    specs = _specs(config, folders)
    alphas = sorted(set(config.wise_ft))
    mixtures = [_Subject.between(folders[0], folders[1], alpha) for alpha in alphas]
    with publish(config.output_dir, marker=MARKER, overwrite=config.overwrite) as folder:
        data, kinds, left_out = _pairs(config, specs, folder)
        subjects = [_Subject(model) for model in folders]
        scored = _score(config, list(dict.fromkeys(subjects + mixtures)), data)
        judged = [_judged(scored[subject], spec) for subject, spec in zip(subjects, specs, strict=True)]
        found = comparison.measured(judged, data.labels, data.picture_ids, config.seed)
        verdicts = [
            _compared(config, judged[0], challenger, data, kinds, _letter(number))
            for number, challenger in enumerate(judged[1:], 1)
        ]
        result: dict[str, Any] = {
            "flags": asdict(config),
            "pairs": len(data),
            "matches": int(data.labels.sum()),
            "pictures": len(set(data.picture_ids)),
            "left_out": left_out,
            "data_fingerprint": data.fingerprint,
            "models": [
                {
                    "model": name,
                    "model_hash": spec.model_hash,
                    "threshold": scoring.threshold_for(spec),
                    "has_own_threshold": spec.threshold is not None,
                    "calibrated": spec.calibration is not None,
                    "prevalence": None if spec.calibration is None else spec.calibration.prevalence,
                    "metrics": _json(metrics),
                }
                for name, spec, metrics in zip(config.model, specs, found.models, strict=True)
            ],
            "comparisons": [
                {
                    "model": name,
                    **_comparison_json(verdicts[i][""]),
                    "differences": _json(found.differences[i]),
                    "by_mismatch_kind": {k: _comparison_json(c) for k, c in verdicts[i].items() if k},
                }
                for i, name in enumerate(config.model[1:])
            ],
        }
        _print(config, result, found, verdicts)
        if mixtures:
            result["wise_ft"] = _sweep(config, alphas, [scored[subject] for subject in mixtures], data)
            if config.save_best is not None:
                _save(config, result["wise_ft"]["best_alpha"])
        written = json.dumps(without_nan(result), indent=2, default=str, ensure_ascii=False, allow_nan=False)
        write_file(folder / MARKER, written)
    print(f"\n{config.output_dir}/{MARKER} has all intervals.")
    return int(config.fail_if_worse and any(by_kind[""].verdict == "worse" for by_kind in verdicts))


def _check(config: Compare) -> None:
    """Raise InputError for flags that cannot be, before any work."""
    command.positive("rows_per_task", config.rows_per_task)
    problem = None
    if len(config.model) < 2:
        problem = f"--model was given {len(config.model)} times; a comparison needs two models or more."
    elif (config.csv is None) == (config.data is None):
        problem = "Give either --csv or --data."
    elif config.wise_ft and len(config.model) != 2:
        problem = f"--wise-ft mixes two models; there are {len(config.model)}."
    elif not all(0 <= alpha <= 1 for alpha in config.wise_ft):
        problem = f"--wise-ft has {config.wise_ft}; every alpha must be within 0 and 1."
    elif config.save_best is not None and not config.wise_ft:
        problem = "--save-best saves the best of --wise-ft, which was not given."
    if problem is not None:
        raise InputError("bad_arguments", problem, "See --help.")
    refuse_overwrite(config.output_dir, marker=MARKER, overwrite=config.overwrite)
    command.outside(config.output_dir, config.csv, config.image_base_path, config.data, *config.model)
    if config.save_best is not None:
        if config.save_best.resolve().is_relative_to(config.output_dir.resolve()):
            raise InputError(
                "bad_arguments",
                f"--save-best {config.save_best} is inside --output-dir, which is replaced as a whole.",
                "Choose a directory beside it.",
            )
        refuse_overwrite(config.save_best, marker="config.json", overwrite=config.overwrite)
        command.outside(config.save_best, config.csv, config.image_base_path, config.data, *config.model)


def _specs(config: Compare, folders: Sequence[str]) -> list[ModelSpec]:
    """The models' facts; models that cannot be loaded, or mixed, are refused before the pictures are read."""
    if config.wise_ft:
        first, second = (Encoder.load(folder, "cpu") for folder in folders)
        refuse_unlike(first, second)
        return [first.spec, second.spec]
    return [Encoder.load(folder, "cpu").spec for folder in folders]


def _pairs(
    config: Compare, specs: Sequence[ModelSpec], folder: Path
) -> tuple[PairData, NDArray[np.str_], dict[str, int]]:
    """The pairs, each one's mismatch_kind ("" for none) and how many rows were left out, by reason."""
    source, left_out = config.data, {}
    if config.csv is not None:
        source = folder / "data"
        size = max(IMAGE_SIZE, *(spec.image_shortest for spec in specs))
        report = dataset.from_csv(config.csv, source, image_base_path=config.image_base_path, image_size=size)
        if report["pairs"]["rejected"]:
            left_out = report["codes"]
            (source / "rejects.csv").rename(folder / "rejects.csv")
            print(f"{config.csv}: left out for all models: {left_out}; see {config.output_dir}/rejects.csv")
    assert source is not None
    data = PairData.open(source)
    metadata = dataset.read_pairs(source, ["metadata"])["metadata"].to_pylist()
    if config.csv is not None:
        shutil.rmtree(source)
    return data, np.array([json.loads(cells).get(KIND, "") for cells in metadata]), left_out


def _score(config: Compare, subjects: Sequence[_Subject], data: PairData) -> dict[_Subject, Scored]:
    """Cosines of all pairs and what is found first, by subject. Each distinct picture and text is embedded once."""
    pictures, texts = Distinct.of(data.picture_ids), Distinct.of(data.texts)
    with (
        connected(),
        progress.bar("compare", "embedded", len(subjects) * (len(pictures.first) + len(texts.first))) as bar,
    ):
        device, gpus = placed(config.device)
        embed = _embed.options(num_gpus=gpus)
        version = uuid.uuid4().hex  # another run may find other weights at the path
        chunks = [
            [ray.put(data.take(rows)) for rows in slices(pictures.first, config.rows_per_task)],
            [ray.put(data.take(rows).texts) for rows in slices(texts.first, config.rows_per_task)],
        ]
        running = {
            subject: [[embed.remote(subject, version, device, chunk) for chunk in kind] for kind in chunks]
            for subject in subjects
        }
        scored = {}
        for subject in subjects:
            vectors = []
            for references in running.pop(subject):
                parts = []
                for reference in references:
                    parts.append(ray.get(reference))
                    bar.update(len(parts[-1]))
                vectors.append(np.concatenate(parts))
            scored[subject] = _scored(data, pictures, texts, *vectors)
    return scored


@ray.remote(num_cpus=1, max_calls=KEPT)
def _embed(subject: _Subject, version: str, device: str, what: PairData | list[str]) -> Embeddings:
    """The pictures of pairs, or texts: float32 [N, D]."""
    encoder = subject.load(version, device)
    if isinstance(what, PairData):
        return embed_pictures(encoder, what, range(len(what)))
    return encoder.texts(what)


def _scored(
    data: PairData, pictures: Distinct, texts: Distinct, image_rows: Embeddings, text_rows: Embeddings
) -> Scored:
    """Among the matches every distinct picture looks for a text, and every distinct text for a picture."""
    matches = np.flatnonzero(data.labels == 1)
    sides = []  # of pictures and of texts: rows that ask, embeddings, groups
    for distinct, vectors in ((pictures, image_rows), (texts, text_rows)):
        groups: dict[int, set[str]] = defaultdict(set)
        asking: dict[int, int] = {}
        for row in matches:
            number = int(distinct.index[row])
            groups[number].add(data.text_groups[row])
            asking.setdefault(number, int(row))
        sides.append((list(asking.values()), vectors[list(asking)], [groups[number] for number in asking]))
    hits = []
    for (rows, queries, wanted), (_, candidates, offered) in (sides, sides[::-1]):
        hit = np.full(len(data), np.nan)
        hit[rows] = places(queries, candidates, _right(wanted, offered)) == 0
        hits.append(hit)
    cosines = np.einsum("nd,nd->n", image_rows[pictures.index], text_rows[texts.index])
    return Scored(cosines, found_text=hits[0], found_image=hits[1])


def _right(wanted: Sequence[set[str]], offered: Sequence[set[str]]) -> list[NDArray[np.int64]]:
    """For each query's groups the candidates that are of one of them; its own match always is."""
    members: dict[str, list[int]] = defaultdict(list)
    for candidate, groups in enumerate(offered):
        for group in groups:
            members[group].append(candidate)
    return [np.unique([row for group in groups for row in members[group]]) for groups in wanted]


def _judged(scored: Scored, spec: ModelSpec) -> Scored:
    """With the model's own threshold and probabilities."""
    judged = replace(scored, threshold=scoring.threshold_for(spec))
    if spec.calibration is None:
        return judged
    return replace(
        judged,
        probabilities=scoring.probability(scored.scores, spec.calibration),
        prevalence=spec.calibration.prevalence,
    )


def _compared(
    config: Compare, first: Scored, other: Scored, data: PairData, kinds: NDArray[np.str_], name: str
) -> dict[str, Comparison]:
    """Of all pairs under "", and by kind of mismatch: each kind's mismatches against all matches."""
    clusters = np.array(data.picture_ids)
    found = {}
    for kind in ["", *sorted(set(kinds[data.labels == 0].tolist()) - {""})]:
        rows = (data.labels == 1) | (kinds == kind) if kind else np.full(len(data), True)
        found[kind] = comparison.compare(
            first.scores[rows], other.scores[rows], data.labels[rows], clusters[rows], config.seed, name
        )
    return found


def _sweep(
    config: Compare, alphas: Sequence[float], mixtures: Sequence[Scored], data: PairData
) -> dict[str, Any]:
    """Print how each mixture does; the table and the best alpha, for the JSON."""
    found = comparison.measured(mixtures, data.labels, data.picture_ids, config.seed).models
    best = max(range(len(alphas)), key=lambda i: found[i]["auroc"].value)  # of equals the one nearest to A
    print("\nWiSE-FT, (1 - alpha) * A + alpha * B")
    print(f"{'alpha':>7}  {'AUROC (95 %)':28}{IMAGE_TO_TEXT:>24}{TEXT_TO_IMAGE:>24}")
    for i, (alpha, metrics) in enumerate(zip(alphas, found, strict=True)):
        area, mark = metrics["auroc"], "  <- best here" if i == best else ""
        interval = f"{area.value:.4f} ({area.low:.4f} to {area.high:.4f})"
        recalls = "".join(f"{metrics[name].value:24.4f}" for name in (IMAGE_TO_TEXT, TEXT_TO_IMAGE))
        print(f"{alpha:7g}  {interval:28}{recalls}{mark}")
    print(
        f"Alpha {alphas[best]:g} was chosen on these very pairs, so its numbers are optimistic: measure it on others."
    )
    kept = ("auroc", "average_precision", IMAGE_TO_TEXT, TEXT_TO_IMAGE)
    return {
        "alphas": [
            {"alpha": alpha, "metrics": _json({name: metrics[name] for name in kept})}
            for alpha, metrics in zip(alphas, found, strict=True)
        ],
        "best_alpha": alphas[best],
        "chosen_on_these_pairs": True,
        "saved": config.save_best,
    }


def _save(config: Compare, alpha: float) -> None:
    assert config.save_best is not None
    first, second = config.model
    encoder = interpolate(Encoder.load(first, "cpu"), Encoder.load(second, "cpu"), alpha)
    if 0 < alpha < 1:
        encoder.spec = encoder.spec.replace(base_model=f"{1 - alpha:g} * {first} + {alpha:g} * {second}")
    encoder.save(config.save_best, overwrite=config.overwrite)
    if alpha in (0, 1):
        print(f"{config.save_best}: a copy of {config.model[int(alpha)]}, calibrated as that is.")
    else:
        print(
            f"{config.save_best}: alpha {alpha:g}, uncalibrated: no calibration or threshold carries over to mixed "
            f"weights. Its threshold is {scoring.DEFAULT_THRESHOLD} for now; train_jobs.calibrate gives it its own."
        )


def _print(
    config: Compare, result: dict[str, Any], found: Measured, verdicts: Sequence[dict[str, Comparison]]
) -> None:
    print(f"{result['pairs']} pairs, {result['matches']} of them matches, of {result['pictures']} pictures")
    for number, model in enumerate(result["models"]):
        own = "its own threshold" if model["has_own_threshold"] else "no threshold of its own: the default"
        calibrated = "" if model["calibrated"] else ", uncalibrated"
        print(f"  {_letter(number)}: {model['model']} ({own} {model['threshold']:.3f}{calibrated})")
    if len({f"{share:.0%}" for model in result["models"] if (share := model["prevalence"]) is not None}) > 1:
        print(
            "  Their probabilities are stated for other shares of matches: do not compare ECE and Brier score."
        )
    for i, by_kind in enumerate(verdicts):
        name = _letter(i + 1)
        print(f"\n{'':26}{'A':>9}{name:>9}   {name} - A (95 %)")
        for metric, difference in found.differences[i].items():
            hint = "  less is better" if metric in LESS_IS_BETTER else ""
            values = (found.models[0][metric].value, found.models[i + 1][metric].value)
            print(_line(metric.replace("_", " "), *values, difference) + hint)
        for kind, part in by_kind.items():
            if kind:
                print(_line(f"  auroc, {kind}", part.before, part.after, part.auroc))
        print(by_kind[""].sentence)
    if len(verdicts) > 1:
        print(f"Of {len(verdicts)} comparisons at 95 % each, one may well be luck.")


def _line(name: str, before: float, after: float, difference: Estimate) -> str:
    return f"{name:26}{before:9.4f}{after:9.4f}   {comparison.signed(difference)}"


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _json(estimates: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {**asdict(found), "sentence": found.sentence}


if __name__ == "__main__":
    command.main(Compare, run, __doc__)
