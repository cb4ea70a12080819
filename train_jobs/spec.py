"""ModelSpec: the facts that travel with the weights, in `spec.json` beside them.

Every field is required: a fact that nobody wrote down is an error, not a default. A plain checkpoint without
`spec.json` gets its spec from its own configuration (`Encoder.load`).
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_jobs import text
from data_jobs.errors import InputError

FILE = "spec.json"
FORMAT_VERSION = 1

Family = Literal["clip", "dual"]
"""clip: transformers.CLIPModel; dual: transformers.VisionTextDualEncoderModel, any two towers."""


@dataclass(frozen=True)
class Calibration:
    """match probability = sigmoid(slope * cosine + intercept), fitted on `pairs` held-out pairs."""

    method: Literal["platt"]
    slope: float
    intercept: float
    pairs: int
    prevalence: float  # share of matches in those pairs, 0..1

    def __post_init__(self) -> None:
        if not self.slope > 0:  # NaN neither
            raise ValueError(
                f"The calibration slope is {self.slope}; a higher cosine must mean a likelier match."
            )


@dataclass(frozen=True)
class Threshold:
    """Cosines below `value` are mismatches; `low`..`high` is a 95 % bootstrap interval of the choice."""

    value: float
    policy: str
    low: float
    high: float


@dataclass(frozen=True)
class ModelSpec:
    """What one must know to use the weights as they were trained."""

    base_model: str  # hub name, path or recipe that training started from
    base_revision: str | None
    family: Family
    embedding_dim: int  # D of every embedding
    image_size: int  # pixels, square input
    image_resize: Literal["crop", "squash"]  # shortest side + centre crop, or both sides at once
    image_mean: tuple[float, float, float]  # of RGB in 0..1
    image_std: tuple[float, float, float]
    context_length: int  # tokens; longer texts are cut
    text_normalizer: str  # data_jobs.text.VERSION
    logit_scale: float  # multiplies cosines, not its logarithm
    logit_bias: float  # added to scaled cosines; 0 where the recipe learns none
    calibration: Calibration | None  # None: never calibrated
    threshold: Threshold | None
    metrics: dict[str, float]  # held-out, of the run that made the weights
    data_fingerprint: str | None  # of the training dataset's report.json
    weights_sha256: str | None  # of the weight files; None until saved

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
            self.image_mean, self.image_std, self.context_length, self.text_normalizer,
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
        _require_fields(cls, facts, where)
        for name, part in (("calibration", Calibration), ("threshold", Threshold)):
            if facts[name] is not None:
                _require_fields(part, facts[name], f"The {name} of {where}")
                try:
                    facts[name] = part(**facts[name])
                except ValueError as error:
                    raise _bad_spec(f"{where}: {error}") from error
        for name in ("image_mean", "image_std"):
            facts[name] = tuple(facts[name])
        return cls(**facts)

    @classmethod
    def read(cls, folder: str | Path) -> "ModelSpec | None":
        """The spec beside the weights in `folder`, or None for a plain checkpoint."""
        path = Path(folder) / FILE
        return cls.from_json(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None

    def replace(self, **changes: Any) -> "ModelSpec":
        return dataclasses.replace(self, **changes)


def _require_fields(kind: type, facts: Any, where: str) -> None:
    """Raise InputError (bad_spec) unless `facts` has the fields of the dataclass `kind`, all and no other."""
    names = {field.name for field in dataclasses.fields(kind)}
    found = set(facts) if isinstance(facts, dict) else set()
    if found != names:
        raise _bad_spec(
            f"{where} lacks {sorted(names - found)}, and has the unknown fields {sorted(found - names)}."
        )


def _bad_spec(message: str) -> InputError:
    return InputError("bad_spec", message, "Use the Catalens release that wrote it, or train again.")
