"""`videogen vocabulary`: the words that a model knows."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from videogen.data.stage import Vocabulary


def vocabulary(
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table, as in the documentation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the actors, scenes, motions, camera commands, sizes and lengths that the model knows."""
    from videogen.cli.run import model_folder
    from videogen.data.stage import Vocabulary

    path = model_folder(model) / "vocabulary.json"
    if not path.is_file():
        raise ValueError(f"`model` must be a model folder with a vocabulary.json, got {path.parent}.")
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Vocabulary)}  # beside them stand phrases and default settings
    known = Vocabulary.from_dict({name: value for name, value in content.items() if name in names})
    if as_json:
        typer.echo(json.dumps(known.to_dict(), ensure_ascii=False, indent=2))
    elif markdown:
        typer.echo(vocabulary_markdown(known))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("what", "words", show_lines=True)
        for kind, words in vocabulary_rows(known):
            table.add_row(kind, words)
        Console().print(table)


def vocabulary_rows(known: Vocabulary) -> list[tuple[str, str]]:
    """Kind and words, in the order of a prompt; actors with their Chinese name and synonyms."""
    from videogen.conditioning.camera import CAMERA_CHINESE
    from videogen.data.stage.actors import load_actors

    actors = load_actors()
    names = []
    for name in known.actors:
        actor = actors[name]
        more = ", ".join((*actor.synonyms_en, actor.name_zh, *actor.synonyms_zh))
        names.append(f"{name} ({more})")
    rows = [
        (f"actors ({len(names)})", "; ".join(names)),
        ("scenes", ", ".join(known.scenes)),
        ("light", ", ".join(known.lights)),
        ("motions", ", ".join(known.motions)),
        ("camera", ", ".join(f"[{name}] [{CAMERA_CHINESE[name]}]" for name in known.cameras)),
        ("actors at once", f"up to {known.max_actors}"),
        ("sizes", ", ".join(f"{width}x{height}" for width, height in known.sizes)),
        ("frames", ", ".join(map(str, known.num_frames)) + " (longer ones are continued)"),
        ("frames per second", ", ".join(map(str, known.fps))),
    ]
    if len(known.speeds) > 1:
        rows.insert(4, ("speeds", ", ".join(known.speeds)))
    if known.events:
        rows.insert(
            5, ("events", ", ".join({"enters": "another actor enters"}.get(event, event) for event in known.events))
        )
    return rows


def vocabulary_markdown(known: Vocabulary) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | words |", "| --- | --- |"]
    lines += [f"| {kind} | {words} |" for kind, words in vocabulary_rows(known)]
    return "\n".join(lines)
