"""`videogen keys`: API keys of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
KeyFile = Annotated[Path, typer.Option("--file", help="The file that `videogen serve --api-key-file` reads.")]


@app.callback()
def keys() -> None:
    """Make, list and remove the API keys of a server; a running one notices within a second."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the key: letters, digits and dashes.")],
    file: KeyFile = Path("keys.json"),
    tenant: Annotated[
        str | None, typer.Option(help="Whose jobs it sees; keys of one tenant share them. By default the name.")
    ] = None,
    rate_limit: Annotated[float | None, typer.Option(help="Requests a minute that create something.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Jobs of the tenant that may wait or run.")] = None,
    max_priority: Annotated[int, typer.Option(help="Highest priority that it may ask for.")] = 0,
    admin: Annotated[bool, typer.Option("--admin", help="May read /metrics.")] = False,
) -> None:
    """Make a key and print it: it is kept as a hash and cannot be shown again."""
    from videogen.server.auth import add_key

    key = add_key(
        file, name, tenant, rate_limit=rate_limit, max_queue=max_queue, max_priority=max_priority, admin=admin
    )
    typer.echo(key)


@app.command("list")
def list_keys(file: KeyFile = Path("keys.json")) -> None:
    """List the keys: names, tenants and limits."""
    from videogen.server.auth import read_keys

    for record in read_keys(file):
        limits = record.model_dump(exclude={"name", "sha256"}, exclude_none=True)
        typer.echo(f"{record.name}: " + ", ".join(f"{name} {value}" for name, value in limits.items()))


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the key.")], file: KeyFile = Path("keys.json")) -> None:
    """Remove a key."""
    from videogen.server.auth import remove_key

    remove_key(file, name)
    typer.echo(f"Removed {name}.")
