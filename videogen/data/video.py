"""Video files through PyAV: reproducible MP4, WebM and GIF, with metadata; and reading any video back.

The same frames and metadata give the same bytes in every process. What it takes: x264 with `cpu-independent=1` and one thread (otherwise its
choices depend on the instruction set and on uninitialised memory), libvpx with one thread, colour conversion with
exact rounding, and muxers in bit-exact mode (no date, no random identifiers). Neither time nor path nor host name gets into the file.

Frames are uint8 RGB [F, H, W, 3]; colours are converted with the BT.709 matrix and limited range, and tagged so.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from videogen.data.files import atomic_path

__all__ = ["MAX_PIXELS", "VIDEO_SUFFIXES", "Video", "read_metadata", "read_video", "write_video"]

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif")
MAX_PIXELS = 64 * 1024 * 1024  # of one picture; beyond it a file is refused before it is decoded
EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"

# Constant-rate factors near transparency at 96x96, so that who looks at the file sees the model and not the codec.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("libx264", {"crf": "14", "preset": "medium", "x264-params": "cpu-independent=1:threads=1"}),
    ".webm": ("libvpx-vp9", {"crf": "14", "b": "0", "row-mt": "0", "deadline": "good", "cpu-used": "2"}),
    ".gif": ("gif", {}),
}


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video in memory: `frames` uint8 RGB [F, H, W, 3], `fps` in frames per second, and the file's metadata."""

    frames: np.ndarray
    fps: float
    metadata: dict[str, str] = field(default_factory=dict)


def write_video(path: str | Path, frames: np.ndarray, fps: float, metadata: Mapping[str, str] | None = None) -> None:
    """Write `frames` as MP4 (H.264), WebM (VP9) or GIF, by the ending of `path`; whole or not at all.

    Args:
        path: file to write; an existing one is replaced at the end.
        frames: uint8 RGB [F, H, W, 3]; H and W even for MP4 and WebM (4:2:0 colour).
        fps: frames per second, > 0. GIF counts in hundredths of a second: its delays alternate so that the mean is right.
        metadata: text by key. MP4 and WebM hold any keys (WebM upper-cases them); GIF holds only `comment`.

    Raises:
        ValueError: what of the above does not hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    metadata = dict(metadata or {})
    if suffix not in ENCODERS:
        raise ValueError(f"`path` must end in one of {', '.join(VIDEO_SUFFIXES)}, got {path}; rename it.")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"`frames` must be uint8 [F, H, W, 3] with no empty axis, got {frames.dtype} {list(frames.shape)}; "
            "convert values in 0..1 with (frames * 255).round()."
        )
    height, width = frames.shape[1:3]
    if suffix != ".gif" and (height % 2 or width % 2):
        raise ValueError(
            f"`frames` must have even height and width for {suffix}, got {height}x{width}; crop or write a .gif."
        )
    if not 0 < fps <= 1000:
        raise ValueError(f"`fps` must be above 0 and at most 1000, got {fps}.")
    if suffix == ".gif" and set(metadata) - {"comment"}:
        raise ValueError(
            f"`metadata` of a .gif must have the key 'comment' only, got {sorted(metadata)}; write an .mp4."
        )
    with atomic_path(path) as temporary:
        _encode(temporary, suffix, frames, fps, metadata)
        if suffix == ".gif" and "comment" in metadata:
            temporary.write_bytes(_insert_gif_comment(temporary.read_bytes(), metadata["comment"].encode()))


def read_video(path: str | Path, max_frames: int | None = None) -> Video:
    """Read a video file of any kind that FFmpeg knows; rotation noted in the file is applied.

    Args:
        path: the file.
        max_frames: refuse longer files, before memory runs out.

    Raises:
        ValueError: not a video, a truncated one, more than `max_frames` frames or `MAX_PIXELS` pixels a frame.
    """
    path = Path(path)
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"`video` must be a video file, got {path}, which holds no pictures.")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(
                    f"`video` must have at most {MAX_PIXELS} pixels a frame, got {stream.width}x{stream.height} ({path}); "
                    "scale it down."
                )
            announced = stream.frames  # 0 where the format does not say
            rate, time_base = stream.average_rate, stream.time_base
            last_time = 0.0
            for frame in _to_rgb(container.decode(stream)):
                if max_frames is not None and len(frames) == max_frames:
                    raise ValueError(f"`video` must have at most {max_frames} frames, got more ({path}); cut it.")
                frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
                last_time = float(frame.pts * time_base) if frame.pts is not None and time_base else 0.0
            metadata = {key.lower(): value for key, value in container.metadata.items()}
    except FileNotFoundError:
        raise ValueError(f"`video` must be a file that exists, got {path}.") from None
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"`video` must be a readable video file, got {path} ({reason}); is it complete?") from None
    if not frames or len(frames) < announced:
        raise ValueError(
            f"`video` must be a complete video file, got {path} with {len(frames)} of {announced or 'its'} frames."
        )
    if path.suffix.lower() == ".gif":
        metadata = read_metadata(path)
    if path.suffix.lower() == ".gif" and last_time:
        fps = round((len(frames) - 1) / last_time, 1)  # delays in hundredths of a second say no more than that
    else:
        fps = float(rate) if rate else 1.0
    return Video(frames=np.ascontiguousarray(np.stack(frames)), fps=fps, metadata=metadata)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read a video file's metadata without decoding it; keys in lower case.

    Raises:
        ValueError: not a readable video file.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".gif":
            with Image.open(path) as image:
                comment = image.info.get("comment")
            return {"comment": comment.decode(errors="replace")} if comment else {}
        with av.open(str(path)) as container:
            return {key.lower(): value for key, value in container.metadata.items()}
    except FileNotFoundError:
        raise ValueError(f"`video` must be a file that exists, got {path}.") from None
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or "not a video"
        raise ValueError(f"`video` must be a readable video file, got {path} ({reason}).") from None


def _encode(path: Path, suffix: str, frames: np.ndarray, fps: float, metadata: Mapping[str, str]) -> None:
    codec, options = ENCODERS[suffix]
    rate = Fraction(fps).limit_denominator(1001)
    container_options = {"fflags": "+bitexact"}
    if suffix == ".mp4":
        container_options["movflags"] = "use_metadata_tags+faststart"
    container = av.open(str(path), "w", format=suffix[1:], options=container_options)
    try:
        if suffix != ".gif":
            container.metadata.update(metadata)
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "pal8" if suffix == ".gif" else "yuv420p"
        stream.codec_context.thread_count = 1
        if suffix != ".gif":
            stream.codec_context.color_range = 1  # limited
            stream.codec_context.colorspace = 1  # BT.709, and so are the next two
            stream.codec_context.color_primaries = 1
            stream.codec_context.color_trc = 1
        converted = _to_palette(frames, rate) if suffix == ".gif" else _to_yuv(frames, rate)
        for index, frame in enumerate(converted):
            frame.pts, frame.time_base = index, 1 / rate
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    finally:
        container.close()


def _source(graph: av.filter.Graph, frames: np.ndarray, rate: Fraction) -> Any:
    height, width = frames.shape[1:3]
    return graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24", width, height), time_base=1 / rate
    )


def _rgb_frames(frames: np.ndarray, rate: Fraction) -> Iterator[av.VideoFrame]:
    for index, array in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        yield frame


def _pull(sink: Any) -> av.VideoFrame:
    frame = sink.pull()
    assert isinstance(frame, av.VideoFrame)
    return frame


def _to_yuv(frames: np.ndarray, rate: Fraction) -> Iterator[av.VideoFrame]:
    graph = av.filter.Graph()
    source, sink = _source(graph, frames, rate), graph.add("buffersink")
    scale = graph.add("scale", f"out_color_matrix=bt709:out_range=tv:{EXACT}")
    to_format = graph.add("format", "yuv420p")
    source.link_to(scale)
    scale.link_to(to_format)
    to_format.link_to(sink)
    graph.configure()
    for frame in _rgb_frames(frames, rate):
        source.push(frame)
        yield _pull(sink)


def _to_palette(frames: np.ndarray, rate: Fraction) -> Iterator[av.VideoFrame]:
    """One palette for the whole clip, ordered dither (error diffusion makes still areas crawl)."""
    graph = av.filter.Graph()
    source, sink = _source(graph, frames, rate), graph.add("buffersink")
    split = graph.add("split")
    palette, use = (
        graph.add("palettegen", "reserve_transparent=0"),
        graph.add("paletteuse", "dither=bayer:bayer_scale=4"),
    )
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for frame in _rgb_frames(frames, rate):
        source.push(frame)
    source.push(None)
    for _ in frames:
        yield _pull(sink)


def _to_rgb(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Convert decoded frames with exact rounding (the default converter is a level too dark)."""
    graph = source = sink = layout = None
    for frame in frames:
        if layout != (frame.width, frame.height, frame.format.name):
            layout = (frame.width, frame.height, frame.format.name)
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            )
            scale, to_format, sink = graph.add("scale", EXACT), graph.add("format", "rgb24"), graph.add("buffersink")
            source.link_to(scale)
            scale.link_to(to_format)
            to_format.link_to(sink)
            graph.configure()
        assert source is not None and sink is not None
        source.push(frame)
        yield _pull(sink)


def _insert_gif_comment(content: bytes, comment: bytes) -> bytes:
    """Put a comment extension behind the header and the global palette (GIF89a, section 24)."""
    assert content[:6] == b"GIF89a"
    flags = content[10]
    start = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    block = io.BytesIO()
    block.write(b"\x21\xfe")
    for offset in range(0, len(comment), 255):
        part = comment[offset : offset + 255]
        block.write(bytes([len(part)]) + part)
    block.write(b"\x00")
    return content[:start] + block.getvalue() + content[start:]
