"""The settings of a server: one frozen object, read from the command line, passed on to the workers as JSON."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

WatermarkPolicy = Literal["asked", "always"]


class Settings(BaseModel):
    """How a server runs.

    Attributes:
        host: address to listen on; anything but a loopback address needs `api_key_file`.
        port: 0 takes a free one.
        data: folder of everything the server writes.
        database: SQLAlchemy URL; None is SQLite in `data`. Several servers share one PostgreSQL and one `data`.
        model: model folder; None is the shipped one.
        workers: worker processes (or Ray actors); 0 leaves the work to other servers on the same database.
        threads: torch threads of a worker; None divides the cores, at most 8 each, one left for the answers (a Ray actor takes 1).
        ray: address of a Ray cluster ("auto", "ray://host:10001"); None starts processes here.
        api_key_file: JSON file written by `videogen keys`; None asks for no key.
        allow_remote_images: whether requests may name pictures by http(s) address.
        allowed_hosts: "host" or "host:port" that may be called back and fetched from although its address is private.
        served_hosts: further names under which the studio may be reached without a key (the Host header).
        watermark: "always" draws the visible mark on every clip.
        lease: seconds after which the job of a silent worker is taken over.
        max_strikes: deaths of a worker after which a job fails.
        max_batch: jobs of equal shape taken together where their requests allow it.
        max_duration: seconds of the longest clip.
        max_queue: jobs that may wait or run, of one tenant (keys may say less).
        rate_limit: requests per minute that create jobs or files, of one key or address (keys may say otherwise).
        max_upload_bytes, max_image_pixels, max_video_frames: what an upload may hold.
        max_body_bytes: of one request, which may carry several pictures.
        decode_seconds, decode_memory_bytes: what decoding one upload may take.
        keep_days: days after which files of ended jobs expire.
        keep_bytes: oldest files go first when all files together are larger; None is no limit.
        nice: by how much workers give way to the answers of the server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    data: Path = Path("videogen-data")
    database: str | None = None
    model: Path | None = None
    workers: int = Field(1, ge=0, le=256)
    threads: int | None = Field(None, ge=1, le=256)
    ray: str | None = None
    api_key_file: Path | None = None
    allow_remote_images: bool = False
    allowed_hosts: tuple[str, ...] = ()
    served_hosts: tuple[str, ...] = ()
    watermark: WatermarkPolicy = "asked"
    lease: float = Field(15.0, gt=0.5, le=3600)
    max_strikes: int = Field(3, ge=1, le=100)
    max_batch: int = Field(4, ge=1, le=64)
    max_duration: float = Field(30.0, gt=0, le=600)
    max_queue: int = Field(1000, ge=1)
    rate_limit: float = Field(600.0, gt=0)
    max_upload_bytes: int = Field(20 * 1024**2, ge=1024)
    max_image_pixels: int = Field(64_000_000, ge=64)
    max_video_frames: int = Field(600, ge=1)
    max_body_bytes: int = Field(64 * 1024**2, ge=1024)
    decode_seconds: float = Field(20.0, gt=0)
    decode_memory_bytes: int = Field(2 * 1024**3, ge=64 * 1024**2)
    keep_days: float | None = Field(30.0, gt=0)
    keep_bytes: int | None = Field(None, ge=0)
    nice: int = Field(5, ge=0, le=19)

    @field_validator("data", "model", "api_key_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().resolve()

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if not is_loopback(self.host) and self.api_key_file is None:
            raise ValueError(
                f"`--host` must be a loopback address without `--api-key-file`, got {self.host}; make keys with "
                "`videogen keys add NAME --file keys.json` and pass that file."
            )
        return self

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'videogen.db'}"


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
