"""`videogen submit`: send a request to a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videogen.cli.remote import DEFAULT_SERVER, Server, client_of, fail, line, said


def submit(
    prompt: Annotated[str, typer.Argument(help="What the video shows, camera commands in brackets.")],
    server: Server = DEFAULT_SERVER,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep away from.")] = None,
    camera: Annotated[str | None, typer.Option(help="Camera commands, instead of brackets in the prompt.")] = None,
    literal_prompt: Annotated[
        bool,
        typer.Option(
            "--literal-prompt",
            help="Give the prompt to the model as it is: read no unknown words as known ones, add no movement, place or camera move.",
        ),
    ] = False,
    image: Annotated[Path | None, typer.Option(help="Picture that the video starts with.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Picture that the video ends with.")] = None,
    subject: Annotated[list[Path] | None, typer.Option(help="Picture of 'the subject'; up to two.")] = None,
    source: Annotated[str | None, typer.Option(metavar="ID", help="Job whose clip to continue.")] = None,
    duration: Annotated[float | None, typer.Option(metavar="S", help="Seconds.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How strictly to follow the prompt.")] = None,
    quality: Annotated[
        str | None, typer.Option(metavar="fast|high", help="Few steps without guidance, or many; default the server's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="By default one is drawn and reported.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would have to be adjusted.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="A repetition gives the same job.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Wait, and write the clip here (.mp4 or .gif).")
    ] = None,
) -> None:
    """Send PROMPT to a server and print the id of the job; with -o wait for the clip."""
    from videogen.cli.generate import parse_size
    from videogen.data.files import check_output_path

    width, height = parse_size(size) if size is not None else (None, None)
    if output is not None:
        check_output_path(output, (".mp4", ".gif"), "--output")
    for path in (image, last_image, *(subject or ())):
        if path is not None and not path.is_file():
            raise ValueError(f"the picture must be a file that exists, got {path}.")
    settings = {
        "negative_prompt": negative_prompt,
        "camera": camera,
        "literal_prompt": literal_prompt or None,
        "first_frame": image,
        "last_frame": last_image,
        "subjects": subject or None,
        "source": source,
        "duration": duration,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "quality": quality,
        "seed": seed,
        "priority": priority or None,
        "strict": strict or None,
    }
    with client_of(server) as client:
        job = client.submit(prompt, idempotency_key=idempotency_key, **settings)
        typer.echo(job.id)
        said(job)
        if output is None:
            return
        from videogen.cli.run import step_progress

        with step_progress(job.id) as advance:
            done = client.wait(job.id, on_progress=lambda now: advance(now.step, now.num_steps) if now.step else None)
        if done.status != "completed":
            fail(line(done))
        client.download(done.id, output, "gif" if output.suffix.lower() == ".gif" else "video")
        typer.echo(f"Wrote {output} (seed {done.request['seed']}).")
