"""`videogen generate`: a video from a prompt, and from pictures if given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from videogen.receipt import Task


def generate(
    prompt: Annotated[
        str,
        typer.Argument(
            help="What the video shows, camera commands in brackets: 'a fox jumps in the snow, [Pan left]'."
        ),
    ],
    negative_prompt: Annotated[str, typer.Option(help="What to keep away from.")] = "",
    image: Annotated[Path | None, typer.Option(help="Picture that the video starts with.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Picture that the video ends with.")] = None,
    keyframe: Annotated[
        list[str] | None, typer.Option(metavar="T=F", help="Picture F at T seconds; may be repeated.")
    ] = None,
    subject: Annotated[
        list[Path] | None,
        typer.Option(help="Picture of 'the subject'; a second one makes 'subject 1' and 'subject 2' of them."),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(help="Camera commands, instead of brackets in the prompt: '[Pan left,Zoom in] [Static shot]'."),
    ] = None,
    literal_prompt: Annotated[
        bool,
        typer.Option(
            "--literal-prompt",
            help="Give the prompt to the model as it is: read no unknown words as known ones, add no movement, place or camera move.",
        ),
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="Seconds; the longest length that fits is taken and printed, or the shortest trained."
        ),
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Instead of --duration: 1 plus a multiple of 4.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps: more take longer and look better.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How strictly to follow the prompt; 1 switches guidance off.")
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH", help="Noise levels, 0 to 1, at which to guide; a step elsewhere takes half the time."
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="fast|high",
            help="Few steps without guidance, or as many as the model was trained for; default fast where the model can.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same request with the same seed gives the same file.")] = 0,
    num_videos: Annotated[int, typer.Option(help="Videos to make, with seeds N, N + 1, ...")] = 1,
    sheet: Annotated[Path | None, typer.Option(metavar="F", help="Also write a contact sheet (.png).")] = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Video to write: .mp4, .webm or .gif. Several get -1, -2, ... in the name."
        ),
    ] = Path("clip.mp4"),
    receipt_images: Annotated[
        bool,
        typer.Option(help="Keep the given pictures, as the model saw them, in the file's receipt (needed for replay)."),
    ] = True,
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
) -> None:
    """Make a video from PROMPT. A PROMPT that begins with a dash goes behind `--`."""
    if not 1 <= num_videos <= 1000:
        raise ValueError(f"`--num-videos` must be from 1 to 1000, got {num_videos}.")
    width, height = parse_size(size) if size is not None else (None, None)
    keyframes = parse_keyframes(keyframe or [])

    from videogen.cli import run

    run.check_outputs(output, sheet)
    if subject and (image or last_image or keyframes):
        raise ValueError(
            "`--subject` must not be combined with `--image`, `--last-image` or `--keyframe`: the model takes what a subject "
            "looks like, or pictures of the clip; leave one of them out."
        )
    task: Task = "subject" if subject else "image" if image or last_image or keyframes else "text"
    inputs: list[run.Input] = [run.Input("first", image)] if image else []
    inputs += [run.Input("last", last_image)] if last_image else []
    inputs += [run.Input("keyframe", path, time) for time, path in keyframes]
    inputs += [run.Input("subject", path) for path in subject or []]
    run.generate_files(
        task,
        model,
        inputs,
        {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "camera": camera,
            "literal_prompt": literal_prompt,
            "duration": duration,
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "fps": fps,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "quality": quality,
        },
        seeds=range(seed, seed + num_videos),
        output=output,
        sheet=sheet,
        receipt_images=receipt_images,
    )


def parse_size(text: str) -> tuple[int, int]:
    """'96x96' as (width, height)."""
    width, separator, height = text.lower().replace("×", "x").partition("x")
    if not separator or not width.strip().isdecimal() or not height.strip().isdecimal():
        raise ValueError(f"`--size` must be width x height such as 96x96, got {text!r}.")
    return int(width), int(height)


def parse_keyframes(texts: list[str]) -> list[tuple[float, Path]]:
    """'0.5=a.png' as (0.5, Path('a.png')), in order of time."""
    found = []
    for text in texts:
        time, separator, path = text.partition("=")
        try:
            seconds = float(time)
        except ValueError:
            seconds = math.nan
        if not separator or not path or not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"`--keyframe` must be seconds=picture such as 0.5=a.png, got {text!r}.")
        found.append((seconds, Path(path)))
    return sorted(found)
