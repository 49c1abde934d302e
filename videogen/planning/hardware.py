"""How fast a machine is: measured in about a second for the one at hand, from data sheets for named GPUs.

A rate is work per second of one kind of work. For this machine each kind is measured with the operator that will do it, on the shapes of the
request (cut down where one call would take too long), so that the measurement contains what a formula does not know: threads, caches, which
backend an operator chooses. For a named GPU the rates are published figures times the share of them that such networks usually reach.

Shapes: B batch, L tokens, D width, N heads, K head width, S text tokens, E experts, k chosen, H hidden width, T = B * L.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tokenizer3d.autoencoder import CausalVideoAutoencoder, StreamState
from videogen.planning.counts import Config, Grid, tokenizer_flops
from videogen_kernels import moe
from videogen_kernels.mixers import cross_mixer, linear_mixer, softmax_mixer
from videogen_kernels.modulated_norm import gated_residual, modulated_norm

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """Published figures of one GPU: memory and bandwidth in bytes, dense bfloat16 products in operations per second."""

    title: str
    memory: float
    matmul: float
    bandwidth: float
    link: float  # to the other GPUs of its node, both directions together
    source: str


#: Dense bfloat16 with float32 accumulation, without sparsity. `link`: NVLink of the SXM boards, else PCI Express.
GPUS: dict[str, Gpu] = {
    "a100": Gpu("NVIDIA A100 80 GB SXM", 80 * GB, 312e12, 2.04e12, 600e9, "NVIDIA A100 data sheet"),
    "h100": Gpu("NVIDIA H100 SXM", 80 * GB, 989e12, 3.35e12, 900e9, "NVIDIA H100 data sheet"),
    "h200": Gpu("NVIDIA H200", 141 * GB, 989e12, 4.8e12, 900e9, "NVIDIA H200 data sheet"),
    "b200": Gpu("NVIDIA B200", 180 * GB, 2250e12, 7.7e12, 1800e9, "NVIDIA DGX B200 data sheet, an eighth"),
    "l40s": Gpu("NVIDIA L40S", 48 * GB, 362e12, 0.864e12, 64e9, "NVIDIA L40S data sheet"),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 24 * GB, 165e12, 1.008e12, 64e9, "NVIDIA Ada architecture paper"),
    "rtx5090": Gpu(
        "NVIDIA GeForce RTX 5090", 32 * GB, 209e12, 1.792e12, 128e9, "NVIDIA Blackwell RTX architecture paper"
    ),
}

#: Shares of the published figures that are assumed for a named GPU. Large products reach 60 to 75 % of the data sheet, fused attention up to 75 %
#: (FlashAttention-3, arXiv 2407.08608), grouped products and small convolutions less.
ASSUMED_SHARES = {"matmul": 0.5, "scores": 0.45, "state": 0.15, "experts": 0.35, "tokenizer": 0.15, "bandwidth": 0.7}


@dataclass(frozen=True)
class Rates:
    """Work per second of each kind.

    Attributes:
        matmul: operations of products with weights.
        state: operations of linear attention between its projections, norms and convolution included.
        scores: operations of softmax attention, likewise.
        text_scores: operations of cross-attention to text.
        experts: operations of routed experts, routing included.
        bandwidth: bytes of norms, residuals and activations.
        decode: operations of the tokenizer's decoder.
        encode: operations of its encoder.
        call: seconds that starting one operator takes, whatever its size.
    """

    matmul: float
    state: float
    scores: float
    text_scores: float
    experts: float
    bandwidth: float
    decode: float
    encode: float
    call: float


@dataclass(frozen=True)
class Machine:
    """Where something is to run.

    Attributes:
        title: for people.
        memory: bytes that may be used.
        rates: see `Rates`.
        link: bytes per second to other devices, both directions; 0 = there are none.
        here: whether it is the machine at hand.
        basis: where the figures come from, one sentence.
    """

    title: str
    memory: float
    rates: Rates
    link: float
    here: bool
    basis: str


def named_gpu(name: str) -> Machine:
    """A GPU of the table.

    Raises:
        ValueError: it is not in the table.
    """
    key = name.lower().replace(" ", "").replace("-", "")
    if key not in GPUS:
        raise ValueError(f"`device` must be 'this' or one of {', '.join(GPUS)}, got {name!r}.")
    gpu, share = GPUS[key], ASSUMED_SHARES
    rates = Rates(
        matmul=share["matmul"] * gpu.matmul,
        state=share["state"] * gpu.matmul,
        scores=share["scores"] * gpu.matmul,
        text_scores=share["state"] * gpu.matmul,
        experts=share["experts"] * gpu.matmul,
        bandwidth=share["bandwidth"] * gpu.bandwidth,
        decode=share["tokenizer"] * gpu.matmul,
        encode=share["tokenizer"] * gpu.matmul,
        call=8e-6,
    )
    shares = f"{share['matmul']:.0%} of {gpu.matmul / 1e12:.0f} TFLOP/s in bfloat16 and {share['bandwidth']:.0%} of {gpu.bandwidth / 1e12:.2f} TB/s"
    return Machine(gpu.title, gpu.memory, rates, gpu.link, False, f"{shares} assumed ({gpu.source}); not measured")


def this_machine(transformer: Config, tokenizer: Config, grid: Grid, batch: int, dtype: torch.dtype) -> Machine:
    """Measure the machine at hand, for about a second, with the operators and (cut-down) shapes of the request.

    Args:
        transformer: configuration of the `VideoTransformer`.
        tokenizer: configuration of the `CausalVideoAutoencoder`.
        grid: what one evaluation sees.
        batch: items of an evaluation (2 with guidance).
        dtype: of the weights.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = measure_rates(transformer, tokenizer, grid, batch, dtype, device)
    if device.type == "cuda":
        title = torch.cuda.get_device_properties(device).name
    else:
        threads = torch.get_num_threads()
        title = f"{processor_name()}, {threads} thread{'s' * (threads > 1)}"
    name = str(dtype).removeprefix("torch.")
    basis = f"measured just now: {rates.matmul / 1e9:,.0f} GFLOP/s in {name}, {rates.bandwidth / 1e9:.1f} GB/s"
    return Machine(title, usable_memory(), rates, 0.0, True, basis)


def unmeasured() -> Machine:
    """The machine at hand without a calibration: good for memory, not for time."""
    return Machine(processor_name(), usable_memory(), Rates(*[1.0] * 9), 0.0, True, "not measured")


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = 1024, seconds: float = 0.15) -> float:
    """Operations per second of a product of two square matrices: what this machine can do at best, measured now."""
    a, b = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: torch.mm(a, b), device, seconds)


def copy_bandwidth(device: torch.device, size: int = 1 << 26, seconds: float = 0.15) -> float:
    """Bytes read and written per second by copying a tensor that no cache holds (64 MB)."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device, seconds)


@torch.no_grad()
def measure_rates(
    transformer: Config, tokenizer: Config, grid: Grid, batch: int, dtype: torch.dtype, device: torch.device
) -> Rates:
    """Each kind of work for a tenth of a second or three runs, whichever is more."""
    c = transformer
    width, heads, head_dim = min(c["width"], 2048), c["num_heads"], c["head_dim"]
    heads = max(1, min(heads, 2048 // head_dim))
    inner = heads * head_dim
    per_frame = min(grid.per_frame, 1024)
    frames = max(1, min(grid.num_frames, 1024 // per_frame))
    length = frames * per_frame
    tokens = batch * length

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def timed(run: Callable[[], Any]) -> float:
        return _seconds(run, device, 0.08)

    x = values(batch, length, width)
    weight = values(4 * inner, width)
    matmul = timed(lambda: torch.nn.functional.linear(x, weight))
    matmul_flops = 2 * tokens * width * 4 * inner

    norm = torch.ones(head_dim, device=device, dtype=dtype)
    cos, sin = (torch.ones(length, head_dim // 2, device=device) for _ in range(2))
    qkvg, beta = values(batch, length, 4, heads, head_dim), values(batch, length, heads)
    conv = values(inner, 1, 3, 3)
    rows = next(rows for rows in range(int(per_frame**0.5), 0, -1) if per_frame % rows == 0)
    shape = (frames, rows, per_frame // rows)
    state = timed(lambda: linear_mixer(qkvg, beta, norm, norm, norm, conv, cos, sin, shape))
    state_flops = 4 * tokens * inner * (head_dim + 1)

    # Softmax: as many keys as a query really sees, up to 2048.
    seen = -(-grid.visible_frames(c["window"]) // grid.num_frames) * grid.per_frame
    keys = max(16, min(seen, 2048))
    items = batch if keys < 1024 else 1
    qkv = values(items, keys, 3, heads, head_dim)
    cos_keys, sin_keys = (torch.ones(keys, head_dim // 2, device=device) for _ in range(2))
    gate = values(items, keys, heads)
    scores = timed(lambda: softmax_mixer(qkv, norm, norm, cos_keys, sin_keys, gate))
    scores_flops = 4 * items * keys**2 * inner

    query, key_value = values(batch, length, heads, head_dim), values(batch, grid.text_tokens, 2, heads, head_dim)
    mask = torch.ones(batch, grid.text_tokens, dtype=torch.bool, device=device)
    text = timed(lambda: cross_mixer(query, key_value, norm, norm, mask))
    text_flops = 4 * tokens * grid.text_tokens * inner

    scale = values(batch, frames, width)
    passes = timed(lambda: gated_residual(x, modulated_norm(x, scale, scale), scale))
    pass_bytes = 5 * x.numel() * x.element_size()

    tiny = torch.zeros(16, device=device)
    call = timed(lambda: [tiny.add(1) for _ in range(50)]) / 50

    experts, expert_flops = 1.0, matmul_flops / matmul
    if "moe" in c["feed_forwards"]:
        experts, expert_flops = _measure_experts(c, tokens, width, values, timed, device)
    decode, encode = _measure_tokenizer(tokenizer, grid, c["patch_size"], dtype, device)
    return Rates(
        matmul=matmul_flops / matmul,
        state=state_flops / state,
        scores=scores_flops / scores,
        text_scores=text_flops / text,
        experts=expert_flops / experts,
        bandwidth=pass_bytes / passes,
        decode=decode,
        encode=encode,
        call=call,
    )


def _measure_experts(
    c: Config,
    tokens: int,
    width: int,
    values: Callable[..., torch.Tensor],
    timed: Callable[[Callable[[], Any]], float],
    device: torch.device,
) -> tuple[float, float]:
    """Seconds and operations of one mixture; at most 8 experts of 1024, as many tokens for each as they really get."""
    hidden, top_k = min(c["expert_hidden"], 1024), c["top_k"]
    num_experts = c["num_experts"] if c["num_experts"] * width * hidden < 2**24 else min(8, c["num_experts"])
    top_k = min(top_k, num_experts)
    share = num_experts / c["num_experts"] * c["top_k"] / top_k
    tokens = max(16, min(1024, round(tokens * share)))
    x = values(tokens, width)
    w_in, w_out = values(num_experts, width, 2 * hidden), values(num_experts, hidden, width)
    router = torch.randn(num_experts, width, device=device)

    def run() -> torch.Tensor:
        indices, weights = moe.route(moe.router_logits(x, router), None, top_k)
        return moe.experts(x, w_in, w_out, indices, weights)

    return timed(run), 6.0 * tokens * top_k * width * hidden


def _measure_tokenizer(
    c: Config, grid: Grid, patch_size: int, dtype: torch.dtype, device: torch.device
) -> tuple[float, float]:
    """Rates of decoding and encoding one later latent frame of at most 16 x 16 positions."""
    # diffusers' own `to` warns about modules that could be kept in float32.
    model = torch.nn.Module.to(CausalVideoAutoencoder(**c), device, dtype).eval()
    height, width = (min(side * patch_size, 16) for side in (grid.height, grid.width))
    latent = torch.zeros(1, c["latent_channels"], 1, height, width, dtype=dtype, device=device)
    frames = torch.zeros(1, c["in_channels"], 4, height * 16, width * 16, dtype=dtype, device=device)
    states = StreamState(), StreamState()
    model.decode_chunk(latent, states[0])
    model.encode_chunk(frames[:, :, :1], states[1])
    encode_flops, decode_flops = tokenizer_flops(c, height * width)
    decode = _seconds(lambda: model.decode_chunk(latent, states[0]), device, 0.08)
    encode = _seconds(lambda: model.encode_chunk(frames, states[1]), device, 0.08)
    return decode_flops / decode, encode_flops / encode


def run_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one run, in seconds, until the device has done all of it."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _seconds(run: Callable[[], Any], device: torch.device, at_least: float) -> float:
    """Median of three runs or of `at_least` seconds of them, after one that is not counted."""
    run_seconds(run, device)
    times = [run_seconds(run, device)]
    while len(times) < 3 or (sum(times) < at_least and len(times) < 200):
        times.append(run_seconds(run, device))
        if sum(times) > 1.0:  # a machine that is busy, or slow: do not wait for better figures
            break
    return median(times)


def usable_memory() -> float:
    """Bytes that this process may hold in all, on the GPU where there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    return float(available_memory() + resident_memory())


def available_memory() -> int:
    """Bytes that this process may still take: what the system has left, or its control group allows."""
    found = []
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    for folder, limit, used in (
        (group, "memory.max", "memory.current"),
        (group / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limits, usages = _lines(folder / limit), _lines(folder / used)
        if limits and usages and limits[0].isdecimal():
            cache = [
                int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith("inactive_file ")
            ]
            found.append(int(limits[0]) - int(usages[0]) + sum(cache))
    if found:
        return min(found)
    import psutil  # not Linux; accelerate brings it

    return int(psutil.virtual_memory().available)


def resident_memory() -> int:
    """Bytes of memory that this process holds now."""
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.Process().memory_info().rss)


def processor_name() -> str:
    """The processor's own name, with the instructions that matter here."""
    info: Mapping[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        info = {**info, key.strip(): value.strip()} if key.strip() in ("model name", "flags") else info
    flags = info.get("flags", "").split()
    known = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    name = info.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({known[0]})" if known else name


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
