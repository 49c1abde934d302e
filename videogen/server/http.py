"""What the dialects share on the side of HTTP: who asks, answers to errors, downloads, limits on bodies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from videogen.server.auth import LOCAL, Principal
from videogen.server.retention import HOLD_SECONDS
from videogen.server.service import ApiError, Service
from videogen.server.settings import is_loopback
from videogen.server.storage import VARIANTS

BODY_SECONDS = 60.0
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What metrics tell apart: a client can send any word, and every label is kept for ever."""
MINIMAX_PREFIXES = ("/v1/video_generation", "/v1/query/", "/v1/files/")
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class ErrorInfo(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer that is no success, but for MiniMax's dialect."""

    error: ErrorInfo


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its entry in the OpenAPI document."""
    texts = {
        400: "Not a valid request",
        401: "No valid API key",
        403: "Not from this address or page",
        404: "Not there, or not yours",
        409: "In conflict with what is there",
        413: "Too large",
        422: "An argument that cannot be honoured; `param` names it",
        429: "Too many requests or waiting jobs; see Retry-After",
        503: "Not able to answer now",
    }
    return {status: {"model": ErrorBody, "description": texts[status]} for status in statuses}


COMMON_ERRORS = error_responses(400, 401, 403, 413, 422, 429, 503)

_bearer = HTTPBearer(auto_error=False, description="An API key made with `videogen keys add`.")


# Both are asked for with every request and never wait: as coroutines they cost it no way to a thread and back.
async def service_of(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(service_of)]


async def principal_of(
    service: ServiceOf, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    """Who asks.

    Raises:
        ApiError: 401 without a valid key, where keys are asked for.
    """
    if service.keys is None:
        return LOCAL
    found = service.keys.find(credentials.credentials if credentials else None)
    if found is None:
        raise ApiError(401, "invalid_api_key", "an API key must be sent as 'Authorization: Bearer ...'.")
    return found


PrincipalOf = Annotated[Principal, Depends(principal_of)]


def address_of(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else "unknown"


def base_url(request: Request) -> str:
    """Under which address the server was reached, without a slash at the end."""
    return str(request.base_url).rstrip("/")


def error_kind(status: int) -> str:
    """The type of an error in OpenAI's words."""
    return {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        409: "conflict_error",
        429: "rate_limit_error",
    }.get(status, "invalid_request_error" if status < 500 else "server_error")


# Status of HTTP -> MiniMax's code.
_MINIMAX_CODES = {401: 1004, 403: 1004, 429: 1002, 503: 1024, 500: 1024, 507: 1024}


def error_answer(path: str, error: ApiError) -> JSONResponse:
    """An error in the dialect of the path it happened on."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    message = error.message.encode("utf-8", "replace").decode()
    if path.startswith(MINIMAX_PREFIXES):
        code = _MINIMAX_CODES.get(error.status, 2013)
        content: dict[str, Any] = {"base_resp": {"status_code": code, "status_msg": message}}
        # What a client of MiniMax's looks at is the code in the body; who asks too much or is nobody learns it by HTTP too.
        status = error.status if error.status in (401, 403, 413, 429, 503, 507, 500) else 200
        return JSONResponse(content, status, headers)
    openai = path.startswith("/v1/videos")
    status = 400 if openai and error.status == 422 else error.status
    param = None if error.param is None else error.param.encode("utf-8", "replace").decode()[:200]
    content = {"error": {"message": message, "type": error_kind(status), "param": param, "code": error.code}}
    return JSONResponse(content, status, headers)


class HeldFile(FileResponse):
    """A file that does not expire while it is sent."""

    def __init__(self, service: Service, file_id: str, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.service, self.file_id = service, file_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def keep() -> None:
            while True:
                await asyncio.sleep(HOLD_SECONDS / 3)
                await run_in_threadpool(self.service.janitor.hold, self.file_id, HOLD_SECONDS)

        task = asyncio.create_task(keep())
        try:
            await super().__call__(scope, receive, send)
        finally:
            task.cancel()


def send_variant(service: Service, file_id: str, variant: str, name: str) -> FileResponse:
    """A clip in one of its forms; blocks for a moment, so call it from a thread.

    Raises:
        ApiError: 404, it expired.
    """
    suffix, media_type = VARIANTS[variant]
    path = service.storage.variant(file_id, variant)
    if not service.janitor.hold(file_id, HOLD_SECONDS) or not path.is_file():
        raise ApiError(404, "expired", "the file is no longer there: it expired or was deleted.", "id")
    disposition = "inline" if variant in ("thumbnail", "spritesheet") else "attachment"
    headers = {"cache-control": "private, max-age=3600"}
    return HeldFile(
        service,
        file_id,
        path,
        media_type=media_type,
        filename=name + suffix,
        content_disposition_type=disposition,
        headers=headers,
    )


class Guard:
    """The outermost layer: foreign pages, oversized and slow bodies, and headers of every answer.

    A server without keys trusts whoever reaches its loopback address. A web page that somebody has open can do that
    too, so the Host must be a name of this machine (against DNS rebinding), and what changes something must not come from another page.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        self.max_bytes = service.settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        path = scope["path"]
        answered = arrived = False
        size, deadline = 0, time.monotonic() + BODY_SECONDS

        async def guarded_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                present = {name for name, _ in message["headers"]}
                for name, value in SECURITY_HEADERS.items():
                    if name.encode() not in present:
                        message["headers"].append((name.encode(), value.encode()))
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self.service.metrics.requests.labels(method, route, str(message["status"])).observe(
                    time.perf_counter() - started
                )
            await send(message)

        async def guarded_receive() -> Message:
            nonlocal size, arrived
            if answered or arrived:  # what comes now is only that the client went
                return await receive()
            message = await asyncio.wait_for(receive(), max(0.01, deadline - time.monotonic()))
            arrived = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise ApiError(413, "too_large", f"a request must have at most {self.max_bytes} bytes.")
            return message

        refusal = self._refusal(scope, headers)
        try:
            if refusal is not None:
                raise refusal
            await self.app(scope, guarded_receive, guarded_send)
        except (ApiError, TimeoutError, asyncio.TimeoutError) as error:  # two kinds of the latter before Python 3.11
            if answered:
                raise
            if not isinstance(error, ApiError):
                error = ApiError(400, "too_slow", f"a request must arrive within {BODY_SECONDS:g} seconds.")
            with contextlib.suppress(OSError):
                await error_answer(path, error)(scope, receive, guarded_send)

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            return ApiError(413, "too_large", f"a request must have at most {self.max_bytes} bytes, got {length}.")
        if self.service.keys is not None:
            return None
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if not is_loopback(name) and name not in self.service.settings.served_hosts:
            return ApiError(
                403, "wrong_host", "the Host must be this machine's loopback name; other names need `--served-host`."
            )
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign or (origin is not None and origin.split("://", 1)[-1] != host):
            return ApiError(403, "wrong_origin", "requests of other web pages are not answered without API keys.")
        return None
