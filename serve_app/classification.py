"""Which of these categories does a picture show? Prompts, default categories, and the softmax over them."""

import re
from collections.abc import Sequence

from data_jobs.errors import InputError
from train_jobs.arrays import Embeddings
from train_jobs.scoring import class_scores

PROMPT = "a photo of a {category}"

DEFAULT_CATEGORIES = (
    "t-shirt", "shirt", "dress", "skirt", "trousers", "jeans", "jacket", "coat", "sweater", "shoe", "boot",
    "sandal", "hat", "sock", "handbag", "backpack", "wallet", "watch", "necklace", "ring", "sunglasses", "umbrella",
    "mug", "plate", "bottle", "teapot", "knife", "pan", "vase", "lamp", "clock", "chair", "table", "sofa", "bed",
    "pillow", "towel", "book", "pen", "toy", "ball", "guitar", "phone", "laptop", "keyboard", "headphones", "camera",
    "fruit", "vegetable", "drink",
)  # fmt: skip


def prompts(categories: Sequence[str]) -> list[str]:
    """The texts that stand for the categories."""
    return [PROMPT.format(category=category) for category in categories]


def split_names(categories: str) -> tuple[str, ...]:
    """The non-empty names of a list with commas, Latin or Persian, in order."""
    return tuple(name.strip() for name in re.split("[,،]", categories) if name.strip())


def parse(categories: str | Sequence[str] | None, default: Sequence[str], limit: int) -> list[str]:
    """A request's categories, a list or comma-separated, each once; the default ones if there are none.

    Raises InputError (too_many_categories).
    """
    given = split_names(categories) if isinstance(categories, str) else categories or ()
    named = list(dict.fromkeys(given))
    if len(named) > limit:
        raise InputError(
            "too_many_categories", f"{len(named)} categories were given; the limit is {limit}.", "Send fewer."
        )
    return named or list(default)


def rank(
    image: Embeddings, classes: Embeddings, categories: Sequence[str], logit_scale: float, top_k: int
) -> list[tuple[str, float]]:
    """The `top_k` best categories with their softmax over all: image [D], classes [K, D], unit norm."""
    scores = class_scores(image, classes, logit_scale)
    best = (-scores).argsort(kind="stable")[:top_k]
    return [(categories[row], float(scores[row])) for row in best]
