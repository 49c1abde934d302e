"""The receipt: what made a video, in full, stored in the file itself so that the same bytes can be made again.

A receipt holds the request (prompt, sizes, seed, conditioning images as the model saw them), a hash of the weights, and the
environment (versions, thread count, instruction set), all of which decide about the last bit. It holds no
time, no path, no host and no user name. In MP4 and WebM it is the metadata entry `videogen_receipt`, in GIF the comment; the
text is JSON.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from videogen._version import __version__

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "RECEIPT_KEY",
    "Environment",
    "IdentityRecord",
    "PictureRecord",
    "Receipt",
    "Request",
    "current_environment",
    "describe_differences",
    "frames_sha256",
    "picture_record",
    "read_receipt",
    "receipt_metadata",
    "source_frames",
    "weights_sha256",
]

RECEIPT_KEY = "videogen_receipt"
LABEL = f"AI-generated video, made with videogen {__version__}"
PACKAGES = ("torch", "diffusers", "av", "numpy")

Task = Literal["text", "image", "subject", "extend"]
Role = Literal["first", "last", "keyframe", "subject", "source"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PictureRecord(_Record):
    """A picture as the model saw it: after cropping and resizing, lossless."""

    role: Role
    time: float | None = None  # of a keyframe, seconds
    sha256: str  # of the raw RGB bytes
    png: str | None  # base64; None when images were kept out of the receipt

    def picture(self) -> Image.Image:
        """Decode to an RGB picture; ValueError when the receipt holds none, or another than it says."""
        from PIL import Image

        if self.png is None:
            raise ValueError(
                f"the receipt must hold its {self.role} picture to be replayed, but was written without images; "
                "generate again with the original picture."
            )
        try:
            picture = Image.open(io.BytesIO(base64.b64decode(self.png, validate=True))).convert("RGB")
        except (ValueError, OSError, Image.DecompressionBombError):
            raise ValueError(
                f"the receipt must hold intact pictures, but its {self.role} picture is damaged."
            ) from None
        if hashlib.sha256(picture.tobytes()).hexdigest() != self.sha256:
            raise ValueError(f"the receipt must hold unchanged pictures, but its {self.role} picture was altered.")
        return picture


class Request(_Record):
    """Everything that decides what is generated, each value as it was used (nothing left to a default)."""

    task: Task
    prompt: str  # as the model was given it
    asked_prompt: str | None = None  # as it was asked for, where words of it were read as others
    negative_prompt: str = ""
    camera: str | None = None  # bracket commands besides those of the prompt
    camera_vectors: tuple[tuple[float, ...], ...] | None = None  # [f, 9] instead of commands
    height: int
    width: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    seed: int
    guidance_method: Literal["standard", "cfg_zero"] = "standard"
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    quality: Literal["fast", "high"] = "high"
    batch_size: int = 1  # videos per forward pass; beyond 1 the neighbours decide about the last bit too
    pictures: tuple[PictureRecord, ...] = ()


class Environment(_Record):
    """What besides the request decides about the last bit of the result."""

    versions: dict[str, str]
    num_threads: int
    instruction_set: str
    machine: str
    device: str


class IdentityRecord(_Record):
    """How much of a subject's look was found again, 0..1 (`videogen.evaluation.identity`)."""

    mean: float
    worst: float


class Receipt(_Record):
    """A request, what it ran on, and what came of it."""

    format: Literal[1] = 1
    request: Request
    model_sha256: str
    environment: Environment
    frames_sha256: str
    adjusted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    identity: tuple[IdentityRecord, ...] = ()  # one per subject

    def to_json(self, indent: int | None = None) -> str:
        """The same receipt always gives the same text."""
        content = self.model_dump(mode="json")
        if self.request.asked_prompt is None:  # a receipt written before there was the field stays the same
            del content["request"]["asked_prompt"]
        for name in {"guidance_interval", "quality"} - self.request.model_fields_set:  # likewise
            del content["request"][name]
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)

    def without_images(self) -> Receipt:
        """The same receipt with hashes only in the place of pictures."""
        pictures = tuple(picture.model_copy(update={"png": None}) for picture in self.request.pictures)
        return self.model_copy(update={"request": self.request.model_copy(update={"pictures": pictures})})


def picture_record(picture: Image.Image, role: Role, time: float | None = None) -> PictureRecord:
    """Record an RGB picture losslessly."""
    picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return PictureRecord(
        role=role,
        time=time,
        sha256=hashlib.sha256(picture.tobytes()).hexdigest(),
        png=base64.b64encode(buffer.getvalue()).decode(),
    )


def frames_sha256(frames: np.ndarray) -> str:
    """Hash of uint8 frames [F, H, W, 3] before encoding."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


def weights_sha256(folder: str | Path) -> str:
    """Hash of a model folder: every .safetensors and .json file with its relative path, in order of path."""
    digest = hashlib.sha256()
    folder = Path(folder)
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".safetensors", ".json")
    )
    for name in files:
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def current_environment(device: str = "cpu") -> Environment:
    """Describe this process: versions, threads, instruction set, processor family."""
    import torch

    versions = {"videogen": __version__} | {name: _version(name) for name in PACKAGES}
    if device != "cpu":
        device = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return Environment(
        versions=versions,
        num_threads=torch.get_num_threads(),
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        machine=platform.machine(),
        device=device,
    )


def describe_differences(then: Environment, now: Environment) -> list[str]:
    """One sentence for each thing that may make the bytes differ; empty when nothing does."""
    differences = []
    for name in sorted(set(then.versions) | set(now.versions)):
        was, here = then.versions.get(name, "not installed"), now.versions.get(name, "not installed")
        if was != here:
            differences.append(f"{name} was {was}, here it is {here}.")
    if then.num_threads != now.num_threads:
        differences.append(f"the thread count was {then.num_threads}, here it is {now.num_threads}.")
    for name in ("instruction_set", "machine", "device"):
        was, here = getattr(then, name), getattr(now, name)
        if was != here:
            differences.append(f"the {name.replace('_', ' ')} was {was}, here it is {here}.")
    return differences


def receipt_metadata(receipt: Receipt, suffix: str) -> dict[str, str]:
    """What to hand to `write_video` for a file ending in `suffix` (".mp4", ".webm" or ".gif")."""
    if suffix == ".gif":
        return {"comment": receipt.to_json()}
    return {"comment": LABEL, RECEIPT_KEY: receipt.to_json()}


def read_receipt(path: str | Path) -> Receipt:
    """Read the receipt of a video, or of a JSON file that `videogen info` wrote.

    Raises:
        ValueError: no such file, not a video, no receipt in it, or one of another format.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ValueError(f"the receipt must be a file that exists, got {path}.") from None
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"the receipt must be a readable JSON file, got {path}.") from None
    else:
        from videogen.data.video import read_metadata

        found = read_metadata(path)
        text = found.get(RECEIPT_KEY) or found.get("comment", "")
        if not text.startswith("{"):
            raise ValueError(f"{path} holds no videogen receipt; was it re-encoded, or made by another program?")
    return _parse(text, path)


def _parse(text: str, path: Path) -> Receipt:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the receipt in {path} must be JSON, but is damaged ({error}).") from None
    if isinstance(content, dict) and content.get("format") not in (1, None):
        raise ValueError(
            f"the receipt in {path} has format {content['format']}, this version reads 1; update videogen."
        )
    try:
        return Receipt.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"the receipt in {path} is not complete: {place}: {first['msg']}.") from None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def source_frames(pictures: Sequence[PictureRecord]) -> np.ndarray:
    """The frames of a video that was extended, uint8 [F, H, W, 3], in order."""
    return np.stack([np.asarray(record.picture()) for record in pictures if record.role == "source"])
