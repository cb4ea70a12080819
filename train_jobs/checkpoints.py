"""The parts of a checkpoint directory: configuration, weights, image processor, as transformers loads them.

Whatever a checkpoint lacks is an InputError that names it: transformers would go on with random numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    PreTrainedModel,
)
from transformers.utils import logging

from data_jobs.errors import InputError


def config(folder: Path) -> Any:
    """The transformers configuration in `folder`. Raises InputError (unsupported_model)."""
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError) as error:
        raise InputError(
            "unsupported_model",
            f"transformers does not know the model in {folder}: {str(error).splitlines()[0]}",
            "Use a checkpoint whose config.json names a model_type.",
        ) from error


def load(kind: Any, folder: Path, *, new: str | None = None) -> PreTrainedModel:
    """The weights in `folder` as a float32 model of `kind`, a transformers model class.

    Raises InputError (incomplete_weights) if a parameter is missing, except those with `new` in their names, which are
    initialised.
    """
    try:
        with quiet():
            model, found = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except SafetensorError as error:
        raise InputError(
            "incomplete_weights",
            f"The weights in {folder} cannot be read: {error}.",
            "Copy or download the whole model directory again.",
        ) from error
    missing = sorted(name for name in found["missing_keys"] if new is None or new not in name)
    if missing:
        raise InputError(
            "incomplete_weights",
            f"The weights in {folder} lack {len(missing)} parameters of a {type(model).__name__}, "
            f"such as {missing[0]}.",
            "Use a checkpoint of the whole model.",
        )
    return model


def image_processor(folder: Path) -> Any:
    """The image processor in `folder`. Raises InputError (no_processor)."""
    try:
        return AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            "no_processor",
            f"The image processor in {folder} cannot be used: {str(error).strip().splitlines()[0]}",
            "Copy the checkpoint's preprocessor_config.json there.",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars off the screen for the block."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
