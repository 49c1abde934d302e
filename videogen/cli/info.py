"""`videogen info`: print the receipt of a video."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def info(
    file: Annotated[Path, typer.Argument(help="A video that videogen made, or a receipt as JSON.")],
    full: Annotated[bool, typer.Option("--full", help="Print pictures in full on a terminal too.")] = False,
) -> None:
    """Print the receipt of FILE as JSON; a terminal gets pictures shortened, a pipe or file everything."""
    from videogen.receipt import read_receipt

    content = read_receipt(file).model_dump(mode="json")
    if sys.stdout.isatty() and not full:
        for picture in content["request"]["pictures"]:
            if picture["png"]:
                picture["png"] = f"({len(picture['png'])} characters; --full prints them)"
    print(json.dumps(content, ensure_ascii=False, indent=2))
