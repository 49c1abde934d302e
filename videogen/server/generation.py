"""From a settled request to files: what a worker does with one job, or with a few of equal shape."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from videogen.cli.run import Input, load_pipeline, make_receipt
from videogen.conditioning.camera import parse_camera
from videogen.data.files import write_atomic
from videogen.data.sheet import contact_sheet
from videogen.data.video import write_video
from videogen.receipt import LABEL, Receipt, receipt_metadata, weights_sha256
from videogen.server.planning import JobRequest, shape_of
from videogen.server.quality import BadClip, check_clip
from videogen.server.storage import Storage
from videogen.server.watermark import draw_mark
from videogen_pipelines import (
    Checkpoint,
    ImageToVideoPipeline,
    SubjectToVideoPipeline,
    TextToVideoPipeline,
    VideoExtensionPipeline,
    VideoPipelineOutput,
)

log = logging.getLogger(__name__)

PREVIEW_SECONDS = 0.7
CHECKPOINT_SECONDS = 2.0
"""A job shorter than this starts over after a crash; the rest of a longer one is what is done again at most."""

# IPTC's word for pictures that a trained model made, where programs look for it.
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()

OnStep = Callable[["Step"], None]


@dataclass(frozen=True)
class Step:
    """How far a generation is. `preview` is a picture [H, W, 3] uint8 when one was due; `checkpoint` may be kept."""

    done: int
    total: int
    preview: np.ndarray | None
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Clip:
    """What a job came to, before it is written."""

    frames: np.ndarray  # uint8 [F, H, W, 3]
    receipt: Receipt
    adjusted: tuple[str, ...]
    warnings: tuple[str, ...]
    num_source_frames: int


class Generator:
    """The four pipelines with one set of weights, loaded once.

    Args:
        folder: model folder.
        device: None takes a GPU where there is one.
    """

    def __init__(self, folder: Path, device: str | None = None):
        text = load_pipeline("text", folder, device)
        self.pipes: dict[str, Any] = {"text": text}
        for task, kind in (
            ("image", ImageToVideoPipeline),
            ("subject", SubjectToVideoPipeline),
            ("extend", VideoExtensionPipeline),
        ):
            self.pipes[task] = kind.from_pipe(text)
            self.pipes[task].set_progress_bar_config(disable=True)
        assert isinstance(text, TextToVideoPipeline)
        self.model_hash = weights_sha256(folder)
        self.folder = folder
        self.vocabulary = text.vocabulary
        self.device = str(text.device)

    def run(self, request: JobRequest, storage: Storage, on_step: OnStep, resume: Checkpoint | None = None) -> Clip:
        """Generate one clip.

        Raises:
            FloatingPointError: not finite.
            BadClip: black, or frozen.
            Exception: whatever `on_step` raises, right after a step.
        """
        pipe = self.pipes[request.task]
        inputs = [_input(picture, storage) for picture in request.pictures]
        pipe.resume_from = resume
        result = pipe(
            **_arguments(request, inputs),
            seed=request.seed,
            output_type="np",
            callback_on_step_end=_Watch(pipe, request.steps, on_step, () if resume is None else (resume,)),
        )
        return self._clip(request, inputs, result)

    def run_batch(self, requests: Sequence[JobRequest], on_step: OnStep) -> list[Clip | Exception]:
        """Generate clips of equal shape in one forward pass a step; a clip that failed stands as its exception."""
        pipe, first = self.pipes["text"], requests[0]
        result = pipe(
            **{
                **_arguments(first, []),
                "prompt": [request.prompt for request in requests],
                "negative_prompt": [request.negative_prompt for request in requests],
            },
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
            batch_size=len(requests),
            output_type="np",
            callback_on_step_end=_Watch(pipe, first.steps, on_step),
        )
        clips: list[Clip | Exception] = []
        for index, request in enumerate(requests):
            single = VideoPipelineOutput(
                frames=result.frames[index : index + 1],
                seeds=[request.seed],
                fps=result.fps,
                num_frames=result.num_frames,
                output_type="np",
                camera=[result.camera[index]],
                settings={**result.settings, "batch_size": len(requests)},
            )
            try:
                clips.append(self._clip(request, [], single))
            except (BadClip, ValueError, RuntimeError) as error:
                clips.append(error)
        return clips

    def _clip(self, request: JobRequest, inputs: Sequence[Input], result: VideoPipelineOutput) -> Clip:
        frames = result.uint8()[0]
        num_source = int(result.settings.get("num_source_frames", 0))
        plan = parse_camera(request.prompt)
        segments = result.camera[0]
        check_clip(frames[num_source:], plan.prompt_without_brackets, segments, self.vocabulary)
        settings = {
            "prompt": request.prompt,
            "asked_prompt": request.asked_prompt or request.prompt,
            "negative_prompt": request.negative_prompt,
            "camera": request.camera if request.camera_vectors is None else request.camera_vectors,
        }
        receipt = make_receipt(request.task, settings, inputs, result, frames, self.model_hash, self.device)
        return Clip(frames, receipt, tuple(result.adjusted), tuple(result.warnings), num_source)


def calculated_timing(generator: Generator) -> tuple[str, float, float, int]:
    """What a clip that asks for nothing special should take here, from the model's operations and a second's calibration.

    Returns:
        its shape, seconds of a step, seconds of the rest, bytes at the peak: what `JobStore.suppose_timing` takes.
    """
    from videogen.cli.plan import estimate_here, resolve_request
    from videogen.planning.specs import load_spec

    sampling = ("num_inference_steps", "guidance_scale", "guidance_interval")
    spec = load_spec(generator.folder)
    settings = dict.fromkeys(("height", "width", "num_frames", "duration", "fps", *sampling))
    usual = resolve_request(spec, settings)
    pipe = generator.pipes["text"]
    estimate, _ = estimate_here(spec, usual, pipe.transformer.dtype)
    job = JobRequest(
        task="text",
        prompt="",
        negative_prompt="",
        camera=None,
        camera_vectors=None,
        height=usual.height,
        width=usual.width,
        num_frames=usual.num_frames,
        fps=usual.fps,
        steps=usual.num_inference_steps,
        guidance_scale=1.0 if pipe.fast else pipe.default_guidance_scale,
        guidance_method="standard",
        guidance_rescale=0.0,
        guidance_interval=pipe.default_guidance_interval,
        quality="fast" if pipe.fast else "high",
        seed=0,
    )
    denoising = estimate.seconds["denoising"]
    step = denoising / (usual.num_inference_steps * usual.num_windows)
    return shape_of(job), step, estimate.total_seconds - denoising, int(estimate.peak_bytes)


class _Watch:
    """Turns the pipeline's callback into `Step`s, with a look at the clip-to-be from time to time."""

    def __init__(self, pipe: Any, steps: int, on_step: OnStep, resumed: Sequence[Checkpoint] = ()):
        self.pipe, self.steps, self.on_step = pipe, steps, on_step
        self.before: tuple[torch.Tensor, float] | None = None
        self.looked = time.monotonic()

    def __call__(self, pipe: Any, done: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        latents, sigma = tensors["latents"], timestep / 1000
        picture = None
        starts = done % self.steps == 0
        due = time.monotonic() - self.looked > PREVIEW_SECONDS
        if due and self.before is not None and not starts and len(latents) == 1:
            earlier, sigma_before = self.before
            velocity = (latents - earlier) / (sigma - sigma_before)
            clean = latents - sigma * velocity  # where the straight path ends
            few = clean[:, :, : 1 if done < self.steps else 2]
            frame = pipe.decode_latents(few)[0, :, -1]  # [3, H, W]
            picture = ((frame.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
            self.looked = time.monotonic()
        self.before = (latents, sigma)
        self.on_step(Step(done + 1, pipe.num_timesteps, picture, pipe.checkpoint))
        return tensors


def write_clip(
    clip: Clip, request: JobRequest, file_id: str, storage: Storage, adjusted: Sequence[str], warnings: Sequence[str]
) -> dict[str, Any]:
    """Write a clip in all its forms, each with its marking; what `JobStore.complete` needs to know of the file and the result."""
    frames, warnings = clip.frames, list(warnings)
    fps = clip.receipt.request.fps
    if request.watermark:
        frames = draw_mark(frames)
        warnings.append("the visible mark was drawn over the frames; the receipt's hash is of the frames without it.")
    receipt = clip.receipt.model_copy(update={"adjusted": tuple(adjusted), "warnings": tuple(warnings)})
    if not request.receipt_images:
        receipt = receipt.without_images()
    small = receipt.without_images()
    middle = Image.fromarray(frames[len(frames) // 2])
    _save(middle, storage.variant(file_id, "thumbnail"), small, "WEBP", quality=90, method=4)
    _save(_sprites(frames), storage.variant(file_id, "spritesheet"), small, "JPEG", quality=90)
    _save(contact_sheet([frames], fps=fps), storage.variant(file_id, "sheet"), small, "PNG")
    write_video(storage.variant(file_id, "gif"), frames, fps, receipt_metadata(small, ".gif"))
    write_atomic(storage.variant(file_id, "receipt"), receipt.to_json(indent=1).encode())
    path = storage.variant(file_id, "video")
    write_video(path, frames, fps, receipt_metadata(receipt, ".mp4"))
    content = path.read_bytes()
    height, width = frames.shape[1:3]
    return {
        "file": {
            "id": file_id,
            "name": f"{file_id}.mp4",
            "bytes": storage.num_bytes(file_id),
            "sha256": hashlib.sha256(content).hexdigest(),
            "width": width,
            "height": height,
        },
        "result": {
            "width": width,
            "height": height,
            "num_frames": len(frames),
            "num_source_frames": clip.num_source_frames,
            "fps": fps,
            "seconds": round(len(frames) / fps, 3),
            "seed": request.seed,
            "frames_sha256": receipt.frames_sha256,
            "identity": [score.model_dump() for score in receipt.identity],
        },
        "adjusted": list(adjusted),
        "warnings": warnings,
    }


def write_preview(path: Path, picture: np.ndarray) -> None:
    """Write a preview frame as JPEG, marked like every picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, comment=LABEL.encode(), xmp=XMP)
    write_atomic(path, buffer.getvalue())


def save_checkpoint(path: Path, checkpoint: Checkpoint, key: str) -> None:
    """Keep where a generation stands. `key` names the request and the weights it belongs to."""
    from safetensors.torch import save

    tensors = {"latents": checkpoint.latents.cpu().contiguous(), "generator": checkpoint.generator_state}
    if checkpoint.video is not None:
        tensors["video"] = checkpoint.video.cpu().contiguous()
    facts = {"key": key, "window": str(checkpoint.window), "step": str(checkpoint.step)}
    # Written by us: `save_file` turns the errors of a disk into one of its own that has no number.
    write_atomic(path, save(tensors, metadata=facts))


def load_checkpoint(path: Path, key: str) -> Checkpoint | None:
    """The kept state, or None when there is none that belongs to `key`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            return Checkpoint(
                int(facts["window"]),
                int(facts["step"]),
                file.get_tensor("latents"),
                file.get_tensor("generator"),
                file.get_tensor("video") if "video" in file.keys() else None,  # noqa: SIM118 - no mapping
            )
    except (FileNotFoundError, SafetensorError, KeyError, OSError):
        return None


def _input(picture: Any, storage: Storage) -> Input:
    if picture.is_clip:
        path = storage.variant(picture.file_id, "video")
    else:
        path = storage.upload(picture.file_id, "video" if picture.role == "source" else "image")
    if not path.is_file():
        raise FileNotFoundError(
            f"the {picture.role} picture {picture.file_id} is no longer there; it expired or was deleted."
        )
    return Input(picture.role, path, picture.time)


def _arguments(request: JobRequest, inputs: Sequence[Input]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "literal_prompt": True,  # the plan has read it
        "num_frames": request.num_frames,
        "fps": request.fps,
        "quality": request.quality,
        "camera": request.camera if request.camera_vectors is None else request.camera_vectors,
    }
    if request.quality == "high":
        arguments |= {"num_inference_steps": request.steps, "guidance_scale": request.guidance_scale}
        arguments |= {"guidance_method": request.guidance_method, "guidance_rescale": request.guidance_rescale}
        arguments["guidance_interval"] = request.guidance_interval
    if request.negative_prompt:
        arguments["negative_prompt"] = request.negative_prompt
    if request.task != "extend":
        arguments |= {"height": request.height, "width": request.width}
    for item in inputs:
        if item.role == "source" and item.path.suffix == ".npz":
            stored = np.load(item.path)
            arguments |= {"video": stored["frames"], "video_fps": float(stored["fps"])}
        elif item.role == "source":
            arguments["video"] = item.path
        elif item.role == "first":
            arguments["image"] = item.path
        elif item.role == "last":
            arguments["last_image"] = item.path
        elif item.role == "keyframe":
            arguments.setdefault("keyframes", {})[item.time] = item.path
        else:
            arguments.setdefault("subject_images", []).append(item.path)
    return arguments


def _sprites(frames: np.ndarray, columns: int = 6, most: int = 24) -> Image.Image:
    """Frames evenly spaced in time on a grid, left to right, top to bottom."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    height, width = frames.shape[1:3]
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, frame in enumerate(chosen):
        sheet.paste(Image.fromarray(frames[frame]), (index % columns * width, index // columns * height))
    return sheet


def _save(picture: Image.Image, path: Path, receipt: Receipt, kind: str, **options: Any) -> None:
    """A still of a clip with the marking and the receipt (without pictures) where its format keeps text."""
    buffer = io.BytesIO()
    text = receipt.to_json()
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_itxt("comment", LABEL)
        info.add_itxt("videogen_receipt", text)
        picture.save(buffer, kind, pnginfo=info, **options)
    else:
        exif = Image.Exif()
        exif[0x010E] = LABEL  # ImageDescription
        exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + text.encode("ascii", "backslashreplace")[:60_000]  # UserComment
        picture.save(buffer, kind, exif=exif, xmp=XMP, **options)
    write_atomic(path, buffer.getvalue())
