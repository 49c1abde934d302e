"""`videogen benchmark`: what it costs on this machine, beside what others cost here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from videogen.benchmark.measure import Budget

app = typer.Typer(rich_markup_mode=None)

Json = Annotated[Path | None, typer.Option("--json", metavar="F", help="Write the rows as a JSON list.")]
Report = Annotated[Path | None, typer.Option(metavar="DIR", help="Write a dated report (.md, .json, .png) here.")]
Minutes = Annotated[
    float | None,
    typer.Option(help="Stop after about this long; what was left out is said. By default as long as it takes."),
]
Dtype = Annotated[
    str | None, typer.Option(help="Of the weights: bfloat16 or float32; by default whichever multiplies faster here.")
]
TokenizerDtype = Annotated[str, typer.Option("--dtype", help="Of the weights: bfloat16 or float32.")]
Tokens = Annotated[str, typer.Option(help="Tokens: multiples of 1,024, K for 1,024.")]
Models = Annotated[str | None, typer.Option(help="Rows, separated by commas; by default all.")]
Config = Annotated[str, typer.Option(help="Name or YAML file of the configuration.")]


@app.command()
def backbone(
    lengths: Tokens = "1K,4K,8K,16K,32K,64K,100K,128K,256K",
    models: Models = None,
    config: Config = "bench",
    train: Annotated[bool, typer.Option(help="Also a training step.")] = True,
    dtype: Dtype = None,
    json: Json = None,
    report: Report = None,
    max_minutes: Minutes = None,
) -> None:
    """One evaluation of the network against softmax twins and other models, by length."""
    dtype = _settle_dtype(dtype)
    from videogen.benchmark import backbone as benchmark
    from videogen.benchmark.measure import Budget

    wanted, names, budget = benchmark.parse_lengths(lengths), benchmark.parse_models(models), Budget(max_minutes)

    def rows(say: Callable[[str], None]) -> Iterable[dict[str, Any]]:
        return benchmark.run(wanted, names, config=config, dtype=dtype, train=train, budget=budget, say=say)

    _run("backbone", rows, json, report)


@app.command()
def blocks(
    config: Config = "base",
    tokens: Annotated[str, typer.Option(help="Length: a multiple of 1,024, K for 1,024.")] = "8K",
    dtype: Dtype = None,
    json: Json = None,
    report: Report = None,
    max_minutes: Minutes = None,
) -> None:
    """One block of each kind times its layers, checked against the whole network."""
    dtype = _settle_dtype(dtype)
    from videogen.benchmark import backbone as benchmark
    from videogen.benchmark.measure import Budget

    (length, *others), budget = benchmark.parse_lengths(tokens), Budget(max_minutes)
    if others:
        raise ValueError(f"`--tokens` must be one length, got {tokens}; run the command once for each.")
    _run("blocks", lambda say: benchmark.run_blocks(config, length, dtype=dtype, budget=budget, say=say), json, report)


@app.command()
def tokenizer(
    sizes: Annotated[str, typer.Option(help="Sides of square frames in pixels, multiples of 16.")] = "256,512",
    lengths: Annotated[str, typer.Option(help="Frames, 1 plus multiples of 4.")] = "17,65,129,257,513",
    models: Models = None,
    dtype: TokenizerDtype = "float32",
    json: Json = None,
    report: Report = None,
    max_minutes: Minutes = None,
) -> None:
    """Frames per second and memory of encoding and decoding, against other tokenizers of the same size."""
    dtype = _settle_dtype(dtype)
    from tokenizer3d.shapes import check_num_frames
    from videogen.benchmark import tokenizer as benchmark
    from videogen.benchmark.measure import Budget

    frames, sides, budget = _numbers(lengths, "--lengths"), _numbers(sizes, "--sizes"), Budget(max_minutes)
    for length in frames:
        check_num_frames(length, name="--lengths")
    if any(side % 16 for side in sides):
        raise ValueError(f"`--sizes` must be multiples of 16 pixels, got {sizes}.")
    names = list(benchmark.MODELS) if models is None else [name.strip() for name in models.split(",")]
    unknown = [name for name in names if name not in benchmark.MODELS]
    if unknown:
        raise ValueError(f"`--models` must be of {', '.join(benchmark.MODELS)}, got {unknown[0]!r}.")
    _run(
        "tokenizer", lambda say: benchmark.run(names, sides, frames, dtype=dtype, budget=budget, say=say), json, report
    )


@app.command()
def ops(
    lengths: Tokens = "1K,8K",
    names: Annotated[str | None, typer.Option("--ops", help="Operators, separated by commas; by default all.")] = None,
    dtype: Dtype = None,
    json: Json = None,
    report: Report = None,
    max_minutes: Minutes = None,
) -> None:
    """Every operator with every backend that runs here, forward and backward."""
    dtype = _settle_dtype(dtype)
    from videogen.benchmark import ops as benchmark
    from videogen.benchmark.backbone import parse_lengths
    from videogen.benchmark.measure import Budget

    tokens, budget = parse_lengths(lengths), Budget(max_minutes)
    chosen = list(benchmark.CASES) if names is None else [name.strip() for name in names.split(",")]
    _run("ops", lambda say: benchmark.run(tokens, chosen, dtype=dtype, budget=budget, say=say), json, report)


@app.command()
def clip(
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
    repeats: Annotated[int, typer.Option(help="Runs.", min=1, max=100)] = 3,
    json: Json = None,
    report: Report = None,
    max_minutes: Minutes = None,
) -> None:
    """Where the time of one clip goes, from the start of the process to the closed file."""
    from videogen.benchmark import clip as benchmark
    from videogen.benchmark.measure import Budget

    budget = Budget(max_minutes)
    folder = None if model is None else str(model)
    _run("clip", lambda say: benchmark.run(model=folder, repeats=repeats, budget=budget, say=say), json, report)


@app.command(name="all")
def everything(
    report: Annotated[Path, typer.Option(metavar="DIR", help="Where the dated reports go.")] = Path(
        "samples/benchmarks"
    ),
    max_minutes: Annotated[float, typer.Option(help="For all of it together.")] = 90.0,
) -> None:
    """All benchmarks one after another, with a share of the time each; what one leaves over goes to the next."""
    from videogen.benchmark import backbone as network
    from videogen.benchmark import clip as shipped
    from videogen.benchmark import ops as operators
    from videogen.benchmark import tokenizer as pictures
    from videogen.benchmark.measure import Budget

    whole = Budget(max_minutes)

    def share(part: float) -> Budget:
        return Budget(max(0.1, part * whole.left() / 60))

    names, lengths, dtype = list(network.MODELS), list(network.LENGTHS), _settle_dtype(None)
    # Shares are of what is left: 5, 12, 10, 25 and 48 % of the whole.
    runs: Sequence[tuple[str, float, Callable[[Budget, Callable[[str], None]], Iterable[dict[str, Any]]]]] = (
        ("clip", 0.05, lambda budget, say: shipped.run(budget=budget, say=say)),
        ("ops", 0.13, lambda budget, say: operators.run(dtype=dtype, budget=budget, say=say)),
        ("blocks", 0.12, lambda budget, say: network.run_blocks("base", 8192, dtype=dtype, budget=budget, say=say)),
        ("tokenizer", 0.34, lambda budget, say: pictures.run(budget=budget, say=say)),
        ("backbone", 1.0, lambda budget, say: network.run(lengths, names, dtype=dtype, budget=budget, say=say)),
    )
    for kind, part, rows in runs:
        budget = share(part)
        _run(kind, lambda say, rows=rows, budget=budget: rows(budget, say), None, report)  # type: ignore[misc]


def _run(
    kind: str, rows: Callable[[Callable[[str], None]], Iterable[dict[str, Any]]], json: Path | None, report: Path | None
) -> None:
    """Run a benchmark; rows are on the disk after each of them, so that a run that is broken off keeps what it has. Without a report its tables are printed."""
    from videogen.benchmark.measure import best_device, environment, write_rows
    from videogen.benchmark.report import body, write_report
    from videogen.data.files import check_output_path

    if json is not None:
        check_output_path(json, (".json",), "--json")
    found: list[dict[str, Any]] = []
    left_out: list[str] = []
    where = environment(best_device())

    def say(sentence: str) -> None:
        typer.echo(sentence, err=True)
        if "left out" in sentence or "failed" in sentence:
            left_out.append(sentence)

    command = "videogen " + " ".join(map(shlex.quote, sys.argv[1:]))
    try:
        for row in rows(say):
            found.append(
                {
                    **row,
                    "machine": where["machine"],
                    "threads": row.get("threads", where["threads"]),
                    "commit": where["commit"],
                    "date": where["date"],
                }
            )
            if json is not None:
                write_rows(json, found)
    finally:
        if report is not None and found:
            for path in write_report(kind, found, report, where, command, left_out):
                typer.echo(f"Wrote {path}.")
    if not found:
        raise ValueError("`--max-minutes` must leave time for at least one measurement; nothing was measured.")
    if report is None:
        typer.echo("\n".join(body(kind, found)).rstrip())
    if json is not None:
        typer.echo(f"Wrote {json}.")


def _settle_dtype(dtype: str | None) -> str:
    """The asked-for dtype, or the faster one here."""
    if dtype is None:
        from videogen.benchmark.measure import best_device
        from videogen.data.device import bfloat16_pays

        return "bfloat16" if bfloat16_pays(best_device().type) else "float32"
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"`--dtype` must be bfloat16 or float32, got {dtype!r}.")
    return dtype


def _numbers(text: str, option: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"`{option}` must be numbers separated by commas, got {text!r}.")
    return sorted({int(word) for word in words})
