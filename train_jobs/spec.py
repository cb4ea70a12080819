"""ModelSpec: the facts that travel with the weights, in `spec.json` beside them.

In the file every field is required: a fact that nobody wrote down is an error, not a default. A plain checkpoint
without `spec.json` gets its spec from its own configuration (`Encoder.load`).
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_jobs import text
from data_jobs.errors import InputError

FILE = "spec.json"
T = TypeVar("T")
FORMAT_VERSION = 2

Family = Literal["clip", "dual", "siglip", "siglip2"]
"""clip: transformers.CLIPModel; dual: VisionTextDualEncoderModel, any two towers; siglip: SiglipModel (SigLIP, and
SigLIP 2 of one resolution); siglip2: Siglip2Model (NaFlex), fed with square pictures."""

Resample = Literal["bicubic", "bilinear"]

QUANTILES = 21
"""How many quantiles of the cosines a calibration keeps: 0 %, 5 %, ... 100 %."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Cosine -> probability of a match, fitted on pairs used neither for training nor for choosing the checkpoint.

    platt: sigmoid(slope * cosine + intercept). isotonic: linear between `knots`, constant beyond them.
    """

    method: Literal["platt", "isotonic"]
    slope: float
    intercept: float
    knots: tuple[tuple[float, float], ...]  # isotonic: (cosine, probability), both rising; () for platt
    pairs: int
    sample_prevalence: float  # share of matches in those pairs, 0..1
    prevalence: float  # share of matches that probabilities are stated for; the same unless it was corrected
    ece: float  # expected calibration error of those pairs, cross-validated
    match_quantiles: tuple[float, ...]  # QUANTILES of the cosines of the matches, rising
    mismatch_quantiles: tuple[float, ...]
    data_fingerprint: str | None  # of the dataset the pairs came from

    def __post_init__(self) -> None:
        if not self.slope > 0:  # NaN neither
            raise ValueError(
                f"The calibration slope is {self.slope}; a higher cosine must mean a likelier match."
            )
        if (self.method == "isotonic") != bool(self.knots):
            raise ValueError(f"A calibration by {self.method} has {len(self.knots)} knots.")


@dataclass(frozen=True)
class Threshold:
    """Cosines below `value` are mismatches; `low`..`high` is a 95 % bootstrap interval of the choice.

    `precision` and `recall` (of "match", at `prevalence`) are what the threshold promises on pairs it never saw.
    """

    value: float
    low: float
    high: float
    policy: str  # youden, max-f1, precision=0.95, recall=0.95
    prevalence: float
    precision: Estimate
    recall: Estimate


@dataclass(frozen=True)
class ModelSpec:
    """What one must know to use the weights as they were trained."""

    base_model: str  # hub name, path or recipe that training started from
    base_revision: str | None
    family: Family
    embedding_dim: int  # D of every embedding
    image_size: int  # pixels, square input
    image_resize: Literal["crop", "squash"]  # shortest side + centre crop, or both sides at once
    image_shortest: int  # pixels of the shortest side before the crop; image_size for most, and for squash
    image_resample: Resample
    image_mean: tuple[float, float, float]  # of RGB in 0..1
    image_std: tuple[float, float, float]
    context_length: int  # tokens; longer texts are cut
    pad_to_context: (
        bool  # texts are padded to context_length and the padding is attended to, as SigLIP was trained
    )
    text_normalizer: str  # data_jobs.text.VERSION
    logit_scale: float  # multiplies cosines, not its logarithm
    logit_bias: float  # added to scaled cosines; 0 where the recipe learns none
    calibration: Calibration | None = None  # None: never calibrated
    threshold: Threshold | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # held-out, of the run that made the weights
    data_fingerprint: str | None = None  # of the training dataset's report.json
    weights_sha256: str | None = None  # of the weight files; None until saved

    def __post_init__(self) -> None:
        if self.text_normalizer != text.VERSION:
            raise InputError(
                "normalizer_mismatch",
                f"The model was made with text normaliser {self.text_normalizer!r}; "
                f"this is {text.VERSION!r}.",
                "Use the Catalens release it was made with, or train and index again.",
            )

    @property
    def model_hash(self) -> str:
        """Identifies the vectors this model makes: weights, preprocessing and normaliser (16 hex digits).

        Calibration, threshold and metrics are not part of it: they change no embedding.
        """
        facts = [
            self.weights_sha256, self.family, self.embedding_dim, self.image_size, self.image_resize,
            self.image_shortest, self.image_resample, self.image_mean, self.image_std, self.context_length,
            self.pad_to_context, self.text_normalizer,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        facts = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(facts, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: str, where: str = FILE) -> "ModelSpec":
        """Parse strictly. Raises InputError (bad_spec) that names each missing or unknown field."""
        try:
            facts = json.loads(content)
        except ValueError as error:
            raise _bad_spec(f"{where} is no JSON ({error}).") from error
        version = facts.pop("format_version", None) if isinstance(facts, dict) else None
        if version != FORMAT_VERSION:
            raise _bad_spec(f"{where} has format {version}; this is {FORMAT_VERSION}.")
        facts = _parsed(cls, facts, where)
        if facts["calibration"] is not None:
            facts["calibration"] = _part(Calibration, facts["calibration"], f"The calibration of {where}")
        if (threshold := facts["threshold"]) is not None:
            where = f"The threshold of {where}"
            threshold = _parsed(Threshold, threshold, where)
            for name in ("precision", "recall"):
                threshold[name] = _part(Estimate, threshold[name], f"{where}, {name},")
            facts["threshold"] = Threshold(**threshold)
        return cls(**facts)

    @classmethod
    def read(cls, folder: str | Path) -> "ModelSpec | None":
        """The spec beside the weights in `folder`, or None for a plain checkpoint."""
        path = Path(folder) / FILE
        return cls.from_json(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None

    def refuse_other_weights(self, folder: Path, found: str | None) -> None:
        """Raise InputError (weights_changed) unless `found`, the SHA-256 of those in `folder`, is what this is for."""
        if self.weights_sha256 != found:
            raise InputError(
                "weights_changed",
                f"The weights in {folder} have SHA-256 {found}; {FILE} was written for {self.weights_sha256}.",
                "Copy the whole model directory again, or train again.",
            )

    def replace(self, **changes: Any) -> "ModelSpec":
        return dataclasses.replace(self, **changes)


def _part(kind: type[T], facts: Any, where: str) -> T:
    parsed = _parsed(kind, facts, where)
    try:
        return kind(**parsed)
    except ValueError as error:
        raise _bad_spec(f"{where}: {error}") from error


def _parsed(kind: type, facts: Any, where: str) -> dict[str, Any]:
    """`facts` with tuples for JSON's lists. Raise InputError (bad_spec) unless it has `kind`'s fields and no other."""
    names = {field.name for field in dataclasses.fields(kind)}
    found = set(facts) if isinstance(facts, dict) else set()
    if found != names:
        raise _bad_spec(
            f"{where} lacks {sorted(names - found)}, and has the unknown fields {sorted(found - names)}."
        )
    return {name: _tupled(value) for name, value in facts.items()}


def _tupled(value: Any) -> Any:
    return tuple(_tupled(part) for part in value) if isinstance(value, list) else value


def _bad_spec(message: str) -> InputError:
    return InputError("bad_spec", message, "Use the Catalens release that wrote it, or train again.")
