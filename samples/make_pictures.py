"""Pictures that no training saw, as first frame and as subject: `python samples/make_pictures.py MEDIA`. Seed 0, nothing picked.

MEDIA is a folder with the unpacked wheels of scikit-image and matplotlib (`pip download --no-deps`, then unzip): ten photographs, in the public
domain or CC0. The ten drawings are actors of Stage that training never shows. Left of each row is the picture as the model was given it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from videogen import ImageToVideoPipeline, SubjectToVideoPipeline, TextToVideoPipeline
from videogen.data.stage import ActorSpec, ClipSpec, render
from videogen.data.stage.render import to_frames

HERE = Path(__file__).parent
PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/camera.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "skimage/data/moon.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/brick.png",
    "skimage/data/grass.png",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
DRAWINGS = ("wolf", "tiger", "giraffe", "duck", "squid", "butterfly", "motorcycle", "pear", "teddy bear", "maple leaf")
FIRST_FRAME_PROMPTS = (
    "the subject moves right, [Static shot]",
    "the subject jumps, [Static shot]",
    "the subject stays, [Zoom in]",
)
SUBJECT_PROMPTS = (
    "the subject moves left on the beach",
    "the subject jumps in the snow",
    "the subject stays in the city at night",
)
SHOWN = (0, 1 / 4, 1 / 2, 3 / 4, 1)  # of the clip


def pictures(media: Path) -> dict[str, Image.Image]:
    """The twenty pictures by name."""
    found = {Path(name).stem: Image.open(media / name).convert("RGB") for name in PHOTOGRAPHS}
    for number, name in enumerate(DRAWINGS):
        spec = ClipSpec((ActorSpec(name),), ("forest", "snow", "city", "beach")[number % 4], "day", seed=number)
        found[name] = Image.fromarray(to_frames(render([spec], num_frames=1)[0])[0])
    return found


def sheet(rows: list[tuple[str, Image.Image, np.ndarray]], columns: int = 2) -> Image.Image:
    """A row for each picture and clip, uint8 [F, H, W, 3]: the picture, then five frames; its text above."""
    height, width = rows[0][2].shape[1:3]
    gap, text = 6, 14
    cell = (len(SHOWN) + 1) * width + 3 * gap, height + text + gap
    page = Image.new("RGB", (columns * cell[0], -(-len(rows) // columns) * cell[1]), "white")
    draw = ImageDraw.Draw(page)
    for number, (label, picture, frames) in enumerate(rows):
        x, y = number % columns * cell[0], number // columns * cell[1]
        draw.text((x + 2, y + 1), label, fill="black")
        page.paste(picture, (x, y + text))
        for place, share in enumerate(SHOWN):
            frame = frames[round(share * (len(frames) - 1))]
            page.paste(Image.fromarray(frame), (x + width + gap + place * width, y + text))
    return page


def main(media: Path) -> None:
    text = TextToVideoPipeline.from_pretrained()
    for name, kind, argument, prompts in (
        ("first-frames", ImageToVideoPipeline, "image", FIRST_FRAME_PROMPTS),
        ("subjects", SubjectToVideoPipeline, "subject_images", SUBJECT_PROMPTS),
    ):
        pipe, rows = kind.from_pipe(text), []
        for number, (title, picture) in enumerate(pictures(media).items()):
            prompt = prompts[number % len(prompts)]
            output = pipe(prompt, seed=0, output_type="np", **{argument: picture})
            frames = output.uint8()[0]
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            given = picture.crop((left, top, left + side, top + side)).resize(frames.shape[2:0:-1])
            rows.append((f"{title}: {prompt}", given, frames))
        sheet(rows).save(HERE / f"own-{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
