"""Pictures and videos from strangers: decoded in a child process with limits, and kept only as what came out of it.

The child (`decode`) may use so much memory, processor time and wall time, sees nothing but the bytes, and writes pixels. What
the server keeps is a PNG or an array of its own making, so that no worker ever opens a stranger's file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote_to_bytes

from sqlalchemy import Row, insert, select

from videogen.server import fetch
from videogen.server.database import Database, epoch, files
from videogen.server.planning import Refused, StoredPicture
from videogen.server.settings import Settings
from videogen.server.storage import Storage

log = logging.getLogger(__name__)

FETCH_SECONDS = 15.0
MAX_CHILDREN = 2
Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Upload:
    """A decoded upload as the table of files knows it; `kept` is width and height of a picture as it lies there, upright and reduced."""

    id: str
    name: str
    kind: Kind
    bytes: int
    width: int
    height: int
    adjusted: tuple[str, ...]
    created_at: float
    kept: Sequence[int] | None = None


class Media:
    """Takes uploads in.

    Args:
        settings: the limits.
        storage: where they go.
        database: where they are listed.
        video_side: pixels of the shorter side to which larger videos are reduced.
    """

    def __init__(self, settings: Settings, storage: Storage, database: Database, video_side: int):
        self.settings, self.storage, self.database, self.video_side = settings, storage, database, video_side
        self._children = threading.BoundedSemaphore(MAX_CHILDREN)

    def add(self, content: bytes, name: str, tenant: str, kind: Kind | None, param: str) -> Upload:
        """Decode and keep an upload.

        Args:
            content: the bytes as they came.
            name: for people; never part of a path.
            tenant: whose it is.
            kind: None takes either.
            param: argument at fault, for messages.

        Raises:
            Refused: too large, not a picture or video, damaged, or beyond what decoding may take.
        """
        if not content:
            raise Refused(f"`{param}` must not be empty; send the bytes of a picture.", param)
        if len(content) > self.settings.max_upload_bytes:
            raise Refused(
                f"`{param}` must have at most {self.settings.max_upload_bytes} bytes, got {len(content)}; make it smaller.",
                param,
            )
        file_id = self.storage.new_id()
        with tempfile.TemporaryDirectory(dir=self.storage.data, prefix="decode-") as folder:
            facts = self._decode(content, kind, Path(folder), param)
            found: Kind = facts["kind"]
            decoded = Path(folder) / ("out.png" if found == "image" else "out.npz")
            size = decoded.stat().st_size
            target = self.storage.upload(file_id, found)
            decoded.replace(target)
        clean = "".join(c for c in name if c.isprintable() and c not in '/\\:"')[:200] or "upload"
        with self.database.write() as connection:
            created = connection.execute(
                insert(files)
                .values(
                    id=file_id,
                    tenant=tenant,
                    purpose="upload",
                    kind=found,
                    name=clean,
                    bytes=size,
                    sha256=hashlib.sha256(content).hexdigest(),
                    width=facts["width"],
                    height=facts["height"],
                    adjusted={
                        "sentences": facts["adjusted"],
                        "num_frames": facts["num_frames"],
                        "fps": facts["fps"],
                        "kept": facts.get("kept"),
                    },
                    created_at=epoch(),
                )
                .returning(files.c.created_at)
            ).scalar_one()
        return Upload(
            file_id,
            clean,
            found,
            size,
            facts["width"],
            facts["height"],
            tuple(facts["adjusted"]),
            float(created),
            facts.get("kept"),
        )

    def resolve(self, reference: str, tenant: str, kind: Kind, param: str) -> StoredPicture:
        """What a request names: the id of an upload, a data URL, or (where enabled) an http(s) address.

        Raises:
            Refused: none of these, not there, not allowed, or not usable.
        """
        if reference.startswith("data:"):
            upload = self.add(
                decode_data_url(reference, self.settings.max_upload_bytes, param), "data", tenant, kind, param
            )
            return _stored(upload.id, upload.adjusted, upload.kept, param)
        if reference.startswith(("http://", "https://")):
            upload = self.add(self._fetch(reference, param), "remote", tenant, kind, param)
            return _stored(upload.id, upload.adjusted, upload.kept, param)
        row = self.find(reference, tenant)
        if row is None or row.kind != kind:
            raise Refused(
                f"`{param}` must be the id of an {kind} you uploaded, a data URL"
                + (" or an http(s) address" if self.settings.allow_remote_images else "")
                + f", got {reference[:60]!r}.",
                param,
            )
        if row.purpose == "video_generation":
            return StoredPicture(row.id, is_clip=True)
        facts = row.adjusted or {}
        stored = _stored(row.id, facts.get("sentences", ()), facts.get("kept"), param)
        return replace(stored, num_frames=facts.get("num_frames"), fps=facts.get("fps"))

    def find(self, file_id: str, tenant: str) -> Row | None:
        """The row of a file of a tenant, or None."""
        with self.database.read() as connection:
            return connection.execute(
                select(files).where(files.c.id == file_id, files.c.tenant == tenant)
            ).one_or_none()

    def _fetch(self, url: str, param: str) -> bytes:
        if not self.settings.allow_remote_images:
            raise Refused(
                f"`{param}` must be a data URL or the id of an upload: this server fetches no remote pictures.", param
            )
        try:
            reply = fetch.request(
                "GET",
                url,
                seconds=FETCH_SECONDS,
                max_bytes=self.settings.max_upload_bytes,
                allowed_hosts=self.settings.allowed_hosts,
                redirects=True,
                name=param,
            )
        except (fetch.Forbidden, fetch.Unreachable) as error:
            raise Refused(str(error), param) from None
        if reply.status != 200:
            raise Refused(f"`{param}` must lead to a picture, got status {reply.status} from its host.", param)
        return reply.body

    def _decode(self, content: bytes, kind: Kind | None, folder: Path, param: str) -> dict:
        settings = self.settings
        limits = {
            "kind": kind,
            "max_pixels": settings.max_image_pixels,
            "max_frames": settings.max_video_frames,
            "video_side": self.video_side,
            "memory_bytes": settings.decode_memory_bytes,
            "seconds": settings.decode_seconds,
        }
        if not self._children.acquire(timeout=settings.decode_seconds):
            raise Refused(f"`{param}` cannot be decoded now, others are being decoded; try again later.", param)
        try:
            (folder / "in").write_bytes(content)
            done = subprocess.run(
                [sys.executable, "-m", "videogen.server.decode", json.dumps(limits)],
                cwd=folder,
                capture_output=True,
                timeout=settings.decode_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Refused(
                f"`{param}` must decode within {settings.decode_seconds:g} seconds, and did not; make it smaller.",
                param,
            ) from None
        finally:
            self._children.release()
        try:
            facts = json.loads(done.stdout)
        except ValueError:
            log.warning("decoding ended with %s: %s", done.returncode, done.stderr[-300:].decode(errors="replace"))
            raise Refused(
                f"`{param}` must decode within {settings.decode_memory_bytes >> 20} MiB, and did not; make it smaller.",
                param,
            ) from None
        if "error" in facts:
            raise Refused(facts["error"].replace("`file`", f"`{param}`"), param)
        return facts


def decode_data_url(url: str, max_bytes: int, param: str) -> bytes:
    """The bytes of a data URL (RFC 2397).

    Raises:
        Refused: not one, or too large.
    """
    head, comma, data = url.partition(",")
    if not comma:
        raise Refused(
            f"`{param}` must be a complete data URL such as data:image/png;base64,..., got one without data.", param
        )
    if len(data) > max_bytes * 4 // 3 + 4096:
        raise Refused(f"`{param}` must have at most {max_bytes} bytes; make it smaller.", param)
    try:
        if head.endswith(";base64"):
            return base64.b64decode(unquote_to_bytes(data), validate=True)
        return unquote_to_bytes(data)
    except (binascii.Error, ValueError, UnicodeError):
        raise Refused(f"`{param}` must be valid base64 behind data:...;base64, and is not.", param) from None


def _stored(file_id: str, sentences: Sequence[str], kept: Sequence[int] | None, param: str) -> StoredPicture:
    width, height = kept or (None, None)
    told = tuple(sentence.replace("`file`", f"`{param}`") for sentence in sentences)
    return StoredPicture(file_id, told, width=width, height=height)
