"""`videogen vocabulary`: the words that a model, or a rung of Stage, knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from videogen.data.stage import Vocabulary


def vocabulary(
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
    rung: Annotated[
        list[str] | None,
        typer.Option(help="A rung of Stage, rung1 to rung4, or cameras, instead of a model; may be repeated."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, as in docs/vocabulary.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the actors, scenes, motions, camera commands, sizes and lengths that the model knows."""
    from videogen.data.stage import rungs

    for name in rung or []:
        if name not in rungs():
            raise ValueError(f"`--rung` must be one of {', '.join(rungs())}, got {name}.")
    if rung and model is not None:
        raise ValueError("`--rung` and `--model` must not both be given; leave one of them out.")
    known = {name: rungs()[name] for name in rung} if rung else {"": model_vocabulary(model)}
    if as_json:
        content: Any = {name: vocabulary.to_dict() for name, vocabulary in known.items()}
        typer.echo(json.dumps(content if rung else content[""], ensure_ascii=False, indent=2))
    elif markdown:
        typer.echo(vocabulary_document(known) if rung else vocabulary_markdown(known[""]))
    else:
        from rich.console import Console
        from rich.table import Table

        for name, words in known.items():
            table = Table("what", "words", title=name or None, show_lines=True)
            for row in vocabulary_rows(words):
                table.add_row(*(cell.replace("[", r"\[") for cell in row))
            Console().print(table)


def model_vocabulary(model: Path | None) -> Vocabulary:
    """What a model folder's `vocabulary.json` lists; empty where it says nothing (a model of your own videos).

    Raises:
        ValueError: no such file.
    """
    from videogen.cli.run import model_folder
    from videogen.data.stage import Vocabulary

    path = model_folder(model) / "vocabulary.json"
    if not path.is_file():
        raise ValueError(f"`--model` must be a model folder with a vocabulary.json, got {path.parent}.")
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Vocabulary)}  # beside them may stand phrases
    nothing: dict[str, Any] = {"actors": (), "scenes": (), "motions": (), "cameras": ()}
    if not content.get("actors"):
        nothing |= {"lights": (), "max_actors": 0}
    return Vocabulary.from_dict({**nothing, **{name: value for name, value in content.items() if name in names}})


def vocabulary_rows(known: Vocabulary) -> list[tuple[str, str]]:
    """Kind and words, in the order of a prompt; actors with their synonyms and Chinese names. Empty kinds are left out."""
    from videogen.conditioning.camera import CAMERA_CHINESE
    from videogen.data.stage import RELATIONS
    from videogen.data.stage.actors import load_actors

    actors = load_actors()
    names = []
    for name in known.actors:
        actor = actors[name]
        more = ", ".join((*actor.synonyms_en, actor.name_zh, *actor.synonyms_zh))
        names.append(f"{name} ({more})")
    together, segments = known.max_camera_commands, known.max_camera_segments
    rows = [
        (f"actors ({len(names)})", "; ".join(names)),
        ("actors at once", f"up to {known.max_actors}" if known.max_actors else ""),
        ("relations", ", ".join(RELATIONS) if known.max_actors > 1 else ""),
        ("scenes", ", ".join(known.scenes)),
        ("light", ", ".join(known.lights)),
        ("motions", ", ".join(known.motions)),
        ("speeds", ", ".join(known.speeds) if len(known.speeds) > 1 else ""),
        ("events", ", ".join({"enters": "another actor enters"}.get(event, event) for event in known.events)),
        ("camera", ", ".join(f"[{name}] [{CAMERA_CHINESE[name]}]" for name in known.cameras)),
        ("camera commands together", f"up to {together}" if together > 1 else ""),
        ("camera commands in sequence", f"up to {segments}" if segments > 1 else ""),
        ("sizes", ", ".join(f"{width}x{height}" for width, height in known.sizes)),
        ("frames", ", ".join(map(str, known.num_frames)) + " (longer ones are continued)"),
        ("frames per second", ", ".join(f"{rate:g}" for rate in known.fps)),
    ]
    return [(kind, words) for kind, words in rows if words]


CLIPS = ("sizes", "frames", "frames per second")
"""Kinds that a model has, and not a rung, of which a model may be trained on clips of any shape."""


def vocabulary_markdown(known: Vocabulary, leave_out: Sequence[str] = ()) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | words |", "| --- | --- |"]
    lines += [f"| {kind} | {words} |" for kind, words in vocabulary_rows(known) if kind not in leave_out]
    return "\n".join(lines)


def vocabulary_document(rungs: dict[str, Vocabulary]) -> str:
    """`docs/vocabulary.md`: the tables of rungs of Stage under a heading each."""
    command = " ".join(["videogen vocabulary --markdown", *(f"--rung {name}" for name in rungs)])
    parts = [
        "# Vocabulary",
        "What the rungs of Stage hold; `videogen vocabulary` prints what the shipped model knows, and the size and length of its clips. English and Chinese words may be mixed.",
        f"Generated: `{command} > docs/vocabulary.md`",
    ]
    for name, known in rungs.items():
        parts += [f"## {name}", vocabulary_markdown(known, leave_out=CLIPS)]
    return "\n\n".join(parts)
