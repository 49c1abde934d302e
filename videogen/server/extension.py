"""Our own routes, where the two dialects fall short: everything a job can be asked for, cancel, progress, estimates, uploads.

The jobs are the same: an id of one dialect works in all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from videogen._version import __version__
from videogen.conditioning.prompt import unknown_words
from videogen.conditioning.wording import read_words
from videogen.server.forms import UPLOAD_SCHEMA, read_form
from videogen.server.http import (
    COMMON_ERRORS,
    PrincipalOf,
    ServiceOf,
    address_of,
    error_responses,
    send_variant,
)
from videogen.server.jobs import Job
from videogen.server.minimax import IdempotencyKey
from videogen.server.openai_videos import ended_file
from videogen.server.planning import Ask, Prompt, Quality, references
from videogen.server.service import ApiError, Service
from videogen.server.storage import is_id

router = APIRouter(tags=["Jobs"])
operations = APIRouter(tags=["Operation"])

JobId = Annotated[str, Path(max_length=100)]
FileId = Annotated[str, Path(max_length=100)]
Status = Literal["queued", "running", "completed", "failed", "cancelled"]
KEEPALIVE_SECONDS = 15.0
_missing = {**COMMON_ERRORS, **error_responses(404)}


class JobError(BaseModel):
    """Why a job failed."""

    code: Annotated[
        str,
        Field(
            description="not_finite, black_clip, frozen_clip, worker_died, interrupted, invalid_request or internal."
        ),
    ]
    message: Annotated[str, Field(description="A sentence for people.")]


class JobView(BaseModel):
    """A job, whole."""

    id: Annotated[str, Field(description="The same in all dialects.")]
    object: Literal["job"] = "job"
    dialect: Annotated[str, Field(description="In which it was asked for.")]
    status: Status
    progress: Annotated[int, Field(description="Percent; 100 only when the file is there.")]
    stage: Annotated[str, Field(description="waiting, starting, denoising, decoding or done.")]
    step: Annotated[int, Field(description="Denoising steps done, over all windows.")]
    num_steps: Annotated[int, Field(description="Of how many.")]
    seconds_left: Annotated[float | None, Field(description="Of a running job, from what others took.")]
    priority: Annotated[int, Field(description="Higher goes first.")]
    created_at: Annotated[float, Field(description="Seconds since 1970, as all times.")]
    started_at: float | None
    finished_at: float | None
    expires_at: Annotated[float | None, Field(description="When its files may go.")]
    prompt: Annotated[str, Field(description="The one that is used, rewritten where that was asked for.")]
    asked: Annotated[dict[str, Any], Field(description="The request as it came; data URLs are told by their hash.")]
    request: Annotated[dict[str, Any], Field(description="The request as it is carried out, every number settled.")]
    adjusted: Annotated[list[str], Field(description="What is not as it was asked for, in sentences.")]
    warnings: Annotated[list[str], Field(description="What may disappoint, in sentences.")]
    note: Annotated[str | None, Field(description="Why it waits again, or that its file expired.")]
    resumed_from: Annotated[int, Field(description="Step at which it went on after an interruption.")]
    error: JobError | None
    file_id: Annotated[str | None, Field(description="For `GET /v1/files/retrieve`.")]
    result: Annotated[
        dict[str, Any] | None,
        Field(description="Size, length, seed, hash of the frames and identity scores of the clip."),
    ]
    remixed_from: Annotated[str | None, Field(description="Job that this one varies.")]
    preview_step: Annotated[int, Field(description="Step of the latest preview frame; 0 is none.")]


class JobList(BaseModel):
    """A page of jobs, the newest first."""

    data: list[JobView]
    has_more: bool


class EstimateView(BaseModel):
    """What a request would take, and what would become of it."""

    seconds: Annotated[float | None, Field(description="Of generating, once a worker has it.")]
    wait_seconds: Annotated[float | None, Field(description="Until a worker has it.")]
    memory_bytes: Annotated[int | None, Field(description="Of the worker at its peak.")]
    steps: Annotated[int, Field(description="Denoising steps over all windows.")]
    queue_length: Annotated[int, Field(description="Jobs that go first.")]
    basis: Annotated[
        Literal["measured", "scaled", "calculated", "unknown"],
        Field(
            description="This very shape was measured, another one was, nothing was and it was calculated, or no worker had its model loaded yet."
        ),
    ]
    request: Annotated[dict[str, Any], Field(description="The request as it would be carried out.")]
    adjusted: Annotated[list[str], Field(description="What would not be as it is asked for.")]
    warnings: Annotated[list[str], Field(description="What may disappoint.")]


class Words(BaseModel):
    """Body of `POST /v1/prompts`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[Prompt, Field(description="May hold camera brackets.")]
    has_subject: Annotated[bool, Field(description="Whether a picture says what the subject looks like.")] = False


class WordsView(BaseModel):
    """A prompt as the model sees it: words it does not know with the nearest known ones, and the prompt rewritten."""

    unknown: Annotated[dict[str, list[str]], Field(description="Word -> the nearest known ones.")]
    rewritten: Annotated[str, Field(description="The prompt in the model's words.")]
    changes: Annotated[list[str], Field(description="What was done, in sentences.")]


class UploadView(BaseModel):
    """An upload; its id stands for it in requests."""

    id: Annotated[str, Field(description="Stands for it in requests.")]
    kind: Literal["image", "video"]
    name: str
    width: int
    height: int
    adjusted: Annotated[list[str], Field(description="What is not kept as it came, in sentences.")]


@router.post("/v1/jobs", responses={**COMMON_ERRORS, **error_responses(409)})
def create_job(
    body: Ask, request: Request, service: ServiceOf, principal: PrincipalOf, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Start a video."""
    job, _ = service.submit(
        principal,
        address_of(request),
        "videogen",
        body,
        body.model_dump(mode="json", exclude_unset=True),
        idempotency_key=idempotency_key,
    )
    return view_of(job, service)


@router.get("/v1/jobs", responses=COMMON_ERRORS)
def list_jobs(
    service: ServiceOf,
    principal: PrincipalOf,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=100)] = None,
    order: Literal["asc", "desc"] = "desc",
    status: Annotated[list[Status] | None, Query(description="Only these states.")] = None,
    q: Annotated[str | None, Query(max_length=200, description="Text in the prompt.")] = None,
    dialect: Literal["minimax", "openai", "videogen"] | None = None,
    created_after: Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)] = None,
    created_before: Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)] = None,
) -> JobList:
    """Jobs of all dialects, with filters."""
    try:
        found, more = service.store.page(
            principal.tenant,
            limit=limit,
            after=None if after is None else after.replace("\0", ""),
            descending=order == "desc",
            statuses=status or (),
            text=None if q is None else q.replace("\0", ""),
            dialect=dialect,
            created_after=created_after,
            created_before=created_before,
        )
    except ValueError as error:
        raise ApiError(422, "invalid_request", str(error), "after") from None
    return JobList(data=[view_of(job, service) for job in found], has_more=more)


@router.get("/v1/jobs/{job_id}", responses=_missing)
def get_job(job_id: JobId, service: ServiceOf, principal: PrincipalOf) -> JobView:
    """How a job stands."""
    return view_of(service.job(job_id, principal), service)


@router.post("/v1/jobs/{job_id}/cancel", responses=_missing)
def cancel_job(job_id: JobId, service: ServiceOf, principal: PrincipalOf) -> JobView:
    """Cancel a job: at once where it waits, within one step where it runs. One that has ended stays as it is."""
    service.job(job_id, principal)
    job = service.store.cancel(job_id, principal.tenant)
    if job is None:
        raise ApiError(404, "not_found", "there is no such job, or it is not yours.", "id")
    return view_of(job, service)


@router.delete("/v1/jobs/{job_id}", status_code=204, responses={**_missing, **error_responses(409)})
def delete_job(job_id: JobId, service: ServiceOf, principal: PrincipalOf) -> Response:
    """Delete a job with its files; one that runs is stopped first."""
    service.delete(job_id, principal)
    return Response(status_code=204)


@router.get(
    "/v1/jobs/{job_id}/content",
    response_class=Response,
    responses={
        **_missing,
        **error_responses(409),
        200: {
            "description": "The file",
            "content": {
                kind: {}
                for kind in ("video/mp4", "image/webp", "image/jpeg", "image/gif", "image/png", "application/json")
            },
        },
        206: {"description": "A part of it", "content": {"*/*": {}}},
        416: {"description": "No such part", "content": {"text/plain": {}}},
    },
)
def job_content(
    job_id: JobId,
    service: ServiceOf,
    principal: PrincipalOf,
    variant: Literal["video", "thumbnail", "spritesheet", "gif", "sheet", "receipt"] = "video",
) -> Response:
    """The clip in one of its forms."""
    job = service.job(job_id, principal)
    return send_variant(service, ended_file(job), variant, job.id)


@router.get(
    "/v1/jobs/{job_id}/preview",
    response_class=Response,
    responses={**_missing, 200: {"description": "What the clip is becoming", "content": {"image/jpeg": {}}}},
)
def job_preview(job_id: JobId, service: ServiceOf, principal: PrincipalOf) -> Response:
    """The latest preview frame of a running job."""
    service.job(job_id, principal)
    path = service.storage.preview(job_id)
    if not path.is_file():
        raise ApiError(404, "no_preview", "there is no preview (yet, or any more).", "id")
    return FileResponse(path, media_type="image/jpeg", headers={"cache-control": "no-store"})


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={**_missing, 200: {"description": "Events until the job ends", "content": {"text/event-stream": {}}}},
)
async def job_events(job_id: JobId, request: Request, service: ServiceOf, principal: PrincipalOf) -> StreamingResponse:
    """Server-sent events: `job` with the job (and `preview`, a data URL, when there is a new one) at every change, until it ends."""
    await run_in_threadpool(service.job, job_id, principal)
    return StreamingResponse(_events(request, service, principal.tenant, job_id), media_type="text/event-stream")


@router.get(
    "/v1/events",
    response_class=StreamingResponse,
    responses={**COMMON_ERRORS, 200: {"description": "Events without end", "content": {"text/event-stream": {}}}},
)
async def all_events(request: Request, service: ServiceOf, principal: PrincipalOf) -> StreamingResponse:
    """The same for all your jobs, without end."""
    return StreamingResponse(_events(request, service, principal.tenant, None), media_type="text/event-stream")


async def _events(request: Request, service: Service, tenant: str, job_id: str | None) -> AsyncIterator[bytes]:
    """Events of one job or of all jobs of a tenant."""
    shown: dict[str, int] = {}

    async def event(job: Job) -> bytes:
        content = view_of(job, service).model_dump(mode="json")
        if job.preview_step > shown.get(job.id, 0) and not job.ended:
            shown[job.id] = job.preview_step
            picture = await run_in_threadpool(_read_preview, service, job.id)
            if picture is not None:
                content["preview"] = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        return f"event: job\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()

    with request.app.state.watcher.subscribe(tenant, job_id) as changes:
        yield b": videogen\n\n"
        if job_id is not None:
            job = await run_in_threadpool(service.store.get, job_id, tenant)
            if job is None:
                return
            yield await event(job)
            if job.ended:
                return
        while not request.app.state.closing.is_set():
            try:
                job = await asyncio.wait_for(changes.get(), KEEPALIVE_SECONDS)
            except (TimeoutError, asyncio.TimeoutError):  # two kinds before Python 3.11
                yield b": still here\n\n"
                continue
            if job is None:
                return
            yield await event(job)
            if job_id is not None and job.ended:
                return


def _read_preview(service: Service, job_id: str) -> bytes | None:
    try:
        return service.storage.preview(job_id).read_bytes()
    except OSError:
        return None


@router.post("/v1/estimates", responses=COMMON_ERRORS)
def estimate(body: Ask, request: Request, service: ServiceOf, principal: PrincipalOf) -> EstimateView:
    """What a request would take, without starting it; also says what would be adjusted."""
    for _, param, reference in references(body):
        if reference.startswith(("data:", "http://", "https://")):
            message = f"`{param}` must be an id in an estimate, got a data URL or an address; upload it first."
            raise ApiError(422, "invalid_request", message, param)
    planned = service.plan(body, principal)
    return EstimateView(
        **asdict(service.estimate(planned, body.priority)),
        request=planned.request.model_dump(mode="json"),
        adjusted=planned.adjusted,
        warnings=planned.warnings,
    )


@router.post("/v1/prompts", responses=COMMON_ERRORS)
def look_at_prompt(body: Words, service: ServiceOf, principal: PrincipalOf) -> WordsView:
    """Which words of a prompt the model does not know, and the prompt rewritten towards those it knows."""
    from videogen.conditioning.camera import parse_camera
    from videogen.server.optimizer import optimize_prompt
    from videogen.server.planning import check_text

    try:
        check_text(body.prompt, "prompt")
        service.planner.warm()
        read = read_words(body.prompt, service.planner.words_vocabulary)
        plan = parse_camera(read.prompt)
        rewritten = optimize_prompt(read.prompt, service.planner.lexicon, has_subject=body.has_subject)
    except ValueError as error:
        raise ApiError(422, "invalid_request", str(error), "prompt") from None
    words = service.planner.lexicon.words
    unknown = unknown_words(plan.prompt_without_brackets, words) if any(words.values()) else {}
    return WordsView(unknown=unknown, rewritten=rewritten.prompt, changes=[*read.notes, *rewritten.changes])


@router.post("/v1/uploads", responses=COMMON_ERRORS, openapi_extra=UPLOAD_SCHEMA)
async def upload(request: Request, service: ServiceOf, principal: PrincipalOf) -> UploadView:
    """Upload a picture or a video to name in requests; multipart with `file`."""
    service.limit(principal, address_of(request))
    content, name, _ = await read_form(request, "file", known=("purpose",))
    kept = await run_in_threadpool(service.keep, principal, content, name)
    return UploadView(
        id=kept.id,
        kind=kept.kind,
        name=kept.name,
        width=kept.width,
        height=kept.height,
        adjusted=list(kept.adjusted),
    )


@router.get(
    "/v1/uploads/{file_id}/content",
    response_class=Response,
    responses={**_missing, 200: {"description": "The picture, decoded", "content": {"image/png": {}}}},
)
def upload_content(file_id: FileId, service: ServiceOf, principal: PrincipalOf) -> Response:
    """An uploaded picture, decoded."""
    row = service.media.find(file_id, principal.tenant) if is_id(file_id) else None
    path = service.storage.upload(file_id, "image") if row is not None and row.kind == "image" else None
    if path is None or not path.is_file():
        raise ApiError(404, "not_found", "there is no such picture, or it is not yours, or it expired.", "file_id")
    return FileResponse(path, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


@router.get("/v1/model", responses=COMMON_ERRORS)
def model(service: ServiceOf, principal: PrincipalOf) -> dict[str, Any]:
    """The model of this server: its words, sizes, lengths and camera commands, and what this server allows."""
    from videogen.conditioning.camera import CAMERA_CHINESE, CAMERA_COMMANDS

    planner, settings = service.planner, service.settings
    planner.warm()
    usual: Quality = "high" if planner.fast is None else "fast"
    return {
        "name": planner.model_name,
        "version": __version__,
        "sha256": planner.model_sha256,
        "vocabulary": planner.vocabulary,
        "words": planner.lexicon.words,
        "suggestions": planner.lexicon.plain,
        "cameras": [{"name": name, "zh": CAMERA_CHINESE[name]} for name in CAMERA_COMMANDS],
        "scale_factor_temporal": planner.scale_factor_temporal,
        "qualities": ["high"] if planner.fast is None else ["fast", "high"],
        "default_steps": planner.default_steps(usual),
        "default_guidance_scale": planner.default_guidance_scale(usual),
        "max_duration": settings.max_duration,
        "max_upload_bytes": settings.max_upload_bytes,
        "remote_images": settings.allow_remote_images,
        "watermark": settings.watermark,
    }


@operations.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok", "version": __version__}


@operations.get("/ready", responses={503: {"description": "Not ready", "content": {"application/json": {}}}})
def ready(service: ServiceOf) -> JSONResponse:
    """Jobs are accepted and somebody does them: the database answers and a worker has the model loaded."""
    started = time.monotonic()
    rows = service.workers()
    states = [row.state for row in rows if row.state != "server"]
    fine = service.worker_ready()
    content = {
        "status": "ready" if fine else "not ready",
        "workers": {state: states.count(state) for state in ("loading", "idle", "running")},
        "database_seconds": round(time.monotonic() - started, 4),
    }
    return JSONResponse(content, 200 if fine else 503)


@operations.get(
    "/metrics",
    response_class=Response,
    responses={
        **error_responses(401, 403),
        200: {"description": "Prometheus' text format", "content": {"text/plain": {}}},
    },
)
def metrics(service: ServiceOf, principal: PrincipalOf) -> Response:
    """Numbers for Prometheus; with API keys, only for an admin's."""
    if not principal.admin:
        raise ApiError(403, "not_admin", "metrics are for keys made with --admin.")
    from videogen.server.metrics import MEDIA_TYPE

    return Response(service.metrics.render(), media_type=MEDIA_TYPE)


def view_of(job: Job, service: Service) -> JobView:
    """A job as the extension shows it."""
    left = service.seconds_left(job)
    error = None
    if job.error_code is not None:
        error = JobError(code=job.error_code, message=job.error_message or "")
    fields = {name: getattr(job, name) for name in JobView.model_fields if hasattr(job, name) and name != "error"}
    return JobView(**fields, error=error, seconds_left=None if left is None else round(left, 1))
