"""What a training tells of itself, and the tags under which its numbers are recorded.

It tells in events: plain dictionaries, since they cross process borders.

    start       resumed_step, steps, workers         workers begin after global step resumed_step (0: from nothing)
    step        epoch, epochs, step, steps, loss, learning_rate, logit_scale, samples_per_s, data_wait (share, 0..1),
                seconds (of training in this epoch so far)
    epoch       epoch, step, train_loss, val_auroc, val_recall, score, best (whether it is, so far), any further numbers
    checkpoint  step                                 the run can be resumed after this step
    message     text

Steps and epochs count from 1, steps over the whole run. Numbers that are not finite (a metric that was not asked for)
are not recorded. Workers that start again may send events that were sent before.
"""

import math
from collections.abc import Mapping
from typing import Any

_STEP_TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "logit_scale": "train/logit_scale",
    "samples_per_s": "speed/samples_per_s",
    "data_wait": "speed/data_wait",
}


def tagged(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step or epoch event by the tag that TensorBoard and MLflow show them under."""
    if event["kind"] == "step":
        return finite({tag: event[name] for name, tag in _STEP_TAGS.items() if name in event})
    named = {}
    for name, value in event.items():
        if name not in ("kind", "epoch", "step", "best"):
            measured = name == "score" or name.startswith("val_")
            named[f"val/{name.removeprefix('val_')}" if measured else f"epoch/{name}"] = value
    return finite(named)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that can be recorded."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
