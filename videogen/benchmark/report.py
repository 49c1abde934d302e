"""Dated reports of measured rows: Markdown with the goals, tables, and curves as PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from videogen.benchmark.measure import SINGLE_RUN_SECONDS, Row, write_rows

Environment = Mapping[str, Any]

#: Colours that the colour-blind can tell apart (Okabe and Ito 2008), and a line style, per model.
_STYLES = {
    "videogen": ("#D55E00", "-"),
    "videogen-stream": ("#D55E00", "--"),
    "videogen-small": ("#F0A060", "-"),
    "softmax-dense-total": ("#0072B2", "-"),
    "softmax-dense-active": ("#56B4E9", "-"),
    "softmax-experts": ("#0072B2", ":"),
    "hybrid-dense-total": ("#E69F00", ":"),
    "sana-video": ("#009E73", "-"),
    "wan": ("#CC79A7", "-"),
    "cosmos": ("#000000", "-"),
}


def write_report(
    kind: str, rows: Sequence[Row], folder: Path, environment: Environment, command: str, left_out: Sequence[str]
) -> list[Path]:
    """Write `KIND-DATE.json`, `.md` and, where there is something to draw, `.png` into `folder`.

    Args:
        kind: "backbone", "blocks", "tokenizer", "ops" or "clip".
        rows: as measured.
        folder: made if it is missing.
        environment: see `videogen.benchmark.measure.environment`.
        command: that was run.
        left_out: sentences about what was not measured, and why.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{kind}-{str(environment['date'])[:10]}"
    written = [folder / f"{stem}.json"]
    write_rows(written[0], rows)
    draw = {"backbone": plot_backbone, "tokenizer": plot_tokenizer}.get(kind)
    picture = None
    if draw is not None and any(row.get("mode") in ("forward", "encode", "decode") for row in rows):
        picture = folder / f"{stem}.png"
        draw(rows, picture)
        written.append(picture)
    lines = [f"# Benchmark: {kind}", "", *_header(environment, command, rows), ""]
    if picture is not None:
        lines += [f"![curves]({picture.name})", ""]
    lines += body(kind, rows)
    if left_out:
        lines += ["", "## Not measured", "", *(f"- {sentence}" for sentence in left_out)]
    path = folder / f"{stem}.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [*written, path]


def body(kind: str, rows: Sequence[Row]) -> list[str]:
    """The goals and tables of a report as lines of Markdown."""
    return {"backbone": _backbone, "blocks": _blocks, "tokenizer": _tokenizer, "ops": _ops, "clip": _clip}[kind](rows)


def _header(environment: Environment, command: str, rows: Sequence[Row]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [
        f"{environment['date']}, commit {environment['commit'] or 'unknown'}.",
        "",
        "```sh",
        command,
        "```",
        "",
        f"{environment['machine']}, {environment['threads']} of {environment['cores']} cores used, {environment['free_memory'] / 1e9:.0f} GB free, "
        f"load {environment['load']} at the start; {environment['system']}, Python {environment['python']}, {versions}.",
    ]
    rates = [row["matmul_flops"] for row in rows if row.get("matmul_flops")]
    if rates:
        cold = any(not row.get("warm", True) for row in rows)
        alone = f" (one run alone where it takes longer than {SINGLE_RUN_SECONDS:.0f} s)" if cold else ""
        lines += [
            "",
            f"The machine's own matrix products (1024 x 1024, measured before and after every case): median {median(rates) / 1e9:,.0f} GFLOP/s, "
            f"from {min(rates) / 1e9:,.0f} to {max(rates) / 1e9:,.0f}. Each case ran in a process of its own; seconds are medians of up to "
            f"five runs after one that is not counted{alone}. Memory is the largest resident set of the process "
            "while it ran, program and weights included.",
        ]
    return lines


# Backbone


def _forward(rows: Iterable[Row]) -> dict[tuple[str, int], Row]:
    return {(row["model"], row["tokens"]): row for row in rows if row.get("mode") == "forward" and not row.get("block")}


def goals(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """(what, goal, measured, verdict) of everything the backbone is to show; what is missing says 'not measured'."""
    found = _forward(rows)

    def ratio(over: str, under: str, tokens: int) -> float | None:
        a, b = found.get((over, tokens)), found.get((under, tokens))
        return a["seconds"] / b["seconds"] if a and b else None

    table: list[tuple[str, str, str, str]] = []

    def add(what: str, goal: str, value: float | None, good: Callable[[float], bool], form: str = "{:.2f}x") -> None:
        verdict = "" if value is None else "met" if good(value) else "**missed**"
        table.append((what, goal, "not measured" if value is None else form.format(value), verdict))

    add(
        "cost against the softmax twin of equal total parameters, 128K tokens",
        ">= 10x",
        ratio("softmax-dense-total", "videogen", 131072),
        lambda v: v >= 10,
    )
    add(
        "against the twin of equal active parameters, 100K tokens",
        ">= 3x",
        ratio("softmax-dense-active", "videogen", 102400),
        lambda v: v >= 3,
    )
    long, short = found.get(("videogen", 131072)), found.get(("videogen", 8192))
    growth = long["seconds"] / long["tokens"] / (short["seconds"] / short["tokens"]) if long and short else None
    add("time per token at 128K against 8K", "<= 1.25x", growth, lambda v: v <= 1.25)
    for own, what in (("videogen", ""), ("videogen-small", "equal total parameters: ")):
        for tokens in (8192, 16384, 32768):
            add(
                f"{what}speed against `sana-video`, {tokens // 1024}K tokens",
                ">= 1.5x",
                ratio("sana-video", own, tokens),
                lambda v: v >= 1.5,
            )
        peers = [
            value
            for name in ("sana-video", "wan")
            for (model, tokens) in found
            if model == name and (value := ratio(name, own, tokens))
        ]
        add(
            f"{what}slowest against `sana-video` and `wan` at any length",
            ">= 1x",
            min(peers, default=None),
            lambda v: v >= 1,
        )
    forward = [row["matmul_fraction"] for row in found.values() if row["model"] == "videogen"]
    add(
        "share of the machine's products, forward (best length)",
        ">= 35 %, aim 55 %",
        max(forward, default=None),
        lambda v: v >= 0.35,
        "{:.0%}",
    )
    train = [row["matmul_fraction"] for row in rows if row.get("mode") == "train" and row["config"] != "tiny"]
    add(
        "share of the machine's products, training step",
        ">= 35 %",
        max(train, default=None),
        lambda v: v >= 0.35,
        "{:.0%}",
    )
    return table


def _backbone(rows: Sequence[Row]) -> list[str]:
    found = _forward(rows)
    models = list(dict.fromkeys(model for model, _ in found))
    lengths = sorted({tokens for _, tokens in found})
    lines = ["## Goals", "", *_table(("what", "goal", "measured", ""), goals(rows)), ""]
    columns = ["tokens", *(f"`{model}`" for model in models)]
    for title, form in (
        ("Seconds of one evaluation", lambda row: _number(row["seconds"])),
        ("Microseconds per token", lambda row: _number(1e6 * row["seconds"] / row["tokens"])),
        ("Times the cost of `videogen`", lambda row: _times(row, found)),
        ("Peak memory, GB", lambda row: f"{row['peak_bytes'] / 1e9:.2f}"),
        (
            "Kilobytes per token beyond what the process held before",
            lambda row: _number((row["peak_bytes"] - row["base_bytes"]) / row["tokens"] / 1e3),
        ),
        (
            "Share of the machine's products",
            lambda row: f"{row['matmul_fraction']:.0%}" if "matmul_fraction" in row else "-",
        ),
    ):
        cells = [
            [_tokens(tokens), *(form(found[m, tokens]) if (m, tokens) in found else "" for m in models)]
            for tokens in lengths
        ]
        lines += [f"## {title}", "", *_table(columns, cells), ""]
    parameters = {row["model"]: row["parameters"] for row in found.values()}
    lines += [
        "Parameters: " + ", ".join(f"`{model}` {count / 1e6:.1f} M" for model, count in parameters.items()) + ".",
        "",
    ]
    lines += _attribution(found, lengths)
    train = [row for row in rows if row.get("mode") == "train"]
    if train:
        cells = [
            [
                f"`{row['config']}`",
                f"{row['tokens']:,}",
                _number(row["seconds"]),
                f"{row['items_per_second']:.3g}",
                f"{row['matmul_fraction']:.0%}",
                f"{row['peak_bytes'] / 1e9:.2f}",
            ]
            for row in train
        ]
        lines += ["## Training step of `videogen` (forward and backward, float32 weights, autocast, no optimiser)", ""]
        head = ("configuration", "tokens", "seconds", "clips a second", "share of products", "peak, GB")
        lines += _table(head, cells)
    return lines


def _attribution(found: Mapping[tuple[str, int], Row], lengths: Sequence[int]) -> list[str]:
    """Which part of the advantage over the twin of equal total parameters each of the two changes brings, alone."""
    cells = []
    for tokens in lengths:
        needed = [
            found.get((model, tokens))
            for model in ("videogen", "softmax-dense-total", "softmax-experts", "hybrid-dense-total")
        ]
        own, twin, experts, linear = (row["seconds"] if row else None for row in needed)
        if own is None or twin is None:
            continue
        cells.append(
            [
                _tokens(tokens),
                f"{twin / own:.1f}x",
                f"{twin / experts:.1f}x" if experts else "",
                f"{twin / linear:.1f}x" if linear else "",
            ]
        )
    if not cells:
        return []
    head = ("tokens", "both", "experts alone (softmax everywhere)", "linear attention alone (dense feed-forwards)")
    return ["## Where the advantage over `softmax-dense-total` comes from", "", *_table(head, cells), ""]


def _times(row: Row, found: Mapping[tuple[str, int], Row]) -> str:
    own = found.get(("videogen", row["tokens"]))
    return f"{row['seconds'] / own['seconds']:.2f}" if own else ""


def _blocks(rows: Sequence[Row]) -> list[str]:
    lines = []
    for config in dict.fromkeys(row["config"] for row in rows):
        own = [row for row in rows if row["config"] == config]
        whole = next((row for row in own if row["block"] == "whole"), None)
        cells = [
            [
                f"`{row['block']}`",
                str(row["layers"]),
                _number(row["seconds"]),
                _number(row["layers"] * row["seconds"]),
                f"{row.get('matmul_fraction', 0):.0%}",
            ]
            for row in own
        ]
        lines += [f"## `{config}` at {_tokens(own[0]['tokens'])} tokens", ""]
        lines += [*_table(("block", "layers", "seconds", "together", "share of products"), cells), ""]
        if whole is not None and "sum_of_blocks" in whole:
            error = whole["sum_of_blocks"] / whole["seconds"] - 1
            lines += [
                f"The blocks and the rest add up to {whole['sum_of_blocks']:.3g} s, the whole network takes {whole['seconds']:.3g} s: {error:+.1%} "
                f"(goal: within 10 %; {'met' if abs(error) <= 0.1 else '**missed**'}).",
                "",
            ]
    return lines


# Tokenizer, operators, clip


def _tokenizer(rows: Sequence[Row]) -> list[str]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["model"], row["mode"], row["size"], row["frames"]): row for row in rows}
    parameters = {row["model"]: row["parameters"] for row in rows}
    lines = [
        "Parameters: " + ", ".join(f"`{model}` {count / 1e6:.2f} M" for model, count in parameters.items()) + ".",
        "",
    ]
    for mode in ("encode", "decode"):
        cells, memory = [], []
        for size in sorted({row["size"] for row in rows}):
            for frames in sorted({row["frames"] for row in rows}):
                here = [found.get((model, mode, size, frames)) for model in models]
                if not any(here):
                    continue
                own = found.get(("videogen", mode, size, frames))
                wan = found.get(("wan", mode, size, frames))
                ratio = f"{own['frames_per_second'] / wan['frames_per_second']:.2f}x" if own and wan else ""
                cells.append(
                    [
                        f"{size} x {size}",
                        str(frames),
                        *(f"{row['frames_per_second']:.1f}" if row else "" for row in here),
                        ratio,
                    ]
                )
                memory.append(
                    [
                        f"{size} x {size}",
                        str(frames),
                        *(f"{row['peak_bytes'] / 1e9:.2f}" if row else "" for row in here),
                    ]
                )
        names = [f"`{model}`" for model in models]
        lines += [
            f"## Frames per second, {mode} (goal: twice those of `wan`)",
            "",
            *_table(("size", "frames", *names, "against `wan`"), cells),
            "",
        ]
        lines += [f"## Peak memory, {mode}, GB", "", *_table(("size", "frames", *names), memory), ""]
    return lines


def _ops(rows: Sequence[Row]) -> list[str]:
    lines = []
    for tokens in sorted({row["tokens"] for row in rows}):
        for mode in ("forward", "train"):
            here = [row for row in rows if row["tokens"] == tokens and row["mode"] == mode]
            baseline = {row["model"]: row["seconds"] for row in here if row["backend"] in ("reference", "sdpa")}
            cells = [
                [
                    f"`{row['model']}`",
                    row["backend"],
                    _number(1e3 * row["seconds"]),
                    f"{row['seconds_min'] * 1e3:.3g} to {row['seconds_max'] * 1e3:.3g}",
                    f"{row['matmul_fraction']:.0%}" if "matmul_fraction" in row else "",
                    f"{row['bandwidth_fraction']:.0%}",
                    f"{baseline[row['model']] / row['seconds']:.2f}x" if row["model"] in baseline else "",
                    f"{(row['peak_bytes'] - row['base_bytes']) / 1e6:.0f}",
                ]
                for row in here
            ]
            title = f"{_tokens(tokens)} tokens, {'forward and backward' if mode == 'train' else 'forward'}"
            head = (
                "operator",
                "backend",
                "ms",
                "from, to",
                "of products",
                "of copy bandwidth",
                "against PyTorch",
                "memory, MB",
            )
            lines += [f"## {title}", "", *_table(head, cells), ""]
    return lines


def _clip(rows: Sequence[Row]) -> list[str]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["model"] if row["part"] == "command" else row["part"], []).append(row)
    middle = {part: median(row["seconds"] for row in found) for part, found in parts.items()}
    cells = [
        [
            part,
            _number(middle[part]),
            str(found[0].get("calls", 1)),
            _number(middle[part] / found[0].get("calls", 1)),
            f"{max(row['peak_bytes'] for row in found) / 1e9:.2f}",
        ]
        for part, found in parts.items()
    ]
    lengths = [
        f" The clip has {row['frames']} frames, {row['frames'] / row['fps']:.2f} s." for row in rows if "fps" in row
    ]
    lines = [
        f"Medians over runs.{''.join(lengths[:1])} Parts that happen in both clips of the process (text, denoise, decode, write) are counted together.",
        "",
    ]
    lines += [*_table(("part", "seconds", "calls", "seconds a call", "peak, GB"), cells), ""]
    imports = middle.get("import torch", 0) + middle.get("import diffusers", 0)
    marks = [
        ("`videogen --help`", "<= 0.5 s", middle.get("videogen --help"), 0.5),
        (
            "process to closed file, beyond importing torch and diffusers",
            "<= 3 s",
            middle["process to file"] - imports if "process to file" in middle else None,
            3.0,
        ),
        ("the same clip again, warm", "<= 3 s", middle.get("warm"), 3.0),
    ]
    checked = [
        (
            what,
            goal,
            "not measured" if value is None else f"{value:.2f} s",
            "" if value is None else "met" if value <= most else "**missed**",
        )
        for what, goal, value, most in marks
    ]
    return ["## Goals", "", *_table(("what", "goal", "measured", ""), checked), "", "## Parts", "", *lines]


# Curves


def plot_backbone(rows: Sequence[Row], path: Path) -> None:
    """Time and memory, and both per token, against the length."""
    found = _forward(rows)
    panels: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("seconds", lambda row: row["seconds"]),
        ("peak memory, GB", lambda row: row["peak_bytes"] / 1e9),
        ("microseconds per token", lambda row: 1e6 * row["seconds"] / row["tokens"]),
        (
            "memory per token beyond weights, KB",
            lambda row: max(1.0, row["peak_bytes"] - row["base_bytes"]) / row["tokens"] / 1e3,
        ),
    )
    lines = {
        model: sorted((row for (name, _), row in found.items() if name == model), key=lambda row: row["tokens"])
        for model, _ in found
    }
    _plot(path, lines, panels, "tokens", lambda row: row["tokens"], _tokens)


def plot_tokenizer(rows: Sequence[Row], path: Path) -> None:
    """Frames per second and memory, against the length of the clip, at the frame size that was measured at most lengths."""
    decoded = [(row["size"], row["frames"]) for row in rows if row["mode"] == "decode"]
    sizes = {size for size, _ in decoded}
    size = max(sizes, key=lambda size: (len({frames for other, frames in decoded if other == size}), size), default=0)
    panels: list[tuple[str, Callable[[Row], float]]] = []
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["size"] == size and row["mode"] == "decode":
            lines.setdefault(row["model"], []).append(row)
    panels.append((f"decoded frames per second, {size} x {size}", lambda row: row["frames_per_second"]))
    panels.append(("peak memory, GB", lambda row: row["peak_bytes"] / 1e9))
    _plot(path, lines, panels, "frames", lambda row: row["frames"], str)


def _plot(
    path: Path,
    lines: Mapping[str, Sequence[Row]],
    panels: Sequence[tuple[str, Callable[[Row], float]]],
    x_name: str,
    x: Callable[[Row], int],
    label: Callable[[int], str],
) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator
    except ModuleNotFoundError:
        raise ValueError("`--report` needs matplotlib: pip install 'videogen-moe[train]'") from None

    height = 4.2 * ((len(panels) + 1) // 2)
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)
    ticks = sorted({x(row) for row in (row for rows in lines.values() for row in rows)})
    for number, (title, value) in enumerate(panels):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, number + 1)
        for model, rows in lines.items():
            colour, style = _STYLES.get(model, ("#777777", "-."))
            axes.plot(
                [x(row) for row in rows],
                [value(row) for row in rows],
                style,
                color=colour,
                marker="o",
                markersize=4,
                label=model,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        apart = [tick for i, tick in enumerate(ticks) if i + 1 == len(ticks) or ticks[i + 1] >= 1.5 * tick]
        axes.set_xticks(apart, [label(tick) for tick in apart])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        axes.tick_params(axis="x", labelsize=8)
        axes.set_xlabel(x_name)
        axes.set_title(title, fontsize=11)
        axes.grid(alpha=0.25)
        if number == 0:
            axes.legend(fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


def _tokens(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else f"{tokens:,}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
