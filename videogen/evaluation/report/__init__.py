"""Reports of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videogen.data.files import write_atomic
from videogen.evaluation.collection import root_of
from videogen.evaluation.report.page import build_page

__all__ = ["build_page", "write_report"]


def write_report(path: str | Path, results: Mapping[str, Any], folder: str | Path) -> None:
    """Writes the page of `build_page`, whole or not at all.

    Args:
        path: file to write.
        results: of `videogen.evaluation.score.score_folder`.
        folder: that was scored; the clips are taken from it.
    """
    write_atomic(path, build_page(results, root_of(Path(folder))).encode())
