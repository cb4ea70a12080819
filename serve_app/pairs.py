"""The items of a batch, each by itself: a pair that can be judged, or the reason why it cannot."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from data_jobs.errors import InputError
from serve_app import contract, forms, wire
from serve_app.pictures import PictureSource


@dataclass(frozen=True)
class Pair:
    """A picture file and a checked text."""

    index: int  # its place in the request
    image_path: str | None  # as the request named the picture
    picture: bytes
    text: str
    threshold: float | None


async def from_items(items: Sequence[Any], source: PictureSource) -> list[Pair | contract.BatchError]:
    """The items of a JSON batch. Raises InputError (bad_batch) for too many or none."""
    wire.check_count(len(items))
    return await asyncio.gather(*(_of_item(index, item, source) for index, item in enumerate(items)))


async def from_form(fields: FormData, source: PictureSource) -> list[Pair | contract.BatchError]:
    """The `files` and `texts` of a form. Raises InputError (bad_batch, bad_request, bad_threshold)."""
    files, texts = fields.getlist("files"), fields.getlist("texts")
    if len(files) != len(texts):
        raise InputError(
            "bad_batch",
            f"There are {len(files)} files and {len(texts)} texts.",
            "Send one text for each file.",
        )
    wire.check_count(len(files))
    common = forms.checked(_Common, {"threshold": forms.text(fields, "threshold")})
    threshold = wire.checked_threshold(common.threshold)
    return [
        await _of_file(index, file, text, threshold, source)
        for index, (file, text) in enumerate(zip(files, texts, strict=True))
    ]


def failure(index: int, error: InputError, image_path: str | None) -> contract.BatchError:
    """What is told of an item that cannot be judged."""
    return contract.BatchError(
        index=index, error=error.message, image_path=image_path, code=error.code, suggestion=error.suggestion
    )


class _Common(BaseModel):
    threshold: float | None = None


async def _of_item(index: int, item: Any, source: PictureSource) -> Pair | contract.BatchError:
    name = None
    try:
        if isinstance(item, dict):
            named = item.get("image_path") or item.get("image_url")
            name = named if isinstance(named, str) else None
        asked = contract.Item.model_validate(item)
        text, threshold = wire.checked_text(asked.text), wire.checked_threshold(asked.threshold)
        picture = await source.of(asked.image, asked.image_url, asked.image_path)
    except ValidationError as error:
        return failure(index, _fault(error), name)
    except InputError as error:
        return failure(index, error, name)
    return Pair(index, name, picture, text, threshold)


def _fault(error: ValidationError) -> InputError:
    if error.error_count() > forms.MAX_FAULTS:
        return forms.too_many_faults(error)
    first = error.errors(include_url=False)[0]
    return InputError("bad_item", f"{forms.said(first, 'the item')}.", "See /docs for the fields.")


async def _of_file(
    index: int, file: Any, text: Any, threshold: float | None, source: PictureSource
) -> Pair | contract.BatchError:
    name = file.filename if isinstance(file, UploadFile) else None
    try:
        if not isinstance(file, UploadFile) or not isinstance(text, str):
            raise InputError("bad_item", "`files` takes files and `texts` plain fields.", "See /docs.")
        checked = wire.checked_text(text)
        return Pair(index, name, await source.uploaded(file), checked, threshold)
    except InputError as error:
        return failure(index, error, name)
