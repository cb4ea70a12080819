"""WiSE-FT (Wortsman et al. 2022): the weights between a model and its fine-tune, (1 - alpha) * A + alpha * B.

Somewhere between the two often lies a model that is better than both, on the fine-tune's pictures and on others. That
holds where B was fine-tuned from A; between two that were trained apart lies nothing of use. Statistics of batch
normalisation are interpolated as the weights are, not measured again.
"""

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from data_jobs.errors import InputError
from train_jobs.encoder import Encoder

_FACTS = (
    "family", "embedding_dim", "image_size", "image_resize", "image_shortest", "image_resample", "image_mean",
    "image_std", "context_length", "pad_to_context",
)  # fmt: skip
"""Fields of the spec that both models must share: what is done to a picture and a text before the towers."""

_OF_A_FILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_OF_TRAINING = (
    "dropout",
    "initializer",
    "init_value",
    "layerdrop",
)  # parts of names; they change no embedding

_PROBES = (
    "A brown dotted bottle, 500 ml (2-pack): don't miss it!",
    "ماگ قرمز می‌خواهم، ۵۰۰ میلی‌لیتر",
    "naïve ÉTUDE 茶 🫖 x2\tabc-DEF_123",
)
"""Equal vocabularies can still cut texts differently (merges, lower-casing); these would show it."""


@lru_cache(maxsize=1)
def mixed(a: str, b: str, alpha: float, version: str, device: str) -> Encoder:
    """The interpolation of the models at two paths, once in a process for tasks that follow one another.

    `version` is as in encoder.loaded.
    """
    return interpolate(Encoder.load(a, device), Encoder.load(b, device), alpha)


def interpolate(a: Encoder, b: Encoder, alpha: float) -> Encoder:
    """(1 - alpha) * a + alpha * b, on b's device; `a` and `b` stay as they are and share b's tokenizer with it.

    Every floating tensor is interpolated: weights, batch-norm statistics, the logarithm of the logit scale, the bias.
    Integer tensors (positions, counters) are b's. Calibration and threshold do not carry over, nor do metrics: they are
    None. But alpha 0 is `a` and alpha 1 is `b`, with all their facts.

    Raises InputError: bad_arguments (alpha outside 0..1), not_the_same_architecture.
    """
    if not 0 <= alpha <= 1:
        raise InputError(
            "bad_arguments", f"alpha is {alpha}; it must be within 0 and 1.", "Give another alpha."
        )
    refuse_unlike(a, b)
    other = a.towers.state_dict()
    weights = {
        name: torch.lerp(other[name].to(ours.device), ours, alpha) if ours.is_floating_point() else ours
        for name, ours in b.towers.state_dict().items()
    }
    between = copy.copy(b)
    between.towers = copy.deepcopy(b.towers)
    between.towers.load_state_dict(weights)
    if alpha in (0, 1):
        between.spec = a.spec if alpha == 0 else b.spec
        return between
    fingerprints = {encoder.spec.data_fingerprint for encoder in (a, b)} - {None}
    between.spec = b.spec.replace(
        base_model=f"{1 - alpha:g} * ({a.spec.base_model}) + {alpha:g} * ({b.spec.base_model})",
        base_revision=None,
        logit_scale=a.spec.logit_scale ** (1 - alpha) * b.spec.logit_scale**alpha,
        logit_bias=between.towers.logit_bias.item(),
        calibration=None,
        threshold=None,
        metrics={},
        data_fingerprint=fingerprints.pop() if len(fingerprints) == 1 else None,
        weights_sha256=None,
    )
    return between


def refuse_unlike(a: Encoder, b: Encoder) -> None:
    """Raise InputError (not_the_same_architecture), naming the first difference, unless weights can be mixed."""
    for what, ours, theirs in _differences(a, b):
        raise InputError(
            "not_the_same_architecture",
            f"The models differ in {what}: {str(ours)[:80]} and {str(theirs)[:80]}.",
            "Interpolate a model and its own fine-tune.",
        )


def _differences(a: Encoder, b: Encoder) -> Iterator[tuple[str, Any, Any]]:
    """(what, a's, b's): the facts of the spec, the configuration, the tensors, the tokenizer."""
    for name in _FACTS:
        ours, theirs = getattr(a.spec, name), getattr(b.spec, name)
        if ours != theirs:
            yield name, ours, theirs
    configs = [dict(_flat(encoder.towers.model.config.to_dict())) for encoder in (a, b)]
    for name in sorted(configs[0].keys() | configs[1].keys()):
        ours, theirs = (config.get(name) for config in configs)
        if ours != theirs:
            yield f"config.json's {name}", ours, theirs
    shapes = [{n: tuple(t.shape) for n, t in encoder.towers.state_dict().items()} for encoder in (a, b)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        ours, theirs = (shape.get(name, "nothing") for shape in shapes)
        if ours != theirs:
            yield f"the tensor {name}", ours, theirs
    words, others = a.tokenizer.get_vocab(), b.tokenizer.get_vocab()
    if words != others:
        only = sorted(words.items() ^ others.items())[0][0]
        yield f"the tokenizer's {only!r}", words.get(only, "nothing"), others.get(only, "nothing")
    for probe, ours, theirs in zip(_PROBES, a.token_ids(_PROBES), b.token_ids(_PROBES), strict=True):
        if ours != theirs:
            yield f"how they cut {probe!r} into tokens", ours, theirs


def _flat(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that change what a model computes, nested names joined by dots."""
    for key, value in config.items():
        name = str(key)  # id2label has numbers for keys
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in _OF_A_FILE and not any(part in name for part in _OF_TRAINING):
            yield prefix + name, value
