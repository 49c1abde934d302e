"""Files of the server: found by an id of fixed form only, so that no name from outside ever becomes a path."""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path

_ID = re.compile(r"(?:file|video)_[0-9a-f]{24}")

VARIANTS: dict[str, tuple[str, str]] = {
    "video": (".mp4", "video/mp4"),
    "thumbnail": (".webp", "image/webp"),
    "spritesheet": (".jpg", "image/jpeg"),
    "gif": (".gif", "image/gif"),
    "sheet": (".png", "image/png"),
    "receipt": (".json", "application/json"),
}
"""What is kept of a clip: name -> (ending, media type)."""


class Storage:
    """The folder `data`: `files` (uploads and clips), `previews`, `checkpoints`.

    Args:
        data: made if it is not there; readable by its owner only.
    """

    def __init__(self, data: Path):
        self.data = data
        for name in ("files", "previews", "checkpoints"):
            (data / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    @staticmethod
    def new_id() -> str:
        return f"file_{secrets.token_hex(12)}"

    @staticmethod
    def clip_id(job_id: str) -> str:
        """The id of a job's file: the same for every attempt, so that a job can leave only one."""
        return "file_" + _checked(job_id).removeprefix("video_")

    def path(self, file_id: str, suffix: str) -> Path:
        """Where a file lies; `suffix` is one of ours.

        Raises:
            ValueError: no id of this server.
        """
        name = _checked(file_id)
        folder = self.data / "files" / name.removeprefix("file_")[:2]
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder / f"{name}{suffix}"

    def variant(self, file_id: str, name: str) -> Path:
        return self.path(file_id, VARIANTS[name][0])

    def upload(self, file_id: str, kind: str) -> Path:
        """A decoded upload: a PNG, or frames as .npz."""
        return self.path(file_id, ".png" if kind == "image" else ".npz")

    def preview(self, job_id: str) -> Path:
        return self.data / "previews" / f"{_checked(job_id)}.jpg"

    def checkpoint(self, job_id: str) -> Path:
        return self.data / "checkpoints" / f"{_checked(job_id)}.safetensors"

    def num_bytes(self, file_id: str) -> int:
        """What a file takes on the disk in all its forms."""
        return sum(path.stat().st_size for path in self._forms(file_id) if path.is_file())

    def remove(self, file_id: str) -> None:
        """Remove a file in all its forms."""
        for path in self._forms(file_id):
            path.unlink(missing_ok=True)

    def _forms(self, file_id: str) -> list[Path]:
        return [self.path(file_id, suffix) for suffix in {suffix for suffix, _ in VARIANTS.values()} | {".npz"}]

    def remove_work(self, job_id: str) -> None:
        """Remove what a running job keeps."""
        self.preview(job_id).unlink(missing_ok=True)
        self.checkpoint(job_id).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes that are free on the disk."""
        return shutil.disk_usage(self.data).free


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id of a job or a file."""
    return _ID.fullmatch(text) is not None


def _checked(file_id: str) -> str:
    if not is_id(file_id):
        raise ValueError("`file_id` must be an id that this server gave, such as file_0123456789abcdef01234567.")
    return file_id
