"""MiniMax's dialect (video-01, Hailuo): create, query, files.

What it cannot say (seed, cancel, progress) is said by the extension on the same task id. Every answer has `base_resp`; a status code other than 0 is
an error, sent with HTTP 200 as MiniMax does, but for keys, limits and sizes, which have their own HTTP status too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from videogen.server.auth import Principal
from videogen.server.forms import UPLOAD_SCHEMA, read_form
from videogen.server.http import PrincipalOf, ServiceOf, address_of, base_url, send_variant
from videogen.server.jobs import Job
from videogen.server.planning import Ask, Prompt, Quality, Reference
from videogen.server.service import ApiError, Service
from videogen.server.storage import is_id

router = APIRouter(tags=["MiniMax"])

MODELS = {
    "video-01": "either",
    "T2V-01": "text",
    "T2V-01-Director": "text",
    "I2V-01": "image",
    "I2V-01-live": "image",
    "I2V-01-Director": "image",
    "S2V-01": "subject",
    "MiniMax-Hailuo-02": "either",
    "MiniMax-Hailuo-2.3": "either",
    "MiniMax-Hailuo-2.3-Fast": "image",
}
"""Model ids of MiniMax -> what they need; all are answered by the model of this server."""

RESOLUTIONS = {"512P": (912, 512), "720P": (1280, 720), "768P": (1366, 768), "1080P": (1920, 1080)}


class BaseResp(BaseModel):
    """Whether a request succeeded: 0, or MiniMax's code."""

    status_code: int
    status_msg: str


class Subject(BaseModel):
    """Whom the clip is about."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["character"] = "character"
    image: Annotated[
        list[Reference] | Reference, Field(description="One picture: data URL, file id or http(s) address.")
    ]


class Generation(BaseModel):
    """Body of `POST /v1/video_generation`. `quality` and `strict` are ours; everything else is MiniMax's."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=100, description="Any id of MiniMax's, or the name of this server's model.")]
    prompt: Annotated[
        Prompt | None,
        Field(description="What the video shows, with camera brackets; may be left out beside a picture."),
    ] = None
    prompt_optimizer: Annotated[
        bool, Field(description="Rewrite the prompt towards the model's words; the answer's `prompt` is the one used.")
    ] = True
    fast_pretreatment: Annotated[bool, Field(description="Changes nothing here, and the answer says so.")] = False
    first_frame_image: Annotated[
        Reference | None, Field(description="Picture that the clip starts with: data URL, file id or http(s) address.")
    ] = None
    last_frame_image: Annotated[Reference | None, Field(description="Picture that the clip ends with.")] = None
    subject_reference: Annotated[list[Subject], Field(max_length=2, description="Whom the clip is about.")] = []
    duration: Annotated[float | None, Field(gt=0, le=3600, allow_inf_nan=False, description="Seconds.")] = None
    resolution: Annotated[
        str | None, Field(max_length=20, description="512P, 720P, 768P or 1080P; the nearest supported size is made.")
    ] = None
    callback_url: Annotated[
        str | None, Field(max_length=2048, description="Told of every change of state, after it echoed a challenge.")
    ] = None
    aigc_watermark: Annotated[bool, Field(description="Draw the visible mark.")] = False
    quality: Annotated[Quality | None, Field(description="fast or high; None is fast where the model can. Ours.")] = (
        None
    )
    strict: Annotated[bool, Field(description="Refuse what would have to be adjusted. Ours.")] = False


class Created(BaseModel):
    """A task that was accepted, or why not. `prompt` is the one that is used; `adjusted` says what else is not as asked."""

    task_id: str = ""
    base_resp: BaseResp
    prompt: str | None = None
    adjusted: list[str] = []
    warnings: list[str] = []


class Queried(BaseModel):
    """How a task stands."""

    task_id: str = ""
    status: Literal["Preparing", "Queueing", "Processing", "Success", "Fail", ""] = ""
    file_id: str = ""
    video_width: int = 0
    video_height: int = 0
    base_resp: BaseResp
    progress: int | None = None
    prompt: str | None = None
    adjusted: list[str] = []
    warnings: list[str] = []


class FileInfo(BaseModel):
    """A file of this server."""

    file_id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    download_url: str | None = None


class Retrieved(BaseModel):
    """A file, or why not."""

    file: FileInfo | None = None
    base_resp: BaseResp


class Problem(BaseModel):
    """Why not."""

    base_resp: BaseResp


OK = BaseResp(status_code=0, status_msg="success")
_problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_errors: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "model": Problem}
    for status, text in ((401, "No valid API key (1004)"), (403, "Not from this address or page (1004)"), (413, "Too large"), (429, "Too many (1002)"), (503, "Not now (1024)"))
}  # fmt: skip
_clip: dict[int | str, dict[str, Any]] = {
    **_errors,
    200: {"description": "The clip", "content": {"video/mp4": {}, **_problem}},
    206: {"description": "A part of it", "content": {"video/mp4": {}, "multipart/byteranges": {}}},
    416: {"description": "No such part", "content": {"text/plain": {}}},
}
IdempotencyKey = Annotated[
    str | None, Header(max_length=255, description="A repetition with the same key gives the same job.")
]


@router.post("/v1/video_generation", responses=_errors)
def create_generation(
    body: Generation,
    request: Request,
    service: ServiceOf,
    principal: PrincipalOf,
    idempotency_key: IdempotencyKey = None,
) -> Created:
    """Start a video: text to video, first and last frame, subject reference."""
    ask, adjusted = translate(body, service)
    job, _ = service.submit(
        principal,
        address_of(request),
        "minimax",
        ask,
        body.model_dump(mode="json", exclude_unset=True),
        idempotency_key=idempotency_key,
        adjusted=adjusted,
    )
    return Created(task_id=job.id, base_resp=OK, prompt=job.prompt, adjusted=job.adjusted, warnings=job.warnings)


def translate(body: Generation, service: Service) -> tuple[Ask, list[str]]:
    """A body of MiniMax's as ours, and what was adjusted by that.

    Raises:
        ApiError: an argument that cannot be honoured.
    """
    adjusted = []
    own = service.planner.model_name
    kind = MODELS.get(body.model, "either" if body.model == own else None)
    if kind is None:
        raise _refused("model", f"`model` must be one of {', '.join(MODELS)} or {own}, got {body.model[:60]!r}.")
    if body.model != own:
        adjusted.append(f"`model` {body.model} is answered by {own}.")
    if kind == "image" and body.first_frame_image is None:
        raise _refused("first_frame_image", f"`first_frame_image` must be given for {body.model}.")
    if kind == "subject" and not body.subject_reference:
        raise _refused("subject_reference", f"`subject_reference` must be given for {body.model}.")
    if body.fast_pretreatment:
        adjusted.append("`fast_pretreatment` changes nothing: the optimizer here takes no time.")
    prompt = body.prompt or ""
    if not prompt.strip():
        if body.first_frame_image is None and body.last_frame_image is None:
            raise _refused("prompt", "`prompt` must be given without a picture to start from.")
        prompt = "a video"
        adjusted.append("`prompt` is empty; 'a video' was used.")
    width = height = None
    if body.resolution is not None:
        if body.resolution.upper() not in RESOLUTIONS:
            raise _refused(
                "resolution", f"`resolution` must be one of {', '.join(RESOLUTIONS)}, got {body.resolution!r}."
            )
        width, height = RESOLUTIONS[body.resolution.upper()]
    # On by default, as there; `strict` takes the default back, and refuses a rewriting that was asked for in so many words.
    optimizer = body.prompt_optimizer and not (body.strict and "prompt_optimizer" not in body.model_fields_set)
    subjects: list[str] = []
    for subject in body.subject_reference:
        images = [subject.image] if isinstance(subject.image, str) else subject.image
        if len(images) != 1:
            raise _refused(
                "subject_reference", f"`subject_reference` must hold one image a subject, got {len(images)}."
            )
        subjects += images
    ask = Ask(
        prompt=prompt,
        prompt_optimizer=optimizer,
        literal_prompt=not optimizer,
        first_frame=body.first_frame_image,
        last_frame=body.last_frame_image,
        subjects=subjects,
        width=width,
        height=height,
        duration=body.duration,
        callback_url=body.callback_url,
        watermark=body.aigc_watermark,
        quality=body.quality,
        strict=body.strict,
    )
    return ask, adjusted


@router.get("/v1/query/video_generation", responses=_errors)
def query_generation(
    service: ServiceOf, principal: PrincipalOf, task_id: Annotated[str, Query(max_length=100)]
) -> Queried:
    """How a task stands."""
    job = service.job(task_id, principal)
    result = job.result or {}
    return Queried(
        task_id=job.id,
        status=state_of(job, service),  # type: ignore[arg-type]
        file_id=job.file_id or "",
        video_width=result.get("width", 0),
        video_height=result.get("height", 0),
        base_resp=OK
        if job.error_code is None
        else BaseResp(status_code=1000, status_msg=f"{job.error_code}: {job.error_message}"),
        progress=job.progress,
        prompt=job.prompt,
        adjusted=job.adjusted,
        warnings=job.warnings,
    )


def state_of(job: Job, service: Service) -> str:
    """A job's state in MiniMax's words: Preparing while no worker has the model loaded yet."""
    if job.status == "queued":
        return "Queueing" if service.worker_ready() else "Preparing"
    return {"running": "Processing", "completed": "Success"}.get(job.status, "Fail")


@router.get("/v1/files/retrieve", responses=_errors)
def retrieve_file(
    request: Request, service: ServiceOf, principal: PrincipalOf, file_id: Annotated[str, Query(max_length=100)]
) -> Retrieved:
    """Facts of a file and an address to download it from, good for a day."""
    row = _file(service, principal, file_id)
    if row.purpose != "video_generation":
        return _retrieved(row, row.purpose, row.bytes)
    try:
        size = service.storage.variant(row.id, "video").stat().st_size
    except FileNotFoundError:  # it expired since the row was read
        raise _no_file() from None
    return _retrieved(row, row.purpose, size, service.link(row.id, base_url(request)))


@router.get("/v1/files/retrieve_content", response_class=Response, responses=_clip)
def retrieve_content(
    service: ServiceOf, principal: PrincipalOf, file_id: Annotated[str, Query(max_length=100)]
) -> Response:
    """The file itself."""
    row = _file(service, principal, file_id)
    if row.purpose != "video_generation":
        raise ApiError(404, "not_found", "only generated clips can be downloaded.", "file_id")
    return send_variant(service, row.id, "video", row.id)


@router.get("/v1/files/{file_id}/content", response_class=Response, responses=_clip)
def signed_content(
    service: ServiceOf,
    file_id: str,
    expires: Annotated[int, Query(ge=0, le=2**53)],
    signature: Annotated[str, Query(max_length=128)],
) -> Response:
    """The file behind a `download_url`; the address itself is the key."""
    if not is_id(file_id) or not service.link_holds(file_id, expires, signature):
        raise ApiError(
            404, "not_found", "this address was not given out by this server, or its day is over.", "signature"
        )
    return send_variant(service, file_id, "video", file_id)


@router.post("/v1/files/upload", responses=_errors, openapi_extra=UPLOAD_SCHEMA)
async def upload_file(request: Request, service: ServiceOf, principal: PrincipalOf) -> Retrieved:
    """Upload a picture or video to use in requests; multipart with `file` and `purpose`."""
    service.limit(principal, address_of(request))
    content, name, fields = await read_form(request, "file", known=("purpose",))
    upload = await run_in_threadpool(service.keep, principal, content, name)
    return _retrieved(upload, fields.get("purpose", "upload")[:32] or "upload", upload.bytes)


def _retrieved(file: Any, purpose: str, num_bytes: int, link: str | None = None) -> Retrieved:
    """An upload, or a row of the table of files, as MiniMax shows it."""
    info = FileInfo(
        file_id=file.id,
        bytes=num_bytes,
        created_at=int(file.created_at),
        filename=file.name,
        purpose=purpose,
        download_url=link,
    )
    return Retrieved(file=info, base_resp=OK)


def _file(service: Service, principal: Principal, file_id: str) -> Any:
    row = service.media.find(file_id, principal.tenant) if is_id(file_id) else None
    if row is None:
        raise _no_file()
    return row


def _no_file() -> ApiError:
    return ApiError(404, "not_found", "there is no such file, or it is not yours, or it expired.", "file_id")


def _refused(param: str | None, message: str) -> ApiError:
    return ApiError(422, "invalid_request", message, param)
