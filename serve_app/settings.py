"""Deployment settings: serve_config.yaml `args`, overridden at start by the contract's environment variables.

README.md, "Settings", has a table of all of them with their variables.

Variables are read when the application is built, from the environment and from a `.env` file in the working
directory; the environment wins.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from data_jobs.errors import InputError
from serve_app.classification import DEFAULT_CATEGORIES, split_names
from train_jobs.hub import DEFAULT_MODEL


class ServeArgs(BaseModel):
    """`args` of an application in serve_config.yaml. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = DEFAULT_MODEL
    model_name: str = ""
    models: dict[str, str] = {}
    index: str | None = None
    indexes: dict[str, str] = {}
    shadow_rate: float = Field(default=0.001, ge=0, le=1)
    threshold: float | None = Field(default=None, ge=-1, le=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    backend: Literal[
        "auto", "torch-float32", "torch-float16", "torch-bfloat16",
        "openvino-float32", "openvino-bfloat16", "openvino-int8",
    ] = "auto"  # fmt: skip
    threads: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1, le=1024)
    batch_tokens: int = Field(default=4096, ge=1)
    waiting_pictures: int = Field(default=128, ge=1)
    waiting_tokens: int = Field(default=32768, ge=1)
    waiting_s: float = Field(default=10, gt=0)
    deadline_s: float = Field(default=25, gt=0)
    most_requests: int = Field(default=192, ge=1)
    cache_mb: float = Field(default=64, ge=0)
    categories: tuple[str, ...] = Field(default=DEFAULT_CATEGORIES, min_length=1)
    image_root: str | None = None
    image_url_hosts: tuple[str, ...] = ()
    image_url_networks: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = Field(default=(), repr=False)
    rate_per_s: float | None = Field(default=None, gt=0)
    rate_burst: float = Field(default=128, ge=1)
    cors_origins: tuple[str, ...] = ()


def parse(given: Mapping[str, Any]) -> ServeArgs:
    """`args` as a configuration file gives them. Raises InputError (bad_settings), which names the first bad one."""
    try:
        return ServeArgs.model_validate(given)
    except ValidationError as error:
        raise _bad(error) from None


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
    clip_api_keys: str | None = Field(default=None, repr=False)


def environment() -> Environment:
    """The variables that are set. Raises InputError (bad_settings)."""
    try:
        return Environment()
    except ValidationError as error:
        raise _bad(error) from None


def resolve(args: ServeArgs, environment: Environment) -> ServeArgs:
    """`args` with every variable that is set laid over it; local paths made absolute.

    Raises InputError (bad_settings).
    """
    labels = environment.clip_zero_shot_labels
    laid_over = {
        "model": environment.clip_model_path or environment.clip_model_name,
        "index": environment.clip_index_path,
        "threshold": environment.clip_similarity_threshold,
        "device": "cpu" if environment.clip_force_cpu else environment.clip_device,
        "batch_size": environment.clip_batch_size,
        "categories": split_names(labels) if labels else None,
        "api_keys": split_names(environment.clip_api_keys) if environment.clip_api_keys else None,
    }
    changes = {name: value for name, value in laid_over.items() if value is not None}
    settings = parse({**args.model_dump(), **changes})
    first = {} if settings.index is None else {Path(settings.index).name: settings.index}
    return settings.model_copy(
        update={
            "model": _absolute(settings.model),
            "model_name": settings.model_name or _name_of(settings.model),
            "models": {name: _absolute(path) for name, path in settings.models.items()},
            "indexes": {name: _absolute(path) for name, path in {**first, **settings.indexes}.items()},
        }
    )


def _bad(error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, ServeArgs.model_fields, 1)
        return InputError(
            "bad_settings",
            f"There is no setting {name!r}.",
            f"Do you mean {near[0]}?" if near else f"There are {', '.join(ServeArgs.model_fields)}.",
        )
    value = "" if "api_keys" in name else f" (got {first['input']!r})"  # keys are secret
    return InputError(
        "bad_settings", f"{name}: {first['msg']}{value}.", "README.md, Settings, tells what each may be."
    )


def _absolute(path: str) -> str:
    """A directory's absolute path; a hub name as it is."""
    return str(Path(path).absolute()) if Path(path).is_dir() else path


def _name_of(model: str) -> str:
    """What a model is called in answers: a hub name, or a directory's name, but never where it lies."""
    return Path(model).name if Path(model).is_dir() else model
