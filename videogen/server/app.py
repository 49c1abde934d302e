"""The application: routes of all dialects, errors in their shapes, the studio, and the watcher behind the events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy import or_, select
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from videogen._version import __version__
from videogen.server import extension, minimax, openai_videos
from videogen.server.database import UNAVAILABLE, epoch, jobs
from videogen.server.forms import validation_error
from videogen.server.http import Guard, error_answer
from videogen.server.jobs import Job
from videogen.server.service import ApiError, Service
from videogen.server.settings import Settings

log = logging.getLogger(__name__)

STUDIO = Path(__file__).parent / "studio"
WATCH_SECONDS = 0.2
NUM_THREADS = 128
"""Requests at work at once: some wait for a challenge or for a picture to be decoded, and the others must not wait for them."""

DESCRIPTION = """Text or an image in, a video out.

Three ways to the same jobs: **MiniMax's** dialect, **OpenAI's videos** dialect, and our own **Jobs** where both fall short. Every parameter is
used, or named under `adjusted`, or refused with the name of the argument."""


class Watcher:
    """Tells subscribers of changes: one look at the database for all of them, five times a second while there is any."""

    def __init__(self, service: Service):
        self.service = service
        self._subscribers: set[tuple[str, str | None, asyncio.Queue[Job | None]]] = set()
        self._known: dict[str, tuple[Any, ...]] = {}

    @contextlib.contextmanager
    def subscribe(self, tenant: str, job_id: str | None) -> Iterator[asyncio.Queue[Job | None]]:
        """A queue of changed jobs, of one or of all of a tenant; None in it means the end."""
        queue: asyncio.Queue[Job | None] = asyncio.Queue(maxsize=1000)
        entry = (tenant, job_id, queue)
        self._subscribers.add(entry)
        try:
            yield queue
        finally:
            self._subscribers.discard(entry)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._subscribers:
                self._known.clear()
                continue
            try:
                changed, gone = await run_in_threadpool(self._look)
            except UNAVAILABLE as error:
                log.error("events: the database does not answer: %s", str(error).splitlines()[0])
                continue
            for job in changed:
                for tenant, job_id, queue in list(self._subscribers):
                    if tenant == job.tenant and job_id in (None, job.id) and not queue.full():
                        queue.put_nowait(job)
            for _, job_id, queue in list(self._subscribers):
                if job_id in gone and not queue.full():
                    queue.put_nowait(None)

    def close(self) -> None:
        """End every stream."""
        for _, _, queue in list(self._subscribers):
            if not queue.full():
                queue.put_nowait(None)

    def _look(self) -> tuple[list[Job], set[str]]:
        """The jobs that changed, and those that somebody watches and that were deleted."""
        columns = (jobs.c.id, jobs.c.status, jobs.c.stage, jobs.c.step, jobs.c.preview_step)
        recent = or_(jobs.c.status == "running", jobs.c.finished_at > epoch() - 5, jobs.c.created_at > epoch() - 5)
        # Asked before the look, which then shows them all: whoever subscribes saw the job.
        watched = {job_id for _, job_id, _ in list(self._subscribers) if job_id is not None}
        with self.service.database.read() as connection:
            rows = list(connection.execute(select(*columns).where(recent)))
            seen = {row.id for row in rows}
            missing = [job_id for job_id in [*watched, *self._known] if job_id not in seen][:500]
            if missing:
                rows += list(connection.execute(select(*columns).where(jobs.c.id.in_(missing))))
        now = {row.id: tuple(row) for row in rows}
        gone = {job_id for job_id in watched if job_id in missing and job_id not in now}
        changed = [job_id for job_id, state in now.items() if self._known.get(job_id) != state]
        self._known = {
            job_id: state for job_id, state in now.items() if state[1] in ("queued", "running") or job_id in seen
        }
        return self.service.store.get_many(changed) if changed else [], gone


def create_app(settings: Settings) -> FastAPI:
    """The application of a server; its workers start and stop with it.

    Raises:
        ValueError: settings that cannot work: no model, an unusable database or key file.
    """
    from videogen.cli.run import model_folder

    service = Service(settings, model_folder(settings.model))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = NUM_THREADS
        app.state.closing = asyncio.Event()
        app.state.watcher = Watcher(service)
        task = asyncio.create_task(app.state.watcher.run())
        await run_in_threadpool(service.start)
        yield
        app.state.closing.set()
        app.state.watcher.close()
        task.cancel()
        await run_in_threadpool(service.stop)

    app = FastAPI(
        title="videogen",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # the usual pages load their parts from another host; ours is in the studio
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service = service
    for router in (minimax.router, openai_videos.router, extension.router, extension.operations):
        app.include_router(router)
    _add_schemas(app, openai_videos.CreateVideo, openai_videos.ExtendVideo)
    _add_studio(app)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, _database_error)
    app.add_exception_handler(OSError, _disk_error)
    app.add_exception_handler(Exception, _internal_error)
    app.add_middleware(Guard, service=service)
    return app


def _add_studio(app: FastAPI) -> None:
    app.mount("/studio", StaticFiles(directory=STUDIO), name="studio")

    @app.get("/", include_in_schema=False)
    async def studio() -> Response:
        return FileResponse(STUDIO / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(STUDIO / "docs.html", headers={"cache-control": "no-cache"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(STUDIO / "icon.svg", media_type="image/svg+xml")


def _add_schemas(app: FastAPI, *models: Any) -> None:
    """Put models into the OpenAPI document that routes with bodies of two kinds refer to."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _drop_default_errors(document)
            for model in models:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                document["components"]["schemas"].update(schema.pop("$defs", {}))
                document["components"]["schemas"][model.__name__] = schema
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_default_errors(document: dict[str, Any]) -> None:
    """Take out the 422 that FastAPI writes beside every argument: where ours is sent, its route says so itself."""
    default = "#/components/schemas/HTTPValidationError"
    for verbs in document["paths"].values():
        for operation in verbs.values():
            answer = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
            if answer.get("schema", {}).get("$ref") == default:
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    request.app.state.service.metrics.refused.labels(error.code).inc()
    return error_answer(request.url.path, error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _api_error(request, validation_error(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request"}
    answer = error_answer(
        request.url.path if error.status_code == 400 else "",
        ApiError(error.status_code, codes.get(error.status_code, "http_error"), str(error.detail)),
    )
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return error_answer(
        request.url.path, ApiError(500, "internal", "an internal error; the log of the server says more.")
    )


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("the database does not answer: %s", str(error).splitlines()[0])
    return await _api_error(
        request, ApiError(503, "database", "the database does not answer; try again.", retry_after=2)
    )


async def _disk_error(request: Request, error: Exception) -> JSONResponse:
    log.error("the disk does not take it: %s", error)
    return await _api_error(
        request, ApiError(503, "storage", "the file could not be stored; try again later.", retry_after=30)
    )
