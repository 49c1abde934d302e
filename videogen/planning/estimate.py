"""Time and memory of a request on a machine, and how a model is spread over several devices.

Time is work over rate, kind by kind (`videogen.planning.hardware`). Memory is what is alive at the worst moment of each stage; the stages come
one after another, so the peak is the program, the weights and the largest stage. Spreading is arithmetic: nobody has run it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tokenizer3d.shapes import num_latent_frames, num_pixel_frames
from videogen.planning import counts
from videogen.planning.counts import Config, Counts, Grid
from videogen.planning.hardware import Machine, Rates
from videogen.planning.specs import ModelSpec

#: Python, torch, diffusers and what they load: bytes, where this process is not the one that will run.
PROGRAM_BYTES = 450_000_000
#: Frames per second are written at about this many pixels per second (x264, one thread).
WRITE_PIXELS = 12e6
#: Calls of operators per block and per evaluation, with what Python does between them, in units of `Rates.call`.
_CALLS_PER_BLOCK, _CALLS_PER_EVALUATION = 160, 300
#: Bytes per second to a device of another node: 400 Gbit/s.
_NODE_LINK, _DEVICES_PER_NODE = 50e9, 8
#: Share of a device's memory that is planned for.
_USABLE = 0.9

#: Which rate does the work of which part.
_RATE_OF = {
    "linear state": "state",
    "softmax scores": "scores",
    "text scores": "text_scores",
    "routed experts": "experts",
}


@dataclass(frozen=True)
class Request:
    """What is to be made.

    Attributes:
        num_frames: pixel frames.
        height: pixels.
        width: pixels.
        fps: frames per second.
        num_inference_steps: evaluations of the network (per window).
        guidance: whether evaluations run with and without the text.
        num_guided_steps: how many of them do; None = all.
        text_tokens: of the prompt.
        window_frames: pixel frames the model makes at a time; None = all.
        num_windows: how many times it does.
        num_extra: latent frames of guides and references.
        num_videos: one after another.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    num_inference_steps: int = 20
    guidance: bool = True
    num_guided_steps: int | None = None
    text_tokens: int = 64
    window_frames: int | None = None
    num_windows: int = 1
    num_extra: int = 0
    num_videos: int = 1

    @property
    def batch(self) -> int:
        return 2 if self.guidance else 1

    @property
    def evaluations(self) -> float:
        """Evaluations of the network over all videos and windows, in those of the full batch."""
        guided = self.num_inference_steps if self.num_guided_steps is None else self.num_guided_steps
        steps = guided + (self.num_inference_steps - guided) / self.batch
        return steps * self.num_windows * self.num_videos


@dataclass(frozen=True)
class Spread:
    """One way to run on several devices at once.

    Attributes:
        devices: how many.
        sequence: over how many the tokens are split, latent frame by latent frame (and the two branches of guidance).
        sharded: whether weights other than the experts' are sharded too; otherwise every device holds them.
        bytes_per_device: at the peak.
        bytes_moved: to and from a device in one evaluation.
        seconds: of denoising.
    """

    devices: int
    sequence: int
    sharded: bool
    bytes_per_device: float
    bytes_moved: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a request takes. Seconds, bytes and operations by part; `flops` of one evaluation of one item."""

    model: str
    request: Request
    grid: Grid
    machine: str
    basis: str
    dtype: str
    parameters: Counts
    active_parameters: Counts
    flops: Counts
    total_flops: float
    seconds: dict[str, float]
    memory: dict[str, float]
    available: float
    spread: list[Spread] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def peak_bytes(self) -> float:
        """Program, weights, and the largest of the stages that follow one another."""
        stages = [value for name, value in self.memory.items() if name not in ("program", "weights")]
        return self.memory["program"] + self.memory["weights"] + max(stages)

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.available

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        extra = {"total_seconds": self.total_seconds, "peak_bytes": self.peak_bytes, "fits": self.fits}
        return {**values, **extra}


def make_grid(spec: ModelSpec, request: Request) -> Grid:
    """What the transformer sees of a request in one evaluation.

    Raises:
        ValueError: a length or a size off the grid of the model.
    """
    frames = request.num_frames if request.window_frames is None else min(request.window_frames, request.num_frames)
    num_latent = num_latent_frames(frames, int(spec.tokenizer["scale_factor_temporal"]))
    pixels = spec.pixels_per_token
    for name, value in (("height", request.height), ("width", request.width)):
        if value < pixels or value % pixels:
            good = max(pixels, round(value / pixels) * pixels)
            raise ValueError(f"`{name}` must be a positive multiple of {pixels} pixels, got {value}; use {good}.")
    height, width = request.height // pixels, request.width // pixels
    return Grid(num_latent + request.num_extra, height, width, request.text_tokens, request.num_extra)


def make_estimate(
    spec: ModelSpec,
    request: Request,
    machine: Machine,
    dtype: torch.dtype,
    program_bytes: float = PROGRAM_BYTES,
    devices: int | None = None,
) -> Estimate:
    """Everything that can be said about `request` before it runs.

    Args:
        spec: the model.
        request: what is to be made.
        machine: where.
        dtype: of the weights.
        program_bytes: memory of the program itself.
        devices: spread over this many; None = the fewest that hold it, and up to eight times as many.
    """
    grid = make_grid(spec, request)
    c, batch = spec.transformer, request.batch
    flops = counts.transformer_flops(c, grid)
    text_flops = counts.text_encoder_flops(spec.text_encoder, grid.text_tokens)
    positions, tile = _positions(spec, request)
    encode_flops, decode_flops = counts.tokenizer_flops(spec.tokenizer, positions)
    windows = request.num_windows
    evaluations = request.evaluations
    seconds = {
        "text": batch * text_flops / machine.rates.matmul * request.num_videos,
        "denoising": evaluations * evaluation_seconds(c, grid, batch, machine.rates, dtype.itemsize),
        "decoding": decode_flops / machine.rates.decode * windows * request.num_videos,
        "encoding known frames": encode_flops / machine.rates.encode * (windows - 1) / 2 * request.num_videos,
        "writing": request.num_frames * request.height * request.width / WRITE_PIXELS * request.num_videos,
    }
    total = evaluations * batch * sum(flops.values()) + request.num_videos * (
        batch * text_flops + windows * decode_flops
    )
    video = 12.0 * request.num_frames * request.height * request.width  # bytes of float32 frames
    # On a GPU the finished frames are the host's.
    stages = {
        "denoising": _denoising_bytes(c, grid, batch, dtype.itemsize, machine),
        "decoding": 2 * video
        + decoder_bytes(spec.tokenizer, tile, positions // tile_frames(spec, request), dtype.itemsize),
        "frames": 4 * video if machine.here and not torch.cuda.is_available() else 2 * video,
    }
    parameters, active = _parameters(spec)
    weights = dtype.itemsize * sum(parameters.values())
    estimate = Estimate(
        model=spec.name,
        request=request,
        grid=grid,
        machine=machine.title,
        basis=machine.basis,
        dtype=str(dtype).removeprefix("torch."),
        parameters=parameters,
        active_parameters=active,
        flops=flops,
        total_flops=float(total),
        seconds={name: value for name, value in seconds.items() if value > 0},
        memory={"program": float(program_bytes), "weights": float(weights), **stages},
        available=machine.memory,
    )
    if machine.link > 0:
        estimate.spread.extend(_spreads(spec, estimate, machine, dtype.itemsize, devices))
    return estimate


def evaluation_seconds(c: Config, grid: Grid, batch: int, rates: Rates, itemsize: int) -> float:
    """Seconds of one evaluation of the transformer for `batch` items."""
    flops = counts.transformer_flops(c, grid)
    work = sum(value / getattr(rates, _RATE_OF.get(part, "matmul")) for part, value in flops.items())
    passes = batch * _pass_bytes(c, grid, itemsize) / rates.bandwidth
    calls = _CALLS_PER_BLOCK * len(c["mixers"]) + _CALLS_PER_EVALUATION
    return batch * work + passes + calls * rates.call


def _pass_bytes(c: Config, grid: Grid, itemsize: int) -> float:
    """Bytes that norms, residuals and activations of one item read and write."""
    width, cross = c["width"], len(set(c["cross_attention_layers"]))
    per_token = 5 * width * (2 * len(c["mixers"]) + cross + 1)  # norm: two, residual: three
    for kind in c["feed_forwards"]:
        per_token += 3 * (c["shared_hidden"] if kind == "moe" else c["dense_hidden"])
    return float(grid.tokens * per_token * itemsize)


def activation_bytes(c: Config, grid: Grid, batch: int, itemsize: int, fused: bool) -> float:
    """Bytes alive at the worst moment of one evaluation, weights apart.

    Args:
        c: of the transformer.
        grid: what it sees.
        batch: items.
        itemsize: bytes of an element of the residual stream.
        fused: whether fused operators run; PyTorch's own keep float32 copies of queries and keys.
    """
    b, width, inner = itemsize, c["width"], c["num_heads"] * c["head_dim"]
    token = c["latent_channels"] * c["patch_size"] ** 2
    moments = []
    if "linear" in c["mixers"]:
        # hidden, qkvg, and the result; otherwise ten float32 tensors of the size of a query beside them
        moments.append(b * (width + 5 * inner) if fused else b * (width + 4 * inner) + 40 * inner)
    if "softmax" in c["mixers"]:
        small = fused and grid.tokens**2 <= 512 * 512
        moments.append(b * (width + 4 * inner) if small else b * (width + 4 * inner) + 8 * inner)
    if c["cross_attention_layers"]:
        moments.append(b * (width + 3 * inner) + (0 if fused else 8 * inner))
    if "dense" in c["feed_forwards"]:
        moments.append(b * (width + 3 * c["dense_hidden"]))
    if "moe" in c["feed_forwards"]:
        k, hidden, experts = c["top_k"], c["expert_hidden"], c["num_experts"]
        if fused:
            routed = b * (2 * width + k * (2 * width + 3 * hidden)) + 4 * experts + 32 * k
        else:
            routed = b * (width + k * (2 * width + hidden)) + (8 + b) * width + 4 * experts * (k + 3)
        moments.append(routed)
        moments.append(b * (2 * width + 3 * c["shared_hidden"]))
    tokens = batch * grid.tokens
    tables = 4 * c["head_dim"] * (grid.tokens if c["camera_speeds"] is None else tokens)
    modulation = 2 * 6 * width * b * grid.num_frames * batch
    # The residual stream before and after the block; the latents: known, noisy, both branches, the model's input and its output.
    return float(tokens * (2 * b * width + max(moments)) + tables + modulation + 4 * 4 * tokens * token)


def kept_bytes(c: Config, grid: Grid, batch: int, itemsize: int) -> float:
    """Bytes that glibc's allocator keeps beside what is alive, on a CPU: holes of freed activations, which go back to the system only from 32 MB on.

    Measured: the size of about four activations, at 2K to 16K tokens of width 512.
    """
    return 4.0 * min(batch * grid.tokens * c["width"] * itemsize, 32 * 2**20)


def decoder_bytes(c: Config, tile: int, positions: int, itemsize: int) -> float:
    """Bytes alive while one tile of one latent frame is decoded: the last block at a quarter of the size, and the memory of the stream.

    The last block counts three times: convolutions work on copies in a layout of their own, and pixels are made of what comes out. So measured
    at 256 x 256 to 512 x 512, with one, two and four threads.
    """
    quarter, eighth, sixteenth = c["decoder_widths"]
    blocks = c["decoder_blocks"]
    bands = 64 * c["in_channels"]
    peak = 16 * max(8 * quarter, 3 * bands + 2 * quarter)
    history = 2 * (blocks[0] * sixteenth + 4 * blocks[1] * eighth + 16 * blocks[2] * quarter)
    return float(itemsize * (3 * tile * peak + positions * history))


def tile_frames(spec: ModelSpec, request: Request) -> int:
    """Latent frames that are decoded at a time in one window."""
    frames = request.num_frames if request.window_frames is None else min(request.window_frames, request.num_frames)
    return num_latent_frames(frames, int(spec.tokenizer["scale_factor_temporal"]))


def _positions(spec: ModelSpec, request: Request) -> tuple[int, int]:
    """Latent positions coded in one window (overlaps counted twice), and those of the largest tile of a frame."""
    scale = int(spec.tokenizer["scale_factor_spatial"])
    frame, tile = counts.tiled_positions(spec.tokenizer, request.height // scale, request.width // scale)
    return frame * tile_frames(spec, request), tile


def _parameters(spec: ModelSpec) -> tuple[Counts, Counts]:
    total = {
        "transformer": sum(counts.transformer_parameters(spec.transformer).values()),
        "text encoder": counts.text_encoder_parameters(spec.text_encoder),
        "tokenizer": sum(counts.tokenizer_parameters(spec.tokenizer)),
    }
    return total, {**total, "transformer": counts.transformer_active(spec.transformer)}


def _fused(machine: Machine) -> bool:
    """Whether the fused operators run there: compiled ones on this CPU where they can, those of the GPU elsewhere."""
    from videogen_kernels.native import runnable

    return not machine.here or torch.cuda.is_available() or runnable()


def _denoising_bytes(c: Config, grid: Grid, batch: int, itemsize: int, machine: Machine) -> float:
    on_cpu = machine.here and not torch.cuda.is_available()
    kept = kept_bytes(c, grid, batch, itemsize) if on_cpu else 0.0
    return activation_bytes(c, grid, batch, itemsize, _fused(machine)) + kept


def longest_that_fits(spec: ModelSpec, request: Request, machine: Machine, available: float, dtype: torch.dtype) -> int:
    """The most frames of this size that fit into `available` bytes with everything else as in `request`; 0 if not even one."""
    scale = int(spec.tokenizer["scale_factor_temporal"])
    weights = dtype.itemsize * sum(_parameters(spec)[0].values())

    def need(num_latent: int) -> float:
        frames = num_pixel_frames(num_latent, scale)
        one = Request(**{**asdict(request), "num_frames": frames})
        positions, tile = _positions(spec, one)
        video = 12.0 * frames * one.height * one.width
        decoding = 2 * video + decoder_bytes(spec.tokenizer, tile, positions // tile_frames(spec, one), dtype.itemsize)
        denoising = _denoising_bytes(spec.transformer, make_grid(spec, one), one.batch, dtype.itemsize, machine)
        return weights + max(denoising, decoding, 4 * video)

    low, high = 0, num_latent_frames(request.num_frames, scale)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if need(middle) <= available else (low, middle - 1)
    return num_pixel_frames(low, scale) if low else 0


def _spreads(spec: ModelSpec, estimate: Estimate, machine: Machine, itemsize: int, devices: int | None) -> list[Spread]:
    """The fewest devices that hold it and the next three doublings; or the number that was asked for."""
    if devices is not None:
        return [_spread(spec, estimate, machine, itemsize, devices)]
    found: list[Spread] = []
    number = 1
    while number <= 4096 and len(found) < 4:
        one = _spread(spec, estimate, machine, itemsize, number)
        if one.bytes_per_device <= _USABLE * machine.memory:
            found.append(one)
        number *= 2
    return found


def _spread(spec: ModelSpec, estimate: Estimate, machine: Machine, itemsize: int, devices: int) -> Spread:
    """Experts are dealt out, tokens are split by latent frame, and other weights are sharded where one device cannot hold them.

    What moves per layer: float32 states of linear attention are summed over all devices (their size does not depend on the length); an anchor
    fetches the keys and values of the frames it sees beyond its own; routed tokens go to their experts and come back; a sharded layer is
    gathered before it runs.
    """
    c, grid, batch = spec.transformer, estimate.grid, estimate.request.batch
    parts = counts.transformer_parameters(c)
    routed = itemsize * parts["routed experts"]
    others = itemsize * (sum(estimate.parameters.values()) - parts["routed experts"])
    sequence = min(devices, batch * grid.num_frames)
    stages = [value for name, value in estimate.memory.items() if name not in ("program", "weights")]
    activations = max(stages[0] / sequence, stages[1] / sequence)  # frames are collected by the host
    sharded = routed / devices + others + activations > _USABLE * machine.memory
    largest = 2 * others / max(1, len(c["mixers"])) if sharded and devices > 1 else 0.0
    held = routed / devices + (others / devices + largest if sharded else others) + activations

    inner = c["num_heads"] * c["head_dim"]
    frames_here = max(1, grid.num_frames * batch // sequence)
    moved = 0.0
    if devices > 1:
        away = 1 - 1 / devices
        window = c["window"]
        foreign = (
            grid.num_frames - frames_here if window is None else min(grid.num_frames, 2 * window + 1 + grid.num_extra)
        )
        for mixer, kind in zip(c["mixers"], c["feed_forwards"], strict=True):
            if mixer == "linear":
                moved += 2 * 4 * inner * (c["head_dim"] + 1)
            else:
                moved += 2 * max(0, foreign) * grid.per_frame * inner * itemsize
            if kind == "moe":
                moved += 2 * batch * grid.tokens / sequence * c["top_k"] * c["width"] * itemsize * away
        moved += others * away if sharded else 0.0
    link = machine.link / 2 if devices <= _DEVICES_PER_NODE else _NODE_LINK
    seconds = estimate.seconds["denoising"] / sequence + estimate.request.evaluations * moved / link
    return Spread(devices, sequence, sharded, held, moved, seconds)


def describe(estimate: Estimate) -> list[str]:
    """The estimate as lines of text for a terminal."""
    request, grid = estimate.request, estimate.grid
    lines = [
        f"{estimate.model}: {request.num_frames} frames ({request.num_frames / request.fps:.2f} s) of {request.width}x{request.height} at "
        f"{request.fps:g} per second, {request.num_inference_steps} steps{' with guidance' if request.guidance else ''}"
        + (f", {request.num_windows} windows" if request.num_windows > 1 else ""),
        "",
        f"Tokens      {grid.tokens:,} ({grid.num_frames} latent frames of {grid.height} x {grid.width}), {grid.text_tokens} of text",
        "Parameters  "
        + _joined((name, _count(value)) for name, value in estimate.parameters.items())
        + f"; active for one token: {_count(sum(estimate.active_parameters.values()))} of {_count(sum(estimate.parameters.values()))}",
        f"Operations  {_flops(estimate.total_flops)} in all; one evaluation: {_flops(request.batch * sum(estimate.flops.values()))}",
    ]
    whole = sum(estimate.flops.values())
    shares = sorted(((value / whole, name) for name, value in estimate.flops.items()), reverse=True)
    lines.append("            " + ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= 0.01))
    lines.append(f"Memory      {_size(estimate.peak_bytes)} at the peak, {estimate.dtype}: " + _memory(estimate))
    lines.append(
        f"Time        {_duration(estimate.total_seconds)}: "
        + _joined((n, _duration(s)) for n, s in estimate.seconds.items())
    )
    lines.append(f"Device      {estimate.machine}, {_size(estimate.available)} usable; {estimate.basis}")
    if not estimate.fits:
        lines.append("            One such device does not hold it: the time is that of one that did.")
    for one in estimate.spread:
        if one.devices == 1 and len(estimate.spread) > 1:
            continue
        weights = "all weights sharded" if one.sharded else "experts dealt out, other weights on each"
        lines.append(
            f"Spread      {one.devices} devices: {_size(one.bytes_per_device)} each ({weights}; tokens over {one.sequence}), "
            f"{_size(one.bytes_moved)} moved per evaluation, denoising {_duration(one.seconds)} (arithmetic, not run)"
        )
    return lines


def advice(spec: ModelSpec, estimate: Estimate, machine: Machine, dtype: torch.dtype) -> str:
    """One sentence for a request that does not fit: what it needs, what is there, and what would fit."""
    need, free, request = estimate.peak_bytes, estimate.available, estimate.request
    sentence = f"it needs {_size(need)} of memory and {_size(free)} are free"
    frames = longest_that_fits(spec, request, machine, free - estimate.memory["program"], dtype)
    if frames:
        return f"{sentence}; use at most {frames} frames ({frames / request.fps:.2f} s), or a smaller size."
    if estimate.memory["program"] + estimate.memory["weights"] > free:
        return f"{sentence}, of which the weights alone take {_size(estimate.memory['weights'])}; use a smaller model or a device with more memory."
    return f"{sentence}, even for one frame; use a smaller size."


def _memory(estimate: Estimate) -> str:
    named: Sequence[tuple[str, str]] = [(name, _size(value)) for name, value in estimate.memory.items()]
    fixed, stages = _joined(named[:2]), ", ".join(f"{name} {value}" for name, value in named[2:])
    return f"{fixed}, and the largest of {stages}"


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pairs)


def _count(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _flops(value: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e6:.3g} MFLOP"


def _size(value: float) -> str:
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    """'0.42 s', '75 s', '12.3 min', '5.1 h' or '3.2 days'."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            value = seconds / size
            return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.3g} days"
