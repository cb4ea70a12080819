"""Request bodies as JSON or as a form, for routes that take both: parsed, checked against one model, and documented.

A form's fields are the JSON's, with files for pictures; repeated fields are lists.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from data_jobs.errors import InputError

M = TypeVar("M", bound=BaseModel)

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MAX_FIELDS = 512
"""A batch of 64 has a text and a threshold for each file."""
MAX_VALUES = 200_000
"""Of a JSON body: commas in 64 texts and an embedding's numbers are far fewer."""
MAX_FAULTS = 100
"""Found in a body that are looked at: pydantic makes an object of each, which takes 2 s for 200,000."""
MAX_FIELD_BYTES = 16 * 1024 * 1024
"""A picture may come as base64 in a field."""


def is_form(request: Request) -> bool:
    """Whether the body says that it is a form."""
    return request.headers.get("content-type", "").lower().startswith(_FORMS)


async def form(request: Request) -> FormData:
    """The form's fields and files. Raises InputError (bad_request) for a body that is none."""
    try:
        fields = await request.form(
            max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
        for name, value in fields.multi_items():  # UTF-7 and its like yield halves of surrogate pairs
            f"{name}{value.filename if isinstance(value, UploadFile) else value}".encode()
        return fields
    except Exception as error:  # Starlette's HTTPException, python-multipart's own, decoding errors
        detail = getattr(error, "detail", None) or "the form breaks off or is malformed"
        raise InputError("bad_request", f"The form cannot be read: {detail}.", "See /docs.") from error


async def json(request: Request, model: type[M]) -> M:
    """The body as `model`. Raises RequestValidationError, InputError (too_many_values, too_many_faults)."""
    body = await request.body()
    values = sum(body.count(sign) for sign in (b",", b"[", b"{"))
    if values > MAX_VALUES:  # parsed, 64 MB of small values would take gigabytes
        raise InputError(
            "too_many_values",
            f"The body has about {values:,} values; the limit is {MAX_VALUES:,}.",
            "Send fewer items at once.",
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error) from error


def checked(model: type[M], values: dict[str, Any]) -> M:
    """A form's plain fields as `model`. Raises RequestValidationError, InputError (too_many_faults)."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refused(error) from error


def text(fields: FormData, name: str) -> str | None:
    """A plain field, None where there is none. Raises InputError (bad_request) for a file."""
    value = fields.get(name)
    if isinstance(value, UploadFile):
        raise InputError("bad_request", f"The field {name!r} is a file.", "Send it as a plain field.")
    return value or None


def file(fields: FormData, *names: str) -> UploadFile:
    """The one file under any of `names`. Raises InputError (bad_request)."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, UploadFile):
            return value
        if value is not None:
            raise InputError("bad_request", f"The field {name!r} is not a file.", "Upload a file in it.")
    raise InputError(
        "bad_request", f"{names[0]}: Field required (got None).", "Upload a picture in this field."
    )


def documented(
    model: type[BaseModel], fields: dict[str, Any] | None = None, required: Sequence[str] = ()
) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its own body: `model` as JSON, or a form with `fields`."""
    schema = _inlined(model.model_json_schema())
    example = schema.pop("examples")[0]
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
    if fields is not None:
        form_schema = {"type": "object", "properties": fields, "required": list(required)}
        content = {"multipart/form-data": {"schema": form_schema}, **content}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any] | None = None) -> Any:
    """`schema` with what it refers to in place: a route's own body is not among FastAPI's components."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = schema.get("$defs", definitions)
    if "$ref" in schema:
        assert definitions is not None
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


def said(fault: Mapping[str, Any], whole: str, *, value: bool = True) -> str:
    """One of pydantic's faults in words: where (`whole`: in all of it), what, and the value, never of any length."""
    where = ".".join(str(part) for part in fault["loc"] if part != "body")[:100] or whole
    got = f" (got {reprlib.repr(fault.get('input'))[:80]})" if value else ""
    return f"{where}: {fault['msg']}{got}"


def _refused(error: ValidationError) -> RequestValidationError | InputError:
    if error.error_count() > MAX_FAULTS:
        return too_many_faults(error)
    found = error.errors(include_url=False)
    return RequestValidationError([{**part, "loc": ("body", *part["loc"])} for part in found])


def too_many_faults(error: ValidationError) -> InputError:
    """Instead of any of them."""
    return InputError(
        "too_many_faults",
        f"There are {error.error_count():,} faults in it; they are named up to {MAX_FAULTS}.",
        "See /docs for the fields.",
    )
