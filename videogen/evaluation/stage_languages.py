"""Every prompt of Stage in English and in Chinese, with the same seed: does a model understand the one as well as the other?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videogen.evaluation.clip_jobs import load_results
from videogen.evaluation.stage_suite import ATTRIBUTES, SuiteSettings, load_prompts, run_suite
from videogen.evaluation.statistics import clustered_interval, holm, sign_flip_test

LANGUAGES = ("en", "zh")


def run_languages(
    settings: SuiteSettings,
    folder: str | Path,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measures a model in both languages.

    Args:
        settings: What to measure, without a `language`.
        folder: Gets a folder of results for each language; an interrupted run goes on where it stopped.
        workers: Processes.
        report: Called with the number of judged clips and their total, for each language in its turn.

    Returns:
        `difference`: of `compare`; `en` and `zh`: the tables of `stage_suite.summarise`.

    Raises:
        ValueError: As `stage_suite.run_suite`, another source than the model, or a language.
    """
    if settings.source != "model":
        raise ValueError(f"`source` must be 'model', true clips have no language, got {settings.source!r}.")
    if settings.language is not None:
        raise ValueError(f"`language` must be None where both are measured, got {settings.language!r}.")
    prompts = load_prompts(settings.split, settings.rung, settings.num_prompts)
    chosen = {prompt.id for prompt in prompts if prompt.kind in settings.kinds}
    tables, results = {}, {}
    for language in LANGUAGES:
        own = Path(folder) / language
        tables[language] = run_suite(replace(settings, language=language), own, workers, report)
        results[language] = [
            result
            for result in load_results(own).values()
            if result["prompt"] in chosen and result["seed"] < settings.seeds
        ]
    return {"difference": compare(results["en"], results["zh"]), **tables}


def compare(english: Sequence[Mapping[str, Any]], chinese: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Chinese against English for every attribute: the difference in accuracy, paired by prompt; strangers count for `identity` only.

    Args:
        english: Results as `stage_suite.judge` gives them; prompts that one side lacks are left out.
        chinese: The same prompts in Chinese.

    Returns:
        For each attribute `en`, `zh` (accuracies), `difference` (Chinese less English) with its 95 % interval `low`, `high` over prompts
        (`None` where no prompt differs), `p` (two-sided, by sign flips, Holm's correction) and `prompts`.

    Raises:
        ValueError: No prompt on both sides.
    """
    sides = [_by_prompt(results) for results in (english, chinese)]
    found: dict[str, dict[str, Any]] = {}
    p_values: dict[str, float] = {}
    for key in ATTRIBUTES:
        prompts = [prompt for prompt in sides[0] if key in sides[0][prompt] and key in sides[1].get(prompt, {})]
        if not prompts:
            continue
        means = [[sum(side[prompt][key]) / len(side[prompt][key]) for prompt in prompts] for side in sides]
        differences = [zh - en for en, zh in zip(*means, strict=True)]
        interval = clustered_interval([[value] for value in differences])
        p_values[key] = sign_flip_test(differences)
        same = not any(differences)
        found[key] = {
            "en": round(sum(means[0]) / len(prompts), 4),
            "zh": round(sum(means[1]) / len(prompts), 4),
            "difference": round(interval.mean, 4),
            "low": None if same or interval.low is None else round(interval.low, 4),
            "high": None if same or interval.high is None else round(interval.high, 4),
            "prompts": len(prompts),
        }
    if not found:
        raise ValueError("`english` and `chinese` must share a prompt, got none.")
    for key, p in holm(p_values).items():
        found[key]["p"] = round(p, 4)
    return found


def _by_prompt(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[bool]]]:
    """Prompt -> attribute -> right or wrong of its clips."""
    found: dict[str, dict[str, list[bool]]] = {}
    for result in results:
        everything = {**result["right"], "all": all(result["right"].values())}
        for key, right in everything.items():
            if (result["kind"] == "strangers") != (key == "identity"):
                continue
            found.setdefault(result["prompt"], {}).setdefault(key, []).append(bool(right))
    return found


def format_languages(difference: Mapping[str, Mapping[str, Any]]) -> str:
    """A plain text table of what `compare` returns, in percent and points."""
    lines = [
        f"{'attribute':<10} {'English':>9} {'Chinese':>9} {'difference':>11}  {'95 % interval':<17} {'p':>7} {'prompts':>8}"
    ]
    for key, cell in difference.items():
        ends = "-" if cell["low"] is None else f"{100 * cell['low']:+.1f} .. {100 * cell['high']:+.1f}"
        lines.append(
            f"{key:<10} {100 * cell['en']:>7.1f} % {100 * cell['zh']:>7.1f} % {100 * cell['difference']:>+11.1f}  {ends:<17} {cell['p']:>7.3f} {cell['prompts']:>8}"
        )
    return "\n".join(lines)
