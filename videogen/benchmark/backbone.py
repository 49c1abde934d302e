"""One evaluation of the backbone against the standard transformer and against others, by length.

| model | what |
| --- | --- |
| `videogen` | configuration `bench`: three gated linear layers to one windowed anchor, 16 experts top-2 and a shared one |
| `videogen-small` | the same with experts so small that it has as many parameters in all as `sana-video` |
| `softmax-dense-total` | its twin with softmax over everything and dense feed-forwards, equal in total parameters |
| `softmax-dense-active` | likewise, equal in the parameters that take part in one token |
| `softmax-experts` | softmax over everything with the experts of `videogen`: what linear attention brings |
| `hybrid-dense-total` | the mixers of `videogen` with dense feed-forwards, equal in total: what experts bring |
| `sana-video`, `wan` | diffusers' transformers of these models at equal width, depth, heads and length, random weights |

Everything has random weights, one item, latent frames of 32 x 32 tokens, 64 text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videogen.benchmark.measure import Budget, CaseFailed, Row, best_device, measure
from videogen.benchmark.measure import run_case as run_in_process
from videogen.models.embeddings import KIND_FIRST, KIND_VIDEO, frame_visibility, rotary_tables, screen_positions
from videogen.models.transformer import Block, Router, VideoTransformer
from videogen.planning.counts import (
    Config,
    Grid,
    dense_twin,
    softmax_dense_twin,
    transformer_flops,
    transformer_parameters,
    with_smaller_experts,
)
from videogen.planning.hardware import matmul_rate
from videogen.planning.specs import load_spec

#: Tokens of a latent frame's side.
SIDE = 32
LENGTHS = (1024, 4096, 8192, 16384, 32768, 65536, 102400, 131072, 262144)
MODELS = (
    "videogen",
    "videogen-small",
    "softmax-dense-total",
    "softmax-dense-active",
    "softmax-experts",
    "hybrid-dense-total",
    "sana-video",
    "wan",
)
#: What the goals speak of; measured before anything else.
FIRST = (
    ("videogen", 8192),
    ("videogen", 131072),
    ("sana-video", 8192),
    ("videogen-small", 8192),
    ("wan", 8192),
    ("videogen", 102400),
    ("videogen", 32768),
    ("sana-video", 32768),
    ("videogen-small", 32768),
    ("softmax-dense-total", 131072),
    ("softmax-dense-active", 102400),
)


@dataclass
class Run:
    """Something to call, and the network it runs."""

    call: Callable[[], Any]
    model: nn.Module

    def __call__(self) -> Any:
        return self.call()


def parse_lengths(text: str) -> list[int]:
    """'1K,8K,131072' as numbers of tokens.

    Raises:
        ValueError: not a number, or no multiple of the 1,024 tokens of a latent frame.
    """
    found = []
    for word in text.split(","):
        digits = word.strip().upper()
        factor = 1024 if digits.endswith("K") else 1
        digits = digits.removesuffix("K")
        if not digits.isdecimal() or not int(digits) or int(digits) * factor % SIDE**2:
            raise ValueError(
                f"`--lengths` must be multiples of {SIDE**2} tokens such as 1K,8K,128K, got {word.strip()!r}."
            )
        found.append(int(digits) * factor)
    return sorted(set(found))


def parse_models(text: str | None) -> list[str]:
    """Names separated by commas; None = all.

    Raises:
        ValueError: an unknown name.
    """
    names = list(MODELS) if text is None else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise ValueError(f"`--models` must be of {', '.join(MODELS)}, got {unknown[0]!r}.")
    return names


def model_config(name: str, c: Config) -> dict[str, Any]:
    """The configuration of one of ours, from that of `videogen`."""
    total = sum(transformer_parameters(c).values())
    if name == "videogen-small":
        with torch.device("meta"):
            peer = _sana(c, SIDE)
        return with_smaller_experts(c, sum(parameter.numel() for parameter in peer.parameters()))
    if name == "softmax-experts":
        return {**c, "mixers": ["softmax"] * len(c["mixers"]), "window": None}
    if name == "hybrid-dense-total":
        return dense_twin(c, total)
    if name.startswith("softmax-dense-"):
        return softmax_dense_twin(c, name.removeprefix("softmax-dense-"))
    return dict(c)


def build(
    name: str, c: Config, grid: Grid, dtype: torch.dtype, device: torch.device, train: bool, batch: int = 1
) -> Run:
    """A model of `MODELS` with random weights and inputs of one item; of ours also of several."""
    builders = {"sana-video": build_sana, "wan": build_wan}
    if name in builders:
        if train:
            raise ValueError(f"`train` must be off for {name!r}: only our own training steps are compared.")
        return builders[name](c, grid, dtype, device)
    return build_videogen(model_config(name, c), grid, batch, dtype, device, train)


def build_videogen(
    c: Config, grid: Grid, batch: int, dtype: torch.dtype, device: torch.device, train: bool = False
) -> Run:
    """A `VideoTransformer`: one evaluation, or with `train` forward and backward as the trainer does them (autocast, float32 weights)."""
    model = random_model(VideoTransformer, c, torch.float32 if train else dtype, device)
    n, size = grid.num_frames, c["patch_size"]
    float_dtype = torch.float32 if train else dtype
    generator = torch.Generator(device).manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(float_dtype)

    kinds = torch.tensor([KIND_FIRST] + [KIND_VIDEO] * (n - 1), device=device)
    inputs = {
        "hidden_states": values(batch, c["latent_channels"], n, grid.height * size, grid.width * size),
        "timestep": torch.full((batch, n), 0.5, device=device),
        "encoder_hidden_states": values(batch, grid.text_tokens, c["text_width"]),
        "encoder_attention_mask": torch.ones(batch, grid.text_tokens, dtype=torch.bool, device=device),
        "frame_times": torch.arange(n, device=device) / 6.0,
        "frame_kinds": kinds,
        "camera": torch.zeros(batch, n, c["camera_dim"], device=device),
    }
    if not train:
        model.eval()

        @torch.no_grad()
        def forward() -> Tensor:
            return model(**inputs, return_dict=False)[0]

        return Run(forward, model)
    target = values(*inputs["hidden_states"].shape)

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype):
            velocity = model(**inputs, return_dict=False)[0]
        loss = (velocity.float() - target).square().mean()
        loss.backward()
        return loss.detach()

    return Run(step, model.train())


def build_wan(c: Config, grid: Grid, dtype: torch.dtype, device: torch.device) -> Run:
    """diffusers' transformer of Wan 2.1: softmax over everything, feed-forward 35/6 times as wide as in its 1.3B size."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=c["num_heads"],
        attention_head_dim=c["head_dim"],
        in_channels=c["latent_channels"],
        out_channels=c["latent_channels"],
        text_dim=c["text_width"],
        ffn_dim=round(c["width"] * 35 / 6 / 16) * 16,
        num_layers=len(c["mixers"]),
    )
    model = model.to(device, dtype).eval()
    latents, text = _peer_inputs(c, grid, dtype, device)
    timestep = torch.tensor([500], device=device)

    @torch.no_grad()
    def forward() -> Tensor:
        return model(latents, timestep, text, return_dict=False)[0]

    return Run(forward, model)


def build_sana(c: Config, grid: Grid, dtype: torch.dtype, device: torch.device) -> Run:
    """diffusers' transformer of SANA-Video: linear attention in every layer, feed-forward with convolutions in space and time."""
    model = _sana(c, grid.width).to(device, dtype).eval()
    latents, text = _peer_inputs(c, grid, dtype, device)
    timestep = torch.tensor([500], device=device)
    mask = torch.ones(1, grid.text_tokens, device=device)

    @torch.no_grad()
    def forward() -> Tensor:
        return model(latents, text, timestep, encoder_attention_mask=mask, return_dict=False)[0]

    return Run(forward, model)


def _sana(c: Config, sample_size: int) -> Any:
    from diffusers import SanaVideoTransformer3DModel

    return SanaVideoTransformer3DModel(
        in_channels=c["latent_channels"],
        out_channels=c["latent_channels"],
        num_attention_heads=c["num_heads"],
        attention_head_dim=c["head_dim"],
        num_layers=len(c["mixers"]),
        num_cross_attention_heads=c["num_heads"],
        cross_attention_head_dim=c["head_dim"],
        cross_attention_dim=c["width"],
        caption_channels=c["text_width"],
        sample_size=sample_size,
        patch_size=(1, 1, 1),
    )


def _peer_inputs(c: Config, grid: Grid, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    latents = torch.randn(
        1, c["latent_channels"], grid.num_frames, grid.height, grid.width, generator=generator, device=device
    )
    text = torch.randn(1, grid.text_tokens, c["text_width"], generator=generator, device=device)
    return latents.to(dtype), text.to(dtype)


def random_model(kind: type[nn.Module], arguments: Config, dtype: torch.dtype, device: torch.device) -> Any:
    """A network with random weights, made without initialising it first: a model of 4 B parameters would take minutes."""
    with torch.device("meta"):
        model = kind(**arguments)
    model = nn.Module.to(model, dtype).to_empty(device=device)
    pool = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0 if "norm" in name else 0.0)
                continue
            flat, scale = parameter.view(-1), parameter.shape[-2 if "w_" in name else -1] ** -0.5
            scaled = (pool * scale).to(parameter.dtype)
            for start in range(0, flat.numel(), pool.numel()):
                part = flat[start : start + pool.numel()]
                part.copy_(scaled[: part.numel()])
        for buffer in model.buffers():
            buffer.zero_()
    for module in model.modules():
        if isinstance(module, Router):  # every expert wants the same tokens where rows repeat
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    return model


def run_case(
    model: str,
    tokens: int,
    config: str = "bench",
    dtype: str = "bfloat16",
    train: bool = False,
    block: str | None = None,
    shape: tuple[int, int, int, int] | None = None,
    warm: bool = False,
) -> Row:
    """One row: a model at one length, or one block of it; see `run`. `shape`: items, latent frames, rows and columns instead of `tokens`; `warm`: see
    `measure`."""
    torch.manual_seed(0)
    device, element = best_device(), getattr(torch, dtype)
    c = load_spec(config).transformer
    batch, *sides = shape or (1, tokens // SIDE**2, SIDE, SIDE)
    grid = Grid(*sides)
    flops: float | None
    if block is not None:
        case, flops = build_block(block, c, grid, element, device)
    else:
        case = build(model, c, grid, element, device, train, batch)
        flops = None
        if model not in ("sana-video", "wan"):
            one = batch * sum(transformer_flops(model_config(model, c), grid).values())
            flops = float(one * (3 if train else 1))  # a backward pass is twice the work
    row: Row = {
        "benchmark": "backbone",
        "model": model,
        "config": config,
        "tokens": batch * grid.tokens,
        "mode": "train" if train else "forward",
        "dtype": dtype,
        "block": block,
        "items": batch,
    }
    row |= measure(case, device, element, warm)
    row["parameters"] = sum(parameter.numel() for parameter in case.model.parameters())
    row["items_per_second"] = batch / row["seconds"]
    if flops is not None:
        row |= {"flops": flops, "matmul_fraction": flops / row["seconds"] / row["matmul_flops"]}
    return row


def run(
    lengths: Sequence[int],
    models: Sequence[str],
    *,
    config: str = "bench",
    dtype: str = "bfloat16",
    train: bool = True,
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Rows of every model at every length, those first that the goals speak of, then by the time they should take; what does not fit the time is said.

    Args:
        lengths: tokens, multiples of 1,024.
        models: of `MODELS`.
        config: name or file of the configuration.
        dtype: of the weights.
        train: also a training step (forward and backward) of `videogen` at up to 8K tokens.
        budget: how long it may take.
        say: for progress.
    """
    c = load_spec(config).transformer
    rate = matmul_rate(getattr(torch, dtype), best_device())
    slower = dict.fromkeys(models, 3.0)  # than its operations at the rate of products; learnt on the way
    cases = [(model, tokens, False) for tokens in lengths for model in models]
    if train and "videogen" in models:
        cases += [("videogen", tokens, True) for tokens in lengths if tokens <= 8192]
    first = [(*case, False) for case in FIRST if (*case, False) in cases]
    rest = sorted((case for case in cases if case not in first), key=lambda case: _work(case[0], c, case[1]))
    for model, tokens, is_training in first + rest:
        seconds = slower[model] * _work(model, c, tokens) * (3 if is_training else 1) / rate
        expected = 15 + seconds * (1 if seconds > 20 else 3)
        name = f"{model}, {tokens:,} tokens{', training step' if is_training else ''}"
        if expected > budget.left():
            say(
                f"{name}: left out, would take about {expected / 60:.0f} min and {max(0.0, budget.left()) / 60:.0f} are left"
            )
            continue
        try:
            row = run_in_process(
                "backbone",
                {"model": model, "tokens": tokens, "config": config, "dtype": dtype, "train": is_training},
                budget.timeout(),
            )
        except CaseFailed as error:
            say(f"{name}: failed: {error}")
            continue
        say(f"{name}: {row['seconds']:.3g} s, {row['peak_bytes'] / 1e9:.2f} GB")
        if not is_training:
            slower[model] = max(1.0, 1.2 * row["seconds"] * rate / _work(model, c, tokens))
        yield row
    if train and "videogen" in models:
        yield from _shipped_step(dtype, budget, say)


def _shipped_step(dtype: str, budget: Budget, say: Callable[[str], None]) -> Iterator[Row]:
    """A training step of the shipped size on 10 clips of 33 frames (9 latent ones) of 96 x 96, as its training configuration has it."""
    name = "videogen (tiny), training step of 10 clips"
    if budget.left() < 30:
        say(f"{name}: left out, no time is left")
        return
    arguments = {
        "model": "videogen",
        "tokens": 0,
        "config": "tiny",
        "dtype": dtype,
        "train": True,
        "shape": (10, 9, 6, 6),
    }
    try:
        row = run_in_process("backbone", arguments, budget.timeout())
    except CaseFailed as error:
        say(f"{name}: failed: {error}")
        return
    say(f"{name}: {row['items_per_second']:.3g} clips/s")
    yield row


def _work(model: str, c: Config, tokens: int) -> float:
    """Operations of one evaluation; of others roughly."""
    grid = Grid(tokens // SIDE**2, SIDE, SIDE)
    similar = {"wan": "softmax-dense-active", "sana-video": "hybrid-dense-total"}.get(model, model)
    return float(sum(transformer_flops(model_config(similar, c), grid).values()))


def block_kinds(c: Config) -> dict[str, int]:
    """The different blocks of a configuration and how often each is there: 'linear+moe+text' -> layers."""
    found: dict[str, int] = {}
    for layer, (mixer, kind) in enumerate(zip(c["mixers"], c["feed_forwards"], strict=True)):
        name = f"{mixer}+{kind}" + ("+text" if layer in c["cross_attention_layers"] else "")
        found[name] = found.get(name, 0) + 1
    return found


def build_block(kind: str, c: Config, grid: Grid, dtype: torch.dtype, device: torch.device) -> tuple[Run, float]:
    """One block of a kind, and its operations; kind "rest" is everything but the blocks."""
    mixer, feed_forward, *text = kind.split("+") if kind != "rest" else ("linear", "dense")
    alone = {**c, "mixers": [mixer], "feed_forwards": [feed_forward], "cross_attention_layers": [0] if text else []}
    flops = transformer_flops(alone, grid)
    outside = float(flops["embeddings and modulation"])
    if kind == "rest":
        whole = build_videogen(alone, grid, 1, dtype, device)
        whole.model.blocks = nn.ModuleList()
        return whole, outside
    keys = (
        "width",
        "num_heads",
        "head_dim",
        "text_width",
        "dense_hidden",
        "expert_hidden",
        "shared_hidden",
        "num_experts",
        "top_k",
    )
    arguments = {key: c[key] for key in keys}
    arguments |= {"mixer": mixer, "feed_forward": feed_forward, "cross_attention": bool(text)}
    block = random_model(Block, arguments, dtype, device).eval()
    n = grid.num_frames
    kinds = torch.tensor([KIND_FIRST] + [KIND_VIDEO] * (n - 1), device=device)
    tables = rotary_tables(
        torch.arange(n, device=device) / 6.0,
        kinds,
        *screen_positions(grid.height, grid.width, torch.device(device)),
        c["head_dim"],
        c["rotary_theta"],
        c["rotary_time_scale"],
    )
    visible = frame_visibility(kinds, c["window"])
    x = torch.randn(1, grid.tokens, c["width"], device=device).to(dtype)
    modulation = torch.randn(1, n, 6, c["width"], device=device).to(dtype)
    words = torch.randn(1, grid.text_tokens, c["text_width"], device=device).to(dtype)
    mask = torch.ones(1, grid.text_tokens, dtype=torch.bool, device=device)

    @torch.no_grad()
    def forward() -> Tensor:
        return block(x, modulation, words, mask, *tables, (n, grid.height, grid.width), visible, None)

    return Run(forward, block), sum(flops.values()) - outside


def run_blocks(
    config: str, tokens: int, *, dtype: str = "bfloat16", budget: Budget, say: Callable[[str], None]
) -> Iterator[Row]:
    """One block of each kind and the rest of a configuration, their sum, and the whole network to check it by.

    Row `sum` adds up the blocks times the number of their layers and the rest; `whole` is measured.
    """
    c = load_spec(config).transformer
    kinds = {**block_kinds(c), "rest": 1}
    total = 0.0
    complete = True
    for kind, layers in [*kinds.items(), ("whole", 1)]:
        name = f"{config}, {tokens:,} tokens, {kind}"
        # The blocks are measured warm, and so is what they are checked by, however long it takes.
        arguments = {"model": "videogen", "tokens": tokens, "config": config, "dtype": dtype, "warm": True}
        if budget.left() < 10:
            say(f"{name}: left out, no time is left")
            complete = False
            continue
        try:
            row = run_in_process("backbone", arguments | {"block": None if kind == "whole" else kind}, budget.timeout())
        except CaseFailed as error:
            say(f"{name}: failed: {error}")
            complete = False
            continue
        row |= {"block": kind, "layers": layers}
        say(f"{name}: {row['seconds']:.3g} s x {layers}, {row['peak_bytes'] / 1e9:.2f} GB")
        if kind == "whole" and complete:
            row["sum_of_blocks"] = total
        total += layers * row["seconds"]
        yield row
