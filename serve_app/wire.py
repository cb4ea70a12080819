"""From request bytes to checked texts and pixels: limits first, then decoding. Plain Python, no routes."""

import base64
import binascii
import math
import unicodedata

from data_jobs import images
from data_jobs.errors import InputError
from serve_app import contract
from train_jobs.arrays import Pixels
from train_jobs.spec import ModelSpec
from train_jobs.view import View


def checked_text(text: str | None, name: str = "text") -> str:
    """A text within the contract's limit. Raises InputError (empty_text, text_too_long)."""
    if text is None or all(letter.isspace() or unicodedata.category(letter) == "Cf" for letter in text):
        raise InputError("empty_text", f"The field {name!r} is empty or missing.", "Send a description.")
    if len(text) > contract.MAX_TEXT_CHARACTERS:
        raise InputError(
            "text_too_long",
            f"The field {name!r} has {len(text)} characters; the limit is {contract.MAX_TEXT_CHARACTERS}.",
            "Shorten it.",
        )
    return text


def checked_threshold(threshold: float | None) -> float | None:
    """A cosine or None. Raises InputError (bad_threshold)."""
    if threshold is not None and not (math.isfinite(threshold) and -1 <= threshold <= 1):
        raise InputError(
            "bad_threshold", f"The threshold is {threshold}; it is compared with a cosine.", "Use -1 to 1."
        )
    return threshold


def check_count(count: int, what: str = "items") -> None:
    """Raise InputError (bad_batch) for a request of none or too many."""
    if not 1 <= count <= contract.MAX_BATCH_ITEMS:
        raise InputError(
            "bad_batch",
            f"{count} {what}; the limit is 1 to {contract.MAX_BATCH_ITEMS}.",
            "Split them." if count else "Send at least one.",
        )


def check_size(size: int) -> None:
    """Raise InputError (file_too_large) for a picture file of too many bytes."""
    if size > contract.MAX_FILE_BYTES:
        raise InputError(
            "file_too_large",
            f"The picture file has {size:,} bytes; the limit is {contract.MAX_FILE_BYTES:,}.",
            "Send a smaller file.",
        )


def pixels(data: bytes, spec: ModelSpec) -> Pixels:
    """A picture file -> uint8 [S, S, 3] as the model sees it.

    Raises InputError (file_too_large, or any code of data_jobs.images.decode).
    """
    check_size(len(data))
    return View.of(spec).pixels(images.decode(data, target=spec.image_shortest))


def from_base64(value: str) -> bytes:
    """Base64, or a data URI of base64. Raises InputError (bad_base64, file_too_large)."""
    if value[:5].lower() == "data:":
        head, _, value = value.partition(",")
        if not head.lower().endswith(";base64"):
            raise InputError("bad_base64", f"The data URI {head[:60]!r} is not base64.", "Use ;base64.")
    try:
        data = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            "bad_base64", f"The picture is not base64 ({error}).", "Encode the file's bytes."
        ) from error
    check_size(len(data))
    return data
