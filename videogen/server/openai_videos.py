"""OpenAI's videos dialect: create (JSON or form), list, retrieve, delete, content, remix, extensions.

The official Python client works against it unmodified. `seed`, `quality`, `strict` and `prompt_optimizer` are ours (`extra_body=`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from videogen.server.auth import Principal
from videogen.server.forms import read_fields, read_json, validated
from videogen.server.http import COMMON_ERRORS, PrincipalOf, ServiceOf, address_of, error_responses, send_variant
from videogen.server.jobs import Job
from videogen.server.minimax import IdempotencyKey
from videogen.server.planning import Ask, Prompt, Quality, Reference
from videogen.server.service import ApiError, Service

router = APIRouter(tags=["OpenAI videos"])

QUALITY = "fast or high; None is fast where the model can. Ours."
VideoId = Annotated[str, Path(max_length=100)]
_errors = {**COMMON_ERRORS, **error_responses(409)}


class ImageReference(BaseModel):
    """A picture by id or address."""

    model_config = ConfigDict(extra="forbid")

    file_id: Annotated[str | None, Field(max_length=100)] = None
    image_url: Reference | None = None


class VideoReference(BaseModel):
    """A clip of this server."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=100)]


class CreateVideo(BaseModel):
    """Body of `POST /v1/videos`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[Prompt, Field(description="What the video shows; may hold camera brackets such as [Pan left].")]
    model: Annotated[str | None, Field(max_length=100, description="sora-2, sora-2-pro or this server's model.")] = None
    seconds: Annotated[str | float | None, Field(description="A number, also as text.")] = None
    size: Annotated[str | None, Field(max_length=20, description="Width x height.")] = None
    input_reference: Annotated[ImageReference | Reference | None, Field(description="The first frame.")] = None
    seed: Annotated[int | None, Field(ge=0, le=2**53, description="None draws one and reports it. Ours.")] = None
    prompt_optimizer: Annotated[bool, Field(description="Rewrite the prompt towards the model's words. Ours.")] = False
    quality: Annotated[Quality | None, Field(description=QUALITY)] = None
    strict: Annotated[bool, Field(description="Refuse what would have to be adjusted. Ours.")] = False


class RemixVideo(BaseModel):
    """Body of `POST /v1/videos/{id}/remix`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt


class ExtendVideo(BaseModel):
    """Body of `POST /v1/videos/extensions`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt
    video: VideoReference
    seconds: Annotated[str | float, Field(description="To add.")]
    quality: Annotated[Quality | None, Field(description=QUALITY)] = None


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A video and how it stands. `adjusted` and `warnings` are ours: what is not as asked, and what may disappoint."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    size: str
    seconds: str
    prompt: str
    remixed_from_video_id: str | None
    error: VideoError | None
    seed: int
    adjusted: list[str]
    warnings: list[str]


class VideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    """A video that is no more."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def _body(name: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    form = {"type": "object", "required": required, "properties": properties, "additionalProperties": False}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}},
                "multipart/form-data": {"schema": form},
            },
        }
    }


_text = {"type": "string"}
CREATE_BODY = _body(
    "CreateVideo",
    {
        **dict.fromkeys(("prompt", "model", "seconds", "size", "seed", "prompt_optimizer", "quality", "strict"), _text),
        "input_reference": {"type": "string", "format": "binary"},
        "input_reference[file_id]": _text,
        "input_reference[image_url]": _text,
    },
    ["prompt"],
)
EXTEND_BODY = _body(
    "ExtendVideo",
    {
        **dict.fromkeys(("prompt", "seconds", "quality", "video[id]"), _text),
        "video": {"type": "string", "format": "binary"},
    },
    ["prompt", "seconds"],
)


@router.post("/v1/videos", response_model=Video, responses=_errors, openapi_extra=CREATE_BODY)
async def create_video(
    request: Request, service: ServiceOf, principal: PrincipalOf, idempotency_key: IdempotencyKey = None
) -> Video:
    """Start a video."""
    content, upload = await _read(request, "input_reference")
    body: CreateVideo = validated(CreateVideo, content)
    return await run_in_threadpool(_create, service, principal, address_of(request), body, upload, idempotency_key)


def _create(
    service: Service,
    principal: Principal,
    address: str,
    body: CreateVideo,
    upload: tuple[bytes, str] | None,
    idempotency_key: str | None,
) -> Video:
    adjusted = _model_note(body.model, service)
    reference = body.input_reference
    if isinstance(reference, ImageReference):
        if (reference.file_id is None) == (reference.image_url is None):
            raise ApiError(
                422, "invalid_request", "`input_reference` must have either file_id or image_url.", "input_reference"
            )
        reference = reference.file_id or reference.image_url
    asked = body.model_dump(mode="json", exclude_unset=True)
    if upload is not None:
        asked["input_reference"] = upload[0]
    width, height = _size(body.size)
    ask = Ask(
        prompt=body.prompt,
        first_frame=reference,
        width=width,
        height=height,
        duration=_seconds(body.seconds),
        seed=body.seed,
        prompt_optimizer=body.prompt_optimizer,
        quality=body.quality,
        strict=body.strict,
    )
    attached = None if upload is None else ("first_frame", *upload)
    return _submit(service, principal, address, ask, asked, idempotency_key, adjusted, attached)


def _submit(
    service: Service,
    principal: Principal,
    address: str,
    ask: Ask,
    asked: dict[str, Any],
    idempotency_key: str | None,
    adjusted: list[str],
    attached: tuple[str, bytes, str] | None,
) -> Video:
    job, _ = service.submit(
        principal,
        address,
        "openai",
        ask,
        asked,
        idempotency_key=idempotency_key,
        adjusted=adjusted,
        attached=attached,
    )
    return video_of(job, service)


@router.get("/v1/videos", responses=_errors)
def list_videos(
    service: ServiceOf,
    principal: PrincipalOf,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """Videos by time of creation."""
    try:
        found, more = service.store.page(
            principal.tenant, limit=limit, after=after and after.replace("\0", ""), descending=order == "desc"
        )
    except ValueError as error:
        raise ApiError(422, "invalid_request", str(error), "after") from None
    data = [video_of(job, service) for job in found]
    return VideoList(
        data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None, has_more=more
    )


@router.post("/v1/videos/extensions", response_model=Video, responses=_errors, openapi_extra=EXTEND_BODY)
async def extend_video(
    request: Request, service: ServiceOf, principal: PrincipalOf, idempotency_key: IdempotencyKey = None
) -> Video:
    """Continue a video of this server, or one that comes along."""
    content, upload = await _read(request, "video")
    if upload is not None:
        content["video"] = {"id": "upload"}
    body: ExtendVideo = validated(ExtendVideo, content)
    return await run_in_threadpool(_extend, service, principal, address_of(request), body, upload, idempotency_key)


def _extend(
    service: Service,
    principal: Principal,
    address: str,
    body: ExtendVideo,
    upload: tuple[bytes, str] | None,
    idempotency_key: str | None,
) -> Video:
    asked = body.model_dump(mode="json", exclude_unset=True)
    attached = None
    if upload is not None:
        asked["video"] = upload[0]
        attached = ("source", *upload)
    source = body.video.id if upload is None else None
    ask = Ask(prompt=body.prompt, source=source, duration=_seconds(body.seconds), quality=body.quality)
    return _submit(service, principal, address, ask, asked, idempotency_key, [], attached)


@router.get("/v1/videos/{video_id}", responses={**_errors, **error_responses(404)})
def retrieve_video(video_id: VideoId, service: ServiceOf, principal: PrincipalOf) -> Video:
    """How a video stands."""
    return video_of(service.job(video_id, principal), service)


@router.delete("/v1/videos/{video_id}", responses={**_errors, **error_responses(404)})
def delete_video(video_id: VideoId, service: ServiceOf, principal: PrincipalOf) -> Deleted:
    """Delete a video with its files; one that is being made is stopped first."""
    service.delete(video_id, principal)
    return Deleted(id=video_id)


@router.get(
    "/v1/videos/{video_id}/content",
    response_class=Response,
    responses={
        **_errors,
        **error_responses(404),
        200: {"description": "The file", "content": {"video/mp4": {}, "image/webp": {}, "image/jpeg": {}}},
        206: {"description": "A part of it", "content": {"video/mp4": {}, "image/webp": {}, "image/jpeg": {}, "multipart/byteranges": {}}},
        416: {"description": "No such part", "content": {"text/plain": {}}},
    },
)  # fmt: skip
def video_content(
    video_id: VideoId,
    service: ServiceOf,
    principal: PrincipalOf,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> Response:
    """The clip, one frame of it, or many in a grid."""
    job = service.job(video_id, principal)
    return send_variant(service, ended_file(job), variant, job.id)


@router.post("/v1/videos/{video_id}/remix", responses={**_errors, **error_responses(404)})
def remix_video(
    video_id: VideoId,
    body: RemixVideo,
    request: Request,
    service: ServiceOf,
    principal: PrincipalOf,
    idempotency_key: IdempotencyKey = None,
) -> Video:
    """The same video with another prompt: same seed, size, length and pictures."""
    job = service.job(video_id, principal)
    if job.status != "completed":
        raise ApiError(409, "not_completed", f"`id` must be a completed video, this one is {job.status}.", "id")
    try:
        new, _ = service.submit(
            principal,
            address_of(request),
            "openai",
            ask_again(job, prompt=body.prompt),
            {"prompt": body.prompt, "remix": job.id},
            idempotency_key=idempotency_key,
            remixed_from=job.id,
        )
    except ApiError as error:
        if error.status != 422 or error.param in ("prompt", "Idempotency-Key"):
            raise
        # It is about what the first video was asked for, not about what came with this request.
        raise ApiError(422, error.code, f"`id` must be a video that can be made again: {error.message}", "id") from None
    return video_of(new, service)


def ask_again(job: Job, **changes: Any) -> Ask:
    """What a job was, as a new request."""
    request = job.request
    files = {
        role: [picture for picture in request["pictures"] if picture["role"] == role]
        for role in ("first", "last", "keyframe", "subject", "source")
    }
    interval = request.get("guidance_interval", (0.0, 1.0))  # a job of an older version was guided throughout
    content: dict[str, Any] = {
        "prompt": request["prompt"],
        "negative_prompt": request["negative_prompt"],
        "camera": request["camera"] if request["camera_vectors"] is None else request["camera_vectors"],
        "first_frame": files["first"][0]["file_id"] if files["first"] else None,
        "last_frame": files["last"][0]["file_id"] if files["last"] else None,
        "keyframes": [{"time": picture["time"], "image": picture["file_id"]} for picture in files["keyframe"]],
        "subjects": [picture["file_id"] for picture in files["subject"]],
        "source": files["source"][0]["file_id"] if files["source"] else None,
        "num_frames": request["num_frames"],
        "fps": request["fps"],
        "steps": request["steps"],
        "guidance_scale": request["guidance_scale"],
        "guidance_method": request["guidance_method"],
        "guidance_rescale": request["guidance_rescale"] if request["guidance_scale"] != 1.0 else 0.0,
        "guidance_interval": interval if request["guidance_scale"] != 1.0 else None,
        "quality": request.get("quality", "high"),
        "seed": request["seed"],
        "watermark": request["watermark"],
        "receipt_images": request["receipt_images"],
    }
    if not files["source"]:
        content |= {"width": request["width"], "height": request["height"]}
    return Ask.model_validate({**content, **changes})


def ended_file(job: Job) -> str:
    """The id of a completed job's file.

    Raises:
        ApiError: it has none (yet).
    """
    if job.file_id is None:
        raise ApiError(409, "not_completed", f"the job is {job.status}; it has no file.", "id")
    return job.file_id


def video_of(job: Job, service: Service) -> Video:
    """A job in OpenAI's words."""
    request, result = job.request, job.result or {}
    status = {"running": "in_progress", "cancelled": "failed"}.get(job.status, job.status)
    error = None
    if job.status == "failed":
        error = VideoError(code=job.error_code or "internal", message=job.error_message or "")
    elif job.status == "cancelled":
        error = VideoError(code="cancelled", message="the job was cancelled.")
    seconds = result.get("seconds", request["num_frames"] / request["fps"])
    return Video(
        id=job.id,
        model=service.planner.model_name,
        status=status,  # type: ignore[arg-type]
        progress=job.progress,
        created_at=int(job.created_at),
        completed_at=None if job.finished_at is None else int(job.finished_at),
        expires_at=None if job.expires_at is None else int(job.expires_at),
        size=f"{request['width']}x{request['height']}",
        seconds=f"{seconds:.2f}".rstrip("0").rstrip("."),
        prompt=job.prompt,
        remixed_from_video_id=job.remixed_from,
        error=error,
        seed=request["seed"],
        adjusted=job.adjusted,
        warnings=job.warnings,
    )


async def _read(request: Request, file_field: str) -> tuple[dict[str, Any], tuple[bytes, str] | None]:
    """A JSON or form body as nested values, and the file beside them."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        return await read_json(request), None
    fields, uploads = await read_fields(request)
    if set(uploads) - {file_field}:
        unknown = sorted(set(uploads) - {file_field})[0]
        raise ApiError(422, "invalid_request", f"`{unknown[:60]}` is not known here; leave it out.", unknown)
    content: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]"):  # as the official client writes objects in forms
            inside = content.setdefault(outer, {})
            if not isinstance(inside, dict):
                raise ApiError(422, "invalid_request", f"`{outer[:60]}` must be given once.", outer)
            inside[inner[:-1]] = value
        else:
            content[name] = value
    if file_field in content and file_field in uploads:
        raise ApiError(422, "invalid_request", f"`{file_field}` must be given once.", file_field)
    return content, uploads.get(file_field)


def _model_note(model: str | None, service: Service) -> list[str]:
    own = service.planner.model_name
    if model in (None, own):
        return []
    if not str(model).startswith("sora-2"):
        raise ApiError(
            422, "invalid_request", f"`model` must be {own} (or sora-2, sora-2-pro), got {str(model)[:60]!r}.", "model"
        )
    return [f"`model` {model} is answered by {own}."]


def _seconds(value: str | float | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise ApiError(
            422, "invalid_request", f"`seconds` must be a number above 0, got {str(value)[:30]!r}.", "seconds"
        )
    return seconds


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, _, height = text.partition("x")
    if not (width.isascii() and height.isascii() and width.isdigit() and height.isdigit()) or not (
        0 < int(width) <= 16384 and 0 < int(height) <= 16384
    ):
        raise ApiError(422, "invalid_request", f"`size` must be width x height such as 96x96, got {text!r}.", "size")
    return int(width), int(height)
