"""The latent cache: every clip rendered or read once, encoded once, and kept as float16 latents for the whole run.

A cache is a folder of shards. Shard i holds clips `i * shard_size ...` as `shard-00000.safetensors` and one JSON line
per clip in `shard-00000.jsonl`. Clips are a function of (seed, index), so an interrupted build goes on with the missing
shards. Per clip:

| tensor | shape | what |
| --- | --- | --- |
| `clips` | `[M, C, f, h, w]` | the whole clip |
| `guides` | `[M, C, g, h, w]` | `guide_frames` of it, each encoded alone as an image (keyframes; the last one is the last image) |
| `references` | `[M, C, r, h, w]` | each of up to r actors in another scene, light and pose; zeros where there is no second actor, and for folders |
| `windows` | `[m, C, f, h, w]` | a window of the same length cut from mid-clip, for the clips named in `window_index [m]` |

`M` clips of the shard, `C f h w` latent sizes. Latents are normalised.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videogen.data.allocator import keep_freed_memory
from videogen.data.device import bfloat16_pays
from videogen.data.stage.actors import UNNAMED
from videogen.training.config import DataConfig

if TYPE_CHECKING:
    from videogen.data.stage import Cast, ClipSpec

FORMAT = 2


def guide_frames(num_frames: int) -> tuple[int, ...]:
    """Pixel frames of a clip that are also encoded alone: a quarter, half, three quarters, the last."""
    last = num_frames - 1
    return tuple(sorted({max(1, last * i // 4) for i in range(1, 5)})) if last else (0,)


def fingerprint(data: DataConfig, seed: int, vae: torch.nn.Module) -> dict[str, Any]:
    """What a cache's content depends on; caches with another fingerprint are refused. The tokenizer's decoder has no say in it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith("decoder."):
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    keys = ["source", "num_frames", "height", "width", "fps", "shard_size", "mid_clip_share"]
    keys += ["rung", "other_rungs", "unnamed_share"] if data.source == "stage" else ["path", "captions"]
    return {"format": FORMAT, "seed": seed, "vae": digest.hexdigest()[:16], **{key: getattr(data, key) for key in keys}}


@torch.no_grad()
def encode(vae: Any, video: Tensor, in_one_piece: bool = False) -> Tensor:
    """Normalised latents `[B, C, f, h, w]` float16 of `video [B, 3, F, H, W]`, encoded on the tokenizer's device, where
    they stay; under bfloat16 autocast where that is faster.

    In one piece keeps a GPU busy; otherwise a clip is a stream of a few frames at a time, which a CPU's cache likes.
    """
    param = next(vae.parameters())
    low = param.dtype == torch.float32 and bfloat16_pays(param.device.type)
    with torch.autocast(param.device.type, dtype=torch.bfloat16, enabled=low):
        video = video.to(param.device, param.dtype)
        latents = vae.encode_chunk(video) if in_one_piece else vae.encode(video).latents
    return vae.normalize(latents.float()).half().contiguous()


def encode_images(vae: torch.nn.Module, frames: Tensor) -> Tensor:
    """Frames `[B, 3, g, H, W]` each encoded alone: `[B, C, g, h, w]`."""
    batch, _, count = frames.shape[:3]
    images = frames.transpose(1, 2).reshape(batch * count, 3, 1, *frames.shape[3:])
    return encode(vae, images).unflatten(0, (batch, count)).squeeze(3).transpose(1, 2).contiguous()


@lru_cache(maxsize=4)
def _unnamed(folder: str) -> Cast:
    from videogen.data.stage import Cast
    from videogen.data.stage.actors import load_unnamed_sprites

    return Cast(load_unnamed_sprites(folder or None))


def stage_cast(data: DataConfig) -> Cast | None:
    """Who plays in the clips of a run; None for the named actors alone.

    Raises:
        ValueError: there are to be unnamed actors, and they have not been fetched.
    """
    return _unnamed(data.unnamed) if data.unnamed_share > 0 else None


def _clip_rung(data: DataConfig, seed: int, number: int) -> str:
    """The rung that a clip's story is of."""
    if not data.other_rungs:
        return data.rung
    own = max(0.0, 1 - sum(data.other_rungs.values()))
    shares = {data.rung: own, **data.other_rungs}
    return random.Random(f"rung {seed} {number}").choices(list(shares), list(shares.values()))[0]


def clip_story(data: DataConfig, seed: int, number: int) -> tuple[ClipSpec, list[ClipSpec], bool]:
    """What a clip of Stage shows; the picture of each of its actors elsewhere; whether a window is cut from its middle."""
    from videogen.data.stage import held_out_pairs, rungs, sample_spec

    vocabulary, generator = rungs()[_clip_rung(data, seed, number)], random.Random(f"clip {seed} {number}")
    spec = sample_spec(generator, vocabulary)
    poses = []
    for shown in spec.actors:
        pose = None
        while pose is None or (len(vocabulary.scenes) > 1 and pose.scene == spec.scene) or held_out_pairs(pose):
            other = sample_spec(generator, vocabulary)
            pose = replace(other, actors=(replace(other.actors[0], name=shown.name),), relation=None, event=None)
        poses.append(pose)
    long = generator.random() < data.mid_clip_share
    cast = stage_cast(data)
    if cast is not None and generator.random() < data.unnamed_share:
        name = f"{UNNAMED}{generator.randrange(cast.num_unnamed)}"
        spec, poses[0] = (
            replace(some, actors=(replace(some.actors[0], name=name), *some.actors[1:])) for some in (spec, poses[0])
        )
    return spec, poses, long


def _stage_shard(
    data: DataConfig, seed: int, indices: range, vae: torch.nn.Module
) -> tuple[dict[str, Tensor], list[dict]]:
    from videogen.data.stage import render, rungs

    stories = [clip_story(data, seed, index) for index in indices]
    specs, max_actors = [spec for spec, _, _ in stories], rungs()[data.rung].max_actors
    size: dict[str, Any] = {"height": data.height, "width": data.width, "fps": data.fps}
    size |= {"device": next(vae.parameters()).device, "cast": stage_cast(data)}
    parts: dict[str, list[Tensor]] = {"clips": [], "guides": [], "references": [], "windows": []}
    for start in range(0, len(specs), data.encode_batch_size):
        some = slice(start, start + data.encode_batch_size)
        poses = [poses for _, poses, _ in stories[some]]
        video = render(specs[some], num_frames=data.num_frames, **size)
        parts["clips"].append(encode(vae, video))
        parts["guides"].append(encode_images(vae, video[:, :, list(guide_frames(data.num_frames))]))
        pictures = video.new_zeros(len(video), 3, max_actors, data.height, data.width)
        for i, of_clip in enumerate(poses):
            pictures[i, :, : len(of_clip)] = render(of_clip, num_frames=1, **size)[:, :, 0].transpose(0, 1)
        references = encode_images(vae, pictures)
        for i, of_clip in enumerate(poses):
            references[i, :, len(of_clip) :] = 0
        parts["references"].append(references)
    chosen = [i for i, (_, _, long) in enumerate(stories) if long]
    step = data.num_frames // 2
    for start in range(0, len(chosen), data.encode_batch_size):
        some_long = [specs[i] for i in chosen[start : start + data.encode_batch_size]]
        video = render(some_long, num_frames=data.num_frames + step, **size)[:, :, step:]
        parts["windows"].append(encode(vae, video))
    tensors = {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}
    tensors["window_index"] = torch.tensor(chosen, dtype=torch.int64)
    return tensors, [{"spec": spec.to_json()} for spec in specs]


def _folder_shard(
    data: DataConfig, seed: int, indices: range, vae: torch.nn.Module
) -> tuple[dict[str, Tensor], list[dict]]:
    from videogen.data.folder import read_captions, read_clip

    entries = read_captions(data.path, data.captions)
    parts: dict[str, list[Tensor]] = {"clips": [], "guides": [], "references": [], "windows": []}
    chosen, step = [], data.num_frames // 2
    for position, index in enumerate(indices):
        video = read_clip(entries[index]["file"], data.num_frames + step, data.height, data.width, data.fps)[None]
        if video.shape[2] < data.num_frames:
            raise ValueError(
                f"`data.path` must hold videos of at least {data.num_frames} frames at {data.fps:g} fps, "
                f"{entries[index]['file']} has {video.shape[2]}; use a smaller `data.num_frames` or leave it out."
            )
        clip = video[:, :, : data.num_frames]
        parts["clips"].append(encode(vae, clip))
        parts["guides"].append(encode_images(vae, clip[:, :, list(guide_frames(data.num_frames))]))
        parts["references"].append(torch.zeros_like(parts["guides"][-1][:, :, :1]))
        wanted = random.Random(f"window {seed} {index}").random() < data.mid_clip_share
        if wanted and video.shape[2] == data.num_frames + step:
            parts["windows"].append(encode(vae, video[:, :, step:]))
            chosen.append(position)
    tensors = {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}
    tensors["window_index"] = torch.tensor(chosen, dtype=torch.int64)
    return tensors, [_folder_record(data, entries[index]) for index in indices]


def count_clips(data: DataConfig) -> int:
    """How many clips the source has."""
    if data.source == "stage":
        return data.num_clips
    from videogen.data.folder import read_captions

    return len(read_captions(data.path, data.captions))


def _folder_record(data: DataConfig, entry: dict[str, Any]) -> dict[str, Any]:
    """What the cache keeps of a video: its words, and by what it is noticed that it is another one: name, size and time of change."""
    path = Path(entry["file"])
    facts = path.stat()
    return {
        **entry,
        "file": Path(os.path.relpath(path, data.path)).as_posix(),
        "bytes": facts.st_size,
        "changed": facts.st_mtime_ns,
    }


def missing_shards(data: DataConfig, num_clips: int) -> list[int]:
    """The shards to make: those that are not there, that `num_clips` has outgrown, or whose videos or captions have changed."""
    wanted: list[dict[str, Any]] | None = None
    if data.source == "folder":
        from videogen.data.folder import read_captions

        wanted = [_folder_record(data, entry) for entry in read_captions(data.path, data.captions)]
    missing = []
    for shard in range(-(-num_clips // data.shard_size)):
        here = slice(shard * data.shard_size, min((shard + 1) * data.shard_size, num_clips))
        lines = Path(data.cache) / f"shard-{shard:05d}.jsonl"
        records = _read_records(lines) if lines.is_file() else []
        too_few = len(records) < here.stop - here.start
        if too_few or (wanted is not None and records != wanted[here]):
            missing.append(shard)
    return missing


def _read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def build_cache(
    data: DataConfig, seed: int, vae: torch.nn.Module, report: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Encode what the cache lacks. Shards appear atomically, so building may stop at any time and go on later.

    Args:
        data: the run's `data` section; `num_clips` may grow between calls, and a folder's videos and captions may change (the
            shards they are in are made anew); the rest may not.
        seed: of the run.
        vae: a `CausalVideoAutoencoder` on the device to encode on.
        report: called with (shards done, shards to do).

    Raises:
        ValueError: the folder holds a cache made with other settings or another tokenizer.
    """
    folder = Path(data.cache)
    folder.mkdir(parents=True, exist_ok=True)
    wanted, manifest = fingerprint(data, seed, vae), folder / "cache.json"
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        for key, default in (("unnamed_share", 0.0), ("other_rungs", {})):  # caches of before these were there
            found.setdefault(key, default)
        different = [key for key in wanted if found.get(key) != wanted[key]]
        if different:
            key = different[0]
            raise ValueError(
                f"`data.cache` must be made with the run's settings, {folder} has {key} = {found.get(key)!r} "
                f"instead of {wanted[key]!r}; name another folder."
            )
    else:
        _write_text(manifest, json.dumps(wanted, indent=1))
    num_clips = count_clips(data)
    missing = missing_shards(data, num_clips)
    if not missing:
        return
    if data.workers == 1 or len(missing) == 1:
        for done, shard in enumerate(missing):
            report(done, len(missing))
            _build_shard(data, seed, num_clips, shard, vae)
        report(len(missing), len(missing))
        return
    context = torch.multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // data.workers)
    finished = context.Queue()
    device = next(vae.parameters()).device
    vae.cpu()
    processes = [
        context.Process(
            target=_worker, args=(data, seed, num_clips, missing[i :: data.workers], vae, threads, finished)
        )
        for i in range(data.workers)
    ]
    for process in processes:
        process.start()
    try:
        for done in range(len(missing)):
            report(done, len(missing))
            while True:
                try:
                    finished.get(timeout=5)
                    break
                except queue.Empty:
                    if any(p.exitcode not in (None, 0) for p in processes):
                        raise RuntimeError(
                            "a process that builds the latent cache died; see its message above."
                        ) from None
    finally:
        for process in processes:
            if process.exitcode is None and missing_shards(data, num_clips):
                process.terminate()
            process.join()
        vae.to(device)
    report(len(missing), len(missing))


def _worker(
    data: DataConfig, seed: int, num_clips: int, shards: list[int], vae: torch.nn.Module, threads: int, finished: Any
):
    keep_freed_memory()
    torch.set_num_threads(threads)
    for shard in shards:
        _build_shard(data, seed, num_clips, shard, vae)
        finished.put(shard)


def _build_shard(data: DataConfig, seed: int, num_clips: int, shard: int, vae: torch.nn.Module) -> None:
    indices = range(shard * data.shard_size, min((shard + 1) * data.shard_size, num_clips))
    make = _stage_shard if data.source == "stage" else _folder_shard
    tensors, records = make(data, seed, indices, vae)
    path = Path(data.cache) / f"shard-{shard:05d}"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path.with_suffix(".safetensors"))
    # The lines are written last: a shard with lines is complete.
    _write_text(
        path.with_suffix(".jsonl"), "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    )


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class LatentCache:
    """A finished cache in memory (about 25 kB a clip at 64 x 5 x 6 x 6).

    Attributes:
        clips, guides, references: see the module's table, over all shards.
        windows: `[m, C, f, h, w]`; `window_index [m]` gives the clip of each.
        records: one dictionary per clip: `spec` (Stage) or `caption`.
        has_references: whether the task "subject" can be trained.
    """

    def __init__(self, data: DataConfig):
        shards = list(self._load(data))
        for name in ("clips", "guides", "references"):
            setattr(self, name, torch.cat([tensors[name] for tensors, _ in shards]))
        self.clips: Tensor
        self.guides: Tensor
        self.references: Tensor
        windows, index, start = [], [], 0
        self.records: list[dict[str, Any]] = []
        for tensors, records in shards:
            if "windows" in tensors:
                windows.append(tensors["windows"])
                index.append(tensors["window_index"] + start)
            start += len(records)
            self.records += records
        self.windows = torch.cat(windows) if windows else self.clips[:0]
        self.window_index = torch.cat(index) if index else torch.zeros(0, dtype=torch.int64)
        self.has_references = data.source == "stage"

    @staticmethod
    def _load(data: DataConfig) -> Iterator[tuple[dict[str, Tensor], list[dict]]]:
        for shard in range(-(-count_clips(data) // data.shard_size)):
            path = Path(data.cache) / f"shard-{shard:05d}"
            yield load_file(path.with_suffix(".safetensors")), _read_records(path.with_suffix(".jsonl"))

    def __len__(self) -> int:
        return len(self.records)

    def take(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Rows of "clips", "guides", "references" (by clip number) or "windows" (by window number), float32."""
        return getattr(self, name)[list(numbers)].float()
