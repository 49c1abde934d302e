"""`videogen serve`: the API and the studio."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    data: Annotated[Path, typer.Option(help="Folder of jobs, clips and uploads.")] = Path("videogen-data"),
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes; 0 leaves the work to other servers.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of a worker; by default its share of the cores.")] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql://... for several servers; by default SQLite in --data.")
    ] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Workers are actors of this Ray cluster.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys, made with `videogen keys add`.")] = None,
    served_host: Annotated[
        list[str] | None, typer.Option(help="A further name of this server, for use without keys; may be repeated.")
    ] = None,
    allow_remote_images: Annotated[bool, typer.Option(help="Fetch pictures that requests name by address.")] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]", help="May be called back and fetched from although private; may be repeated."
        ),
    ] = None,
    watermark: Annotated[str, typer.Option(help="'asked' or 'always': draw the visible mark on every clip.")] = "asked",
    max_duration: Annotated[float, typer.Option(metavar="S", help="Seconds of the longest clip.")] = 30.0,
    max_queue: Annotated[int, typer.Option(help="Jobs that may wait or run, of one tenant.")] = 1000,
    rate_limit: Annotated[float, typer.Option(help="Requests a minute that create something, of one key.")] = 600.0,
    max_batch: Annotated[int, typer.Option(help="Jobs of equal shape computed together, where they allow it.")] = 4,
    keep_days: Annotated[float, typer.Option(help="Days until clips and uploads expire; 0 keeps them.")] = 30.0,
    keep_gigabytes: Annotated[float | None, typer.Option(help="The oldest go when all are larger than this.")] = None,
) -> None:
    """Serve the API (MiniMax's and OpenAI's dialect) and the studio, until Ctrl-C."""
    from pydantic import ValidationError

    try:
        import uvicorn

        from videogen.server.app import create_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("videogen"):
            raise
        raise ValueError(f"`serve` needs {error.name}: pip install 'videogen-moe[server]'.") from None
    from videogen.server.settings import Settings

    try:
        settings = Settings.model_validate(
            {
                "host": host,
                "port": port,
                "data": data,
                "model": model,
                "workers": workers,
                "threads": threads,
                "database": database,
                "ray": ray,
                "api_key_file": api_key_file,
                "served_hosts": tuple(served_host or ()),
                "allow_remote_images": allow_remote_images,
                "allowed_hosts": tuple(name.casefold() for name in allowed_host or ()),
                "watermark": watermark,
                "max_duration": max_duration,
                "max_queue": max_queue,
                "rate_limit": rate_limit,
                "max_batch": max_batch,
                "keep_days": keep_days or None,
                "keep_bytes": None if keep_gigabytes is None else int(keep_gigabytes * 1e9),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            raise ValueError(message) from None
        option = str(first["loc"][0]).replace("_", "-")
        raise ValueError(f"`--{option}`: {message}, got {first['input']!r}.") from None
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_server(settings, uvicorn, create_app)


def run_server(settings, uvicorn, create_app) -> None:  # type: ignore[no-untyped-def]
    """Serve until a signal says to stop, then let the workers end their step."""
    from videogen.server.supervisor import lock_data

    lock = lock_data(settings) if settings.database_url.startswith("sqlite") else None
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=2000,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:  # type: ignore[no-untyped-def]
            await super().startup(sockets)
            if self.started:
                address = self.servers[0].sockets[0].getsockname()
                name = f"[{address[0]}]" if ":" in address[0] else address[0]
                typer.echo(f"videogen serves at http://{name}:{address[1]}/ (Ctrl-C to stop)", err=True)

        def handle_exit(self, sig, frame) -> None:  # type: ignore[no-untyped-def]
            if self.started:  # streams of events end, so that nobody waits for them
                app.state.closing.set()
                app.state.watcher.close()
            super().handle_exit(sig, frame)

    Server(config).run()
    if lock is not None:
        lock.close()
