"""Makes the pictures of this folder anew with the shipped model: `python samples/make.py`. Seed 0, nothing picked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from videogen import ImageToVideoPipeline, TextToVideoPipeline
from videogen.conditioning.camera import CAMERA_COMMANDS
from videogen.data.sheet import write_sheet
from videogen.data.stage import ActorSpec, ClipSpec, render
from videogen.data.video import write_video

HERE = Path(__file__).parent
PROMPTS = (
    "a fox jumps in the snow, [Pan left]",
    "a frog moves right in the forest, [Static shot]",
    "a pig stays on the beach at sunset, [Zoom in]",
    "a rocket jumps in the city at night, [Static shot]",
    "一只企鹅在雪地里向左移动, [固定]",
    "an owl stands still in the woods, the camera pans left",
)


def main() -> None:
    pipe = TextToVideoPipeline.from_pretrained()
    videos = []
    for number, prompt in enumerate(PROMPTS):
        output = pipe(prompt, seed=0, output_type="np")
        videos.append(output.uint8()[0])
        write_video(HERE / f"text-{number}.mp4", videos[-1], output.fps)
    labels = [
        prompt if prompt.isascii() else "(Chinese) a penguin moves left in the snow, [Static shot]"
        for prompt in PROMPTS
    ]
    write_sheet(HERE / "shipped.png", videos, fps=output.fps, labels=labels, num_videos_per_row=2)

    videos = [
        pipe(f"an owl stays in the forest, [{name}]", seed=0, output_type="np").uint8()[0] for name in CAMERA_COMMANDS
    ]
    write_sheet(
        HERE / "cameras.png", videos, fps=output.fps, labels=CAMERA_COMMANDS, num_columns=5, num_videos_per_row=3
    )

    picture = render([ClipSpec(actors=(ActorSpec("fox"),), scene="beach", light="day", seed=11)], num_frames=1)[0, :, 0]
    image = Image.fromarray(((picture.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8))
    pipe = ImageToVideoPipeline.from_pipe(pipe)
    prompts = ("a fox jumps on the beach, [Static shot]", "a fox moves right on the beach, [Pan left]")
    videos = []
    for number, prompt in enumerate(prompts):
        output = pipe(prompt, image=image, seed=0, output_type="np")
        videos.append(output.uint8()[0])
        write_video(HERE / f"image-{number}.mp4", videos[-1], output.fps)
    write_sheet(HERE / "from-image.png", videos, fps=output.fps, labels=prompts)


if __name__ == "__main__":
    main()
