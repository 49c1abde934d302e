"""`videogen plan`: what a request will take, before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from videogen.planning.estimate import Estimate, Request
    from videogen.planning.hardware import Machine
    from videogen.planning.specs import ModelSpec

#: `generate` says what a run will take when it takes longer than this.
LONG_SECONDS = 60.0
#: Operations per second that any machine reaches: a run that is short even so needs no calibration.
_SLOWEST = 2e10


def plan(
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, YAML file, or the name of a configuration (tiny, base, large, ...)."),
    ] = None,
    duration: Annotated[float | None, typer.Option(metavar="S", help="Seconds.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Instead of --duration: 1 plus a multiple of 4.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 switches guidance off.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH", help="Noise levels, 0 to 1, at which to guide; a step elsewhere takes half the time."
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="fast|high", help="Few steps without guidance, or many; default the model's own."),
    ] = None,
    num_videos: Annotated[int, typer.Option(help="Videos to make.", min=1, max=1000)] = 1,
    device: Annotated[
        str,
        typer.Option(help="'this' measures the machine at hand; or a100, h100, h200, b200, l40s, rtx4090, rtx5090."),
    ] = "this",
    devices: Annotated[
        int | None, typer.Option(help="Spread over this many; by default what is needed.", min=1, max=4096)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16; by default what `generate` uses here. On a named GPU always bfloat16."),
    ] = None,
    output_json: Annotated[Path | None, typer.Option("--json", metavar="F", help="Also write all numbers.")] = None,
) -> None:
    """Print tokens, parameters, operations, memory and time of a request, and how it would be spread over several devices."""
    from videogen.cli.generate import parse_size
    from videogen.data.files import check_output_path

    if output_json is not None:
        check_output_path(output_json, (".json",), "--json")
    width, height = parse_size(size) if size is not None else (None, None)
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"`--dtype` must be float32 or bfloat16, got {dtype!r}.")
    if dtype == "float32" and device != "this":
        raise ValueError(
            f"`--dtype` must be bfloat16 for a named `--device`, got float32 for {device}: only bfloat16 rates of it are known; leave it out."
        )
    if devices is not None and device == "this":
        raise ValueError(
            "`--devices` must go with a named `--device`: how fast this machine's link is nobody has told."
        )
    import torch

    from videogen.planning import estimate as planning
    from videogen.planning.hardware import named_gpu
    from videogen.planning.specs import SHIPPED_FOLDER, load_spec

    machine = None if device == "this" else named_gpu(device)
    spec = load_spec(SHIPPED_FOLDER if model is None else model)
    adjusted: list[str] = []
    request = resolve_request(
        spec,
        {
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
        num_videos,
        adjusted=adjusted,
    )
    for sentence in adjusted:
        typer.echo(f"Adjusted: {sentence}", err=True)
    chosen = getattr(torch, dtype or ("float32" if machine is None else "bfloat16"))
    if machine is None:
        estimate, machine = estimate_here(spec, request, chosen)
    else:
        estimate = planning.make_estimate(spec, request, machine, chosen, devices=devices)
    for line in planning.describe(estimate):
        typer.echo(line)
    if not estimate.fits and not estimate.spread:
        typer.echo(f"Does not fit: {planning.advice(spec, estimate, machine, chosen)}")
    if output_json is not None:
        output_json.write_text(
            json.dumps({**estimate.as_json(), "adjusted": adjusted}, indent=1) + "\n", encoding="utf-8"
        )
        typer.echo(f"Wrote {output_json}.")


def resolve_request(
    spec: ModelSpec,
    settings: dict[str, Any],
    num_videos: int = 1,
    num_extra: int = 0,
    adjusted: list[str] | None = None,
) -> Request:
    """Settings of a pipeline (None = its default) as the numbers that it will run with; what was changed is noted in `adjusted`.

    Raises:
        ValueError: as the pipelines would.
    """
    from videogen.diffusion.sampling import sampling_sigmas
    from videogen.planning.estimate import Request
    from videogen_pipelines import requests

    known, scale = spec.vocabulary, int(spec.tokenizer["scale_factor_temporal"])
    notes = [] if adjusted is None else adjusted
    height, width = requests.check_size(settings["height"], settings["width"], known, spec.pixels_per_token)
    fps = requests.check_fps(settings["fps"], known)
    frames = requests.check_length(settings["num_frames"], settings["duration"], fps, known, scale, notes)
    default = known or {}
    asked = {name: settings[name] for name in ("num_inference_steps", "guidance_scale", "guidance_interval")}
    negative = settings.get("negative_prompt")
    quality = requests.settle_quality(settings.get("quality"), spec.fast, **asked, negative_prompt=negative)
    if quality == "fast":
        assert spec.fast is not None
        settings = {**settings, "num_inference_steps": spec.fast["num_inference_steps"], "guidance_scale": 1.0}
    steps = settings["num_inference_steps"]
    steps = int(default.get("num_inference_steps", requests.DEFAULT_INFERENCE_STEPS)) if steps is None else steps
    guidance = settings["guidance_scale"]
    guidance = float(default.get("guidance_scale", requests.DEFAULT_GUIDANCE_SCALE)) if guidance is None else guidance
    interval = settings["guidance_interval"] or default.get("guidance_interval", requests.DEFAULT_GUIDANCE_INTERVAL)
    requests.check_sampling(steps, guidance, "standard", 0.0, interval, num_videos, 1)
    sigmas = [spec.shift * sigma / (1 + (spec.shift - 1) * sigma) for sigma in sampling_sigmas(steps)]
    trained = max(default["num_frames"]) if default.get("num_frames") else None
    windows = requests.plan_windows(frames, trained, scale)
    return Request(
        num_frames=frames,
        height=height,
        width=width,
        fps=fps,
        num_inference_steps=steps,
        guidance=guidance != 1.0,
        num_guided_steps=sum(interval[0] <= sigma <= interval[1] for sigma in sigmas),
        window_frames=trained,
        num_windows=len(windows),
        num_extra=num_extra,
        num_videos=num_videos,
    )


def estimate_here(spec: ModelSpec, request: Request, dtype: torch.dtype) -> tuple[Estimate, Machine]:
    """The estimate for this machine, from a calibration of about a second, and the machine as it was measured."""
    import videogen_pipelines.base  # noqa: F401  # what `generate` loads, so that the memory of the program is known
    from videogen.planning.estimate import make_estimate, make_grid
    from videogen.planning.hardware import resident_memory, this_machine

    grid = make_grid(spec, request)
    machine = this_machine(spec.transformer, spec.tokenizer, grid, request.batch, dtype)
    program = resident_memory()  # now that every kind of operator has run once and is loaded
    return make_estimate(spec, request, machine, dtype, program), machine


def announce(spec: ModelSpec, request: Request) -> None:
    """Say what a long run will take, on standard error.

    Raises:
        ValueError: it does not fit into the memory of this machine; says what would.
    """
    import torch

    from videogen.planning import estimate as planning
    from videogen.planning.hardware import resident_memory, unmeasured

    dtype = torch.float32  # what the pipelines load weights as
    machine = unmeasured()
    rough = planning.make_estimate(spec, request, machine, dtype, resident_memory())
    if not rough.fits:
        raise ValueError(f"`--size` and length do not fit this machine: {planning.advice(spec, rough, machine, dtype)}")
    if rough.total_flops / _SLOWEST < LONG_SECONDS:
        return
    estimate, _ = estimate_here(spec, request, dtype)
    if estimate.total_seconds >= LONG_SECONDS:
        for line in planning.describe(estimate):
            typer.echo(line, err=True)
