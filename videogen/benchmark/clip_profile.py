"""The parts of one clip of a model's own length on a clock. This module imports nothing heavy: what importing takes is part of what is measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tokenizer3d.shapes import num_latent_frames

PROMPT = "a fox jumps in the snow, [Pan left]"


class Stopwatch:
    """Seconds by part; parts that happen several times keep each time."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def lap(self, part: str, since: float) -> float:
        """Note the time since `since` (of `time.time`) as `part`, and return the time now."""
        now = time.time()
        self.times.setdefault(part, []).append(now - since)
        return now

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Note every call of a method as `part`."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            since = time.time()
            result = original(*args, **kwargs)
            self.lap(part, since)
            return result

        setattr(owner, method, timed)


def profile(process_started: float, python_ready: float, arguments: list[str]) -> None:
    """Make the clip with a clock at every part; prints one line `part seconds` each. Run in a fresh process."""
    watch = Stopwatch()
    watch.times["start python"] = [python_ready - process_started]
    now = time.time()
    import torch

    now = watch.lap("import torch", now)
    import diffusers  # noqa: F401

    now = watch.lap("import diffusers", now)
    from videogen.cli import run
    from videogen.data.video import write_video

    folder = run.model_folder(Path(arguments[1]) if len(arguments) > 1 else None)
    import videogen_pipelines.text_to_video  # noqa: F401

    now = watch.lap("import videogen", now)
    pipe = run.load_pipeline("text", folder)
    watch.lap("load", now)
    watch.watch(pipe, "encode_prompt", "text")
    watch.watch(pipe.transformer, "forward", "denoise")
    watch.watch(pipe, "decode_latents", "decode")
    for attempt in ("cold", "warm"):
        began = time.time()
        result = pipe(prompt=PROMPT, seed=0, output_type="np")
        since = time.time()
        write_video(Path(arguments[0]), result.uint8()[0], result.fps, {})
        watch.lap("write", since)
        watch.lap(attempt, began)
        if attempt == "cold":
            watch.lap("process to file", process_started)
    for part, times in watch.times.items():
        print("part", part.replace(" ", "_"), *times)
    from videogen.benchmark.measure import peak_memory

    print("peak", peak_memory(pipe.device))
    frames, height, width, _ = result.frames[0].shape
    side = int(pipe.vae.config.scale_factor_spatial) * int(pipe.transformer.config.patch_size)
    latent_frames = num_latent_frames(frames, pipe.scale_factor_temporal)
    print(
        "frames",
        frames,
        "fps",
        result.fps,
        "threads",
        torch.get_num_threads(),
        "tokens",
        latent_frames * (height // side) * (width // side),
    )
