"""Bodies that are JSON or a form: both are read into plain values, within limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from videogen.server.service import ApiError

MAX_FIELDS = 50
UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
                }
            }
        },
    }
}


async def read_form(request: Request, file_field: str, known: Sequence[str] = ()) -> tuple[bytes, str, dict[str, str]]:
    """One file and the fields beside it: bytes, file name, fields.

    Raises:
        ApiError: no form, no such file, or a field that nobody knows.
    """
    fields, uploads = await read_fields(request)
    if set(uploads) != {file_field} or set(fields) - set(known):
        unknown = sorted((set(uploads) | set(fields)) - {file_field, *known})
        raise ApiError(
            422,
            "invalid_request",
            f"`{file_field}` must be a file in a multipart form"
            + (
                f"; `{unknown[0][:60]}` is not known."
                if unknown
                else f" with {', '.join(known) or 'nothing'} beside it."
            ),
            unknown[0] if unknown else file_field,
        )
    content, name = uploads[file_field]
    return content, name, fields


async def read_fields(request: Request) -> tuple[dict[str, str], dict[str, tuple[bytes, str]]]:
    """The text fields and the files (bytes, name) of a form.

    Raises:
        ApiError: not a form, or the same field twice.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise ApiError(422, "invalid_request", f"the body must be multipart/form-data, got {kind[:60] or 'nothing'}.")
    limit = request.app.state.service.settings.max_body_bytes
    fields: dict[str, str] = {}
    uploads: dict[str, tuple[bytes, str]] = {}
    try:
        async with request.form(max_files=4, max_fields=MAX_FIELDS, max_part_size=limit) as form:
            for name, value in form.multi_items():
                if name in fields or name in uploads:
                    raise ApiError(422, "invalid_request", f"`{name[:60]}` must be given once.", name)
                if isinstance(value, UploadFile):
                    uploads[name] = (await value.read(), value.filename or "upload")
                else:
                    fields[name] = value
    except HTTPException as error:
        raise ApiError(400, "invalid_request", f"the form cannot be read: {error.detail}") from None
    except (ValueError, KeyError, UnicodeError, LookupError):
        raise ApiError(400, "invalid_request", "the form cannot be read.") from None
    return fields, uploads


async def read_json(request: Request) -> dict[str, Any]:
    """The object in a JSON body.

    Raises:
        ApiError: not one.
    """
    try:
        content = json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_request", "the body must be valid JSON.") from None
    if not isinstance(content, dict):
        raise ApiError(422, "invalid_request", "the body must be a JSON object.")
    return content


def validated(model: type[BaseModel], content: Any) -> Any:
    """`content` as `model`.

    Raises:
        ApiError: it does not fit.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise validation_error(error.errors()) from None


def validation_error(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's complaints, in our words."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    name = ".".join(place) or "body"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not known here; leave it out"
    elif first["type"] == "missing":
        message = "must be given"
    elif first["type"] == "json_invalid":
        name, message = "body", "must be valid JSON"
    else:
        message = message[:1].lower() + message[1:]
    return ApiError(422, "invalid_request", f"`{name[:100]}` {message}.", name[:100])


def _no_constant(text: str) -> Any:
    raise ValueError(text)
