"""Means over videos with bootstrap intervals. A video that has no figure is left out and counted, never a zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % percentile interval over `count` videos; nan where there is none."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})" if self.count else "none"


def mean(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of the finite values; their order does not matter."""
    kept = np.sort([value for value in values if value is not None and np.isfinite(value)])
    if not len(kept):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(0, len(kept), (DRAWS, len(kept)))
    low, high = np.quantile(kept[draws].mean(1), [0.025, 0.975])
    return Interval(float(kept.mean()), float(low), float(high), len(kept))


def resamples(count: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each of `count` videos is in a bootstrap sample: [1 + draws, count], the sample itself first.

    Models that were shown the same videos are resampled by the same counts: that makes their differences paired.
    """
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    return np.concatenate([np.ones((1, count)), drawn])


def of_draws(draws: np.ndarray, count: int) -> Interval:
    """The interval of a statistic whose value is draws[0] and whose bootstrap samples are the others."""
    kept = draws[1:][np.isfinite(draws[1:])]
    if not len(kept) or not np.isfinite(draws[0]):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high), count)


def difference(a: dict[str, float], b: dict[str, float], seed: int = 0) -> Interval:
    """The paired difference b - a over the videos (by id) that both have a figure for."""
    return mean([b[key] - a[key] for key in sorted(a.keys() & b.keys()) if _both(a[key], b[key])], seed)


def _both(x: float | None, y: float | None) -> bool:
    return x is not None and y is not None and bool(np.isfinite(x) and np.isfinite(y))
