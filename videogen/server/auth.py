"""API keys: kept as hashes in a JSON file, compared in constant time, each with its tenant and its limits."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from videogen.data.files import write_atomic

log = logging.getLogger(__name__)

LOCAL_TENANT = "local"
_KEY = re.compile(r"vg_([A-Za-z0-9_-]{1,64})_([A-Za-z0-9-]{43})")
MAX_BUCKETS = 10_000


class KeyRecord(BaseModel):
    """One key as the file keeps it. The secret has 256 random bits, so that a plain SHA-256 of it is enough."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    tenant: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rate_limit: float | None = Field(None, gt=0)  # requests a minute that create something
    max_queue: int | None = Field(None, ge=1)
    max_priority: int = Field(0, ge=-100, le=100)
    admin: bool = False  # may read /metrics


@dataclass(frozen=True)
class Principal:
    """Who asks."""

    tenant: str
    name: str | None = None
    rate_limit: float | None = None
    max_queue: int | None = None
    max_priority: int = 0
    admin: bool = False


LOCAL = Principal(LOCAL_TENANT, None, max_priority=100, admin=True)
"""Everybody, on a server that asks for no key."""


class KeyRing:
    """The keys of a file, read again when it changes. While a running server cannot read it, no key is valid.

    Raises:
        ValueError: no such file, or not one that `videogen keys` wrote.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._read = 0.0
        self._stamp: tuple[int, int] | None = None
        self._records: dict[str, KeyRecord] = {}
        self._refresh()

    def find(self, key: str | None) -> Principal | None:
        """Who holds this key; None for nobody. Takes the same time whether the name or the secret is wrong."""
        with self._lock:
            if time.monotonic() - self._read > 1.0:
                try:
                    self._refresh()
                except ValueError as error:  # nobody comes in until it can be read again
                    log.error("%s", error)
                    self._records, self._stamp, self._read = {}, None, time.monotonic()
            match = _KEY.fullmatch(key or "")
            name, secret = match.groups() if match else ("", "")
            record = self._records.get(name)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        same = hmac.compare_digest(digest, record.sha256 if record else "0" * 64)
        if record is None or not same:
            return None
        return Principal(
            record.tenant, record.name, record.rate_limit, record.max_queue, record.max_priority, record.admin
        )

    def _refresh(self) -> None:
        status = self.path.stat() if self.path.is_file() else None
        stamp = (status.st_mtime_ns, status.st_size) if status else None
        if stamp != self._stamp or self._stamp is None:
            self._records = {record.name: record for record in read_keys(self.path)}
            self._stamp = stamp
        self._read = time.monotonic()


def read_keys(path: Path) -> list[KeyRecord]:
    """The keys of a file.

    Raises:
        ValueError: as `KeyRing`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [KeyRecord.model_validate(entry) for entry in content["keys"]]
    except FileNotFoundError:
        raise ValueError(
            f"`--api-key-file` must be a file that exists, got {path}; make it with `videogen keys add NAME --file {path}`."
        ) from None
    except PermissionError:
        raise ValueError(
            f"`--api-key-file` must be readable for the user that runs this, got {path}, which is not; change its owner."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        raise ValueError(f"`--api-key-file` must be written by `videogen keys`, got {path}.") from None


def add_key(path: Path, name: str, tenant: str | None = None, **limits: object) -> str:
    """Add a key to a file (made where it is missing, for its owner's eyes only) and return it: it is shown this once.

    Raises:
        ValueError: the name is taken or has other than letters, digits and dashes.
    """
    records = read_keys(path) if path.exists() else []
    if any(record.name == name for record in records):
        raise ValueError(f"`name` must be new, got {name}, which {path} has; remove that key first.")
    secret = secrets.token_urlsafe(32).replace("_", "-")
    try:
        record = KeyRecord(
            name=name,
            tenant=tenant or name,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            **limits,  # type: ignore[arg-type]
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"`{first['loc'][0]}` {first['msg']}.") from None
    _write_keys(path, [*records, record])
    return f"vg_{name}_{secret}"


def remove_key(path: Path, name: str) -> None:
    """Remove a key; running servers notice within a second.

    Raises:
        ValueError: no such key.
    """
    records = read_keys(path)
    if all(record.name != name for record in records):
        raise ValueError(f"`name` must be a key of {path}, got {name}.")
    _write_keys(path, [record for record in records if record.name != name])


def _write_keys(path: Path, records: list[KeyRecord]) -> None:
    text = json.dumps({"keys": [record.model_dump() for record in records]}, indent=1)
    write_atomic(path, text.encode())
    os.chmod(path, 0o600)


class RateLimiter:
    """Token buckets by name: `rate` a minute, that many at once. Kept in memory, of each server its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str, rate: float) -> float:
        """Take one; 0.0 when it was there, else the seconds until there will be one."""
        with self._lock:
            now = self._clock()
            tokens, then = self._buckets.pop(name, (rate, now))
            tokens = min(max(rate, 1.0), tokens + (now - then) * rate / 60)
            allowed = tokens >= 1
            self._buckets[name] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - tokens) * 60 / rate
