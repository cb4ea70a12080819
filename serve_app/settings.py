"""Deployment settings: serve_config.yaml `args`, overridden at start by the contract's environment variables.

| `args`           | environment                          | meaning                                             |
|------------------|--------------------------------------|-----------------------------------------------------|
| model            | CLIP_MODEL_PATH, CLIP_MODEL_NAME     | model directory (wins) or hub name                  |
| index            | CLIP_INDEX_PATH                      | index directory of train_jobs.build_index           |
| threshold        | CLIP_SIMILARITY_THRESHOLD            | cosine; default: the model's calibrated threshold   |
| device           | CLIP_DEVICE, CLIP_FORCE_CPU          | auto, cpu, cuda, mps                                |
| batch_size       | CLIP_BATCH_SIZE                      | most items in one forward pass                      |
| batch_wait_ms    |                                      | how long a lone request waits for company           |
| categories       | CLIP_ZERO_SHOT_LABELS                | default classes, comma-separated in the environment |

Variables are read when the application is built, from the environment and from a `.env` file in the working
directory; the environment wins.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve_app.classification import DEFAULT_CATEGORIES, split_names
from train_jobs.checkpoints import DEFAULT_MODEL


class ServeArgs(BaseModel):
    """`args` of an application in serve_config.yaml. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = DEFAULT_MODEL
    index: str | None = None
    threshold: float | None = Field(default=None, ge=-1, le=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    batch_size: int = Field(default=32, ge=1, le=1024)
    batch_wait_ms: float = Field(default=0, ge=0, le=1000)
    categories: tuple[str, ...] = Field(default=DEFAULT_CATEGORIES, min_length=1)


class Environment(BaseSettings):
    """The contract's variables; None where unset."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    clip_model_path: str | None = None
    clip_model_name: str | None = None
    clip_index_path: str | None = None
    clip_similarity_threshold: float | None = Field(default=None, ge=-1, le=1)
    clip_device: str | None = None
    clip_force_cpu: bool = False
    clip_batch_size: int | None = Field(default=None, ge=1, le=1024)
    clip_zero_shot_labels: str | None = None


def resolve(args: ServeArgs, environment: Environment) -> ServeArgs:
    """`args` with every variable that is set laid over it; local paths made absolute."""
    labels = environment.clip_zero_shot_labels
    laid_over = {
        "model": environment.clip_model_path or environment.clip_model_name,
        "index": environment.clip_index_path,
        "threshold": environment.clip_similarity_threshold,
        "device": "cpu" if environment.clip_force_cpu else environment.clip_device,
        "batch_size": environment.clip_batch_size,
        "categories": split_names(labels) if labels else None,
    }
    changes = {name: value for name, value in laid_over.items() if value is not None}
    settings = ServeArgs.model_validate({**args.model_dump(), **changes})
    paths = {
        name: str(Path(value).absolute())
        for name, value in (("model", settings.model), ("index", settings.index))
        if value is not None and Path(value).is_dir()
    }
    return settings.model_copy(update=paths)
