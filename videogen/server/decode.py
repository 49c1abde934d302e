"""The child process that decodes one upload: reads `in`, writes `out.png` or `out.npz` beside it, says what it found as JSON.

It limits itself before it looks at a single byte: memory, processor time, size of files. Nothing of the project that imports torch is loaded.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from typing import Any

from videogen.conditioning.fit import exif_orientation

MIN_SIDE = 8
MAX_ASPECT = 8.0
KEPT_SIDE = 1536
"""Pixels; larger pictures are reduced to this before they are kept: far beyond what any model here sees."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def main() -> None:
    limits = json.loads(sys.argv[1])
    memory, seconds = int(limits["memory_bytes"]), int(limits["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        facts = _decode(limits)
    except ValueError as error:
        facts = {"error": str(error)}
    except MemoryError:
        facts = {"error": "`file` takes too much memory to decode; make it smaller."}
    print(json.dumps(facts))


def _decode(limits: dict[str, Any]) -> dict[str, Any]:
    if limits["kind"] == "video":
        return _video(limits)
    try:
        return _picture(limits)
    except _NoPicture as error:
        if limits["kind"] is None:
            return _video(limits)
        raise ValueError(str(error)) from None


class _NoPicture(ValueError):
    pass


def _picture(limits: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    most = limits["max_pixels"]
    Image.MAX_IMAGE_PIXELS = most
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    adjusted: list[str] = []
    try:
        picture: Image.Image = Image.open("in", formats=FORMATS)
        width, height = picture.size
        if width * height > most:
            raise ValueError(f"`file` must have at most {most} pixels, got {width}x{height}; make it smaller.")
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"`file` must be at least {MIN_SIDE} pixels wide and high, got {width}x{height}.")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(
                f"`file` must not be longer than {MAX_ASPECT:g} to 1, got {width}x{height}; crop it first."
            )
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise _NoPicture("`file` must be a still picture, got an animation; save one of its frames.")
        picture.draft("RGB", (KEPT_SIDE, KEPT_SIDE))  # a JPEG is decoded at about the size that is kept
        picture.load()
        if exif_orientation(picture) != 1:
            picture = ImageOps.exif_transpose(picture)
            adjusted.append("`file` was turned upright as its EXIF orientation says.")
        profile = picture.info.get("icc_profile")
        if picture.mode.startswith("I"):
            picture = picture.point(lambda value: value / 256).convert("L")
            adjusted.append("`file` was reduced from 16 to 8 bits.")
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
            adjusted.append("`file` has an alpha channel; it was flattened on white.")
        picture = picture.convert("RGB")
        if profile:
            picture = _to_srgb(picture, profile)
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
        Image.frombytes("RGB", picture.size, picture.tobytes()).save(
            "out.png"
        )  # pixels, and nothing else that was in the file
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"`file` must have at most {most} pixels, and has more; make it smaller.") from None
    except UnidentifiedImageError:
        raise _NoPicture(
            f"`file` must be a picture ({', '.join(FORMATS)}), and is not one whatever it is called."
        ) from None
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"`file` must be an intact picture, and is damaged ({type(error).__name__}); save it again."
        ) from None
    return {
        "kind": "image",
        "width": width,
        "height": height,
        "kept": picture.size,
        "adjusted": adjusted,
        "num_frames": 1,
        "fps": None,
    }


def _to_srgb(picture: Any, profile: bytes) -> Any:
    import io

    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB")) or picture
    except (ImageCms.PyCMSError, OSError):
        return picture


def _video(limits: dict[str, Any]) -> dict[str, Any]:
    import av
    import numpy as np
    from PIL import Image

    frames: list[Any] = []
    try:
        # Only containers that hold one file: a playlist or a concat script would name others.
        with av.open(open("in", "rb"), "r", options={"protocol_whitelist": "pipe"}) as container:
            names = set(container.format.name.split(","))
            if not names & {"mov", "mp4", "matroska", "webm", "gif", "avi"} or not container.streams.video:
                raise ValueError("`file` must be a picture or a video (MP4, MOV, WebM, GIF, AVI), and is neither.")
            stream = container.streams.video[0]
            stream.thread_count = 1
            rate = float(stream.average_rate or 1.0)
            width, height = stream.width, stream.height
            if width * height > limits["max_pixels"] or min(width, height) < MIN_SIDE:
                raise ValueError(f"`file` must have {MIN_SIDE} to {limits['max_pixels']} pixels, got {width}x{height}.")
            shrink = min(1.0, limits["video_side"] / min(width, height))
            size = round(shrink * width), round(shrink * height)
            for frame in container.decode(stream):
                if len(frames) == limits["max_frames"]:
                    raise ValueError(f"`file` must have at most {limits['max_frames']} frames, got more; cut it.")
                picture = frame.to_image()
                if picture.size != size:
                    picture = picture.resize(size, Image.Resampling.LANCZOS)
                frames.append(np.rot90(np.asarray(picture), frame.rotation // 90))
    except (av.error.FFmpegError, OSError):
        raise ValueError("`file` must be an intact picture or video, and is not; save it again.") from None
    if not frames or not 0.1 <= rate <= 240:
        raise ValueError("`file` must hold frames at 0.1 to 240 per second, and does not.")
    np.savez("out.npz", frames=np.ascontiguousarray(np.stack(frames)), fps=np.float64(rate))
    kept_height, kept_width = frames[0].shape[:2]
    return {
        "kind": "video",
        "width": width,
        "height": height,
        "adjusted": [f"`file` was reduced to {kept_width}x{kept_height}."] if shrink < 1 else [],
        "num_frames": len(frames),
        "fps": rate,
    }


if __name__ == "__main__":
    main()
