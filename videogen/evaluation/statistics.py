"""Error bars and tests. The prompt is the unit: clips of one prompt resemble each other and do not count as independent.

Shapes: `n` prompts, `R` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_EXACT_UP_TO = 14  # prompts: 2**14 signs are fewer than twice the resamples
_CHUNK = 500  # resamples at once, to bound memory
_LEAST_PAIRS = 5  # whose correlation has an interval


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; `low` and `high` are `None` where there is no telling (one prompt with graded values)."""

    mean: float
    low: float | None
    high: float | None
    num_values: int
    num_groups: int


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927)."""
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_interval(groups: Sequence[Sequence[float]], proportion: bool = False, seed: int = 0) -> Interval:
    """The mean over all values with a percentile bootstrap over groups.

    Args:
        groups: the values of each prompt's clips; none empty.
        proportion: the values are right (1) or wrong (0).
        seed: of the resampling; equal input gives equal output.

    Returns:
        The interval. Proportions with one clip per prompt, or all alike, get Wilson's over prompts, which does not collapse to a point at 0 or
        100 %.

    Raises:
        ValueError: no group, or an empty one.
    """
    if not groups or any(len(values) == 0 for values in groups):
        raise ValueError(f"`groups` must hold at least one value each, got {len(groups)} groups; leave empty ones out.")
    sums = np.array([float(np.sum(values)) for values in groups])
    sizes = np.array([len(values) for values in groups], float)
    mean, count = sums.sum() / sizes.sum(), int(sizes.sum())
    if proportion and (count == len(groups) or mean in (0.0, 1.0)):
        low, high = wilson(round(mean * len(groups)), len(groups))
        return Interval(float(mean), low, high, count, len(groups))
    if len(groups) == 1:
        return Interval(float(mean), None, None, count, 1)
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, RESAMPLES, _CHUNK):
        drawn = generator.integers(len(groups), size=(min(_CHUNK, RESAMPLES - start), len(groups)))  # [R, n]
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Interval(float(mean), float(low), float(high), count, len(groups))


def correlation_interval(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """Pearson's correlation of pairs with a percentile bootstrap over them.

    Args:
        a: one side of the pairs.
        b: the other side.
        seed: of the resampling; equal input gives equal output.

    Returns:
        The interval; its `mean` is the correlation. Without spread there is none to tell: 0, and no ends; nor have fewer than five pairs.

    Raises:
        ValueError: sides of different length, or no pair.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"`a` and `b` must be as many, and at least one, got {len(a)} and {len(b)}.")
    pairs = np.array([a, b], float)  # [2, n]

    def correlation(drawn: np.ndarray) -> np.ndarray:
        """Of pairs [2, R, n]: [R], NaN without spread."""
        centred = drawn - drawn.mean(2, keepdims=True)
        spread = np.sqrt((centred**2).sum(2)).prod(0)
        return np.where(spread > 1e-12, (centred[0] * centred[1]).sum(1) / np.maximum(spread, 1e-12), np.nan)

    whole = float(correlation(pairs[:, None])[0])
    if math.isnan(whole) or len(a) < _LEAST_PAIRS:
        return Interval(0.0 if math.isnan(whole) else whole, None, None, len(a), len(a))
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, RESAMPLES, _CHUNK):
        drawn = generator.integers(len(a), size=(min(_CHUNK, RESAMPLES - start), len(a)))  # [R, n]
        found.append(correlation(pairs[:, drawn]))
    low, high = np.nanpercentile(np.concatenate(found), (2.5, 97.5))
    return Interval(whole, float(low), float(high), len(a), len(a))


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of paired differences with mean zero: the sign of each prompt's difference is as good as its opposite.

    Exact for up to 14 prompts, else with 10,000 random sign patterns and the observed one counted in (Phipson & Smyth 2010), so never 0.

    Args:
        differences: one per prompt.
        seed: of the sign patterns.

    Raises:
        ValueError: no difference.
    """
    values = np.asarray(differences, float)
    if not len(values):
        raise ValueError("`differences` must hold at least one prompt, got none.")
    observed = abs(values.sum())
    tolerance = 1e-12 * max(1.0, float(np.abs(values).sum()))
    if len(values) <= _EXACT_UP_TO:
        patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
        sums = np.abs((1 - 2 * patterns) @ values)
        return float(np.mean(sums >= observed - tolerance))
    generator = np.random.default_rng(seed)
    at_least = 0
    for start in range(0, RESAMPLES, _CHUNK):
        signs = generator.integers(2, size=(min(_CHUNK, RESAMPLES - start), len(values))) * 2 - 1
        at_least += int((np.abs(signs @ values) >= observed - tolerance).sum())
    return (at_least + 1) / (RESAMPLES + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment (Holm 1979): the same names with p-values that hold for all of them together."""
    order = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
