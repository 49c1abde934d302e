"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_path", "check_output_path", "write_atomic"]


def check_output_path(path: str | Path, suffixes: tuple[str, ...], argument: str = "output") -> Path:
    """Say now, before minutes of work, what would make writing `path` fail later.

    Args:
        path: file to be written; it may exist (it will be replaced).
        suffixes: accepted file name endings, lower case with dot.
        argument: name of the option, for the message.

    Raises:
        ValueError: unknown ending, missing folder, a folder in the file's place, or no permission to write.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        raise ValueError(f"`{argument}` must end in one of {known}, got {path}; rename it.")
    if path.is_dir():
        raise ValueError(f"`{argument}` must be a file, got the folder {path}; add a file name.")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"`{argument}` must lie in a folder that exists, got {path}; create {folder} first.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"`{argument}` must lie in a folder that can be written, got {path}; choose another folder.")
    return path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on any error or Ctrl-C.

    The temporary name keeps the ending, because encoders choose the format by it.
    """
    path = Path(path)
    temporary = path.with_name(
        f".{path.stem.encode()[:80].decode(errors='ignore')}.{secrets.token_hex(4)}{path.suffix}"
    )
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
