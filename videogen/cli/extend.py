"""`videogen extend`: continue a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def extend(
    file: Annotated[Path, typer.Argument(help="Video to continue.")],
    duration: Annotated[
        float, typer.Option(metavar="S", help="Seconds to add; the longest length that fits is printed.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What happens next; by default the prompt of the file's receipt and the last of its camera moves."
        ),
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What to keep away from.")] = "",
    camera: Annotated[str | None, typer.Option(help="Camera commands, instead of brackets in the prompt.")] = None,
    literal_prompt: Annotated[
        bool,
        typer.Option(
            "--literal-prompt", help="Give the prompt to the model as it is: read no unknown words as known ones."
        ),
    ] = False,
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
    sheet: Annotated[Path | None, typer.Option(metavar="F", help="Also write a contact sheet (.png).")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Video to write: .mp4, .webm or .gif.")] = Path(
        "extended.mp4"
    ),
    receipt_images: Annotated[
        bool, typer.Option(help="Keep the frames of FILE in the receipt (needed for replay).")
    ] = True,
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
) -> None:
    """Continue FILE; the result holds its frames and the new ones."""
    from videogen.cli import run

    run.check_outputs(output, sheet)
    if prompt is None:
        from videogen.receipt import read_receipt

        try:
            made = read_receipt(file).request
        except ValueError as error:
            if not file.is_file():
                raise
            raise ValueError(f"`--prompt` must be given for a video without a videogen receipt ({error})") from None
        from videogen.conditioning.camera import camera_text, parse_camera
        from videogen_pipelines.requests import read_camera

        prompt = made.prompt
        if camera is None:
            camera = made.camera
            plan, vectors = read_camera(prompt, camera)
            if vectors is None and len(plan.segments) > 1:  # what comes next goes on as the file ends
                prompt, camera = plan.prompt_without_brackets, camera_text(plan.segments[-1:])
        else:
            prompt = parse_camera(prompt).prompt_without_brackets
    run.generate_files(
        "extend",
        model,
        [run.Input("source", file)],
        {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "camera": camera,
            "literal_prompt": literal_prompt,
            "duration": duration,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "quality": quality,
        },
        seeds=range(seed, seed + 1),
        output=output,
        sheet=sheet,
        receipt_images=receipt_images,
    )
