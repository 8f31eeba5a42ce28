"""Whose motion and whose face is in the result? Regressions on drawn pairs, where the truth is known (recipe I6).

For every parameter k: measured_k(result) = α driver_k + β portrait_k + c over the pairs. Motion that is transferred has
α = 1, β = 0; a face that is kept has α' = 1 on the portrait's traits and β' = 0 on the driver's (identity leak).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xnemo.metrics.intervals import resamples

DRAWS = 1000
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # of ridge regression, in units of a feature's variance


@dataclass(frozen=True)
class Coefficients:
    """alpha and beta of one parameter with 95 % bootstrap intervals over pairs."""

    alpha: float
    alpha_low: float
    alpha_high: float
    beta: float
    beta_low: float
    beta_high: float


def coefficients(measured: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int = 0) -> Coefficients:
    """Least squares of measured [N] on first [N] (alpha), second [N] (beta) and a constant."""
    fits = slopes(measured, np.stack([first, second], 1), resamples(len(measured), DRAWS, seed))
    low, high = np.quantile(fits[1:], [0.025, 0.975], axis=0)
    return Coefficients(*(float(v) for i in range(2) for v in (fits[0, i], low[i], high[i])))


def slopes(measured: np.ndarray, on: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Least squares of measured [N] on columns [N, K] and a constant: slopes [D, K], one row for each row of counts
    [D, N] (`intervals.resamples`), which say how often a pair is in the sample."""
    x = np.column_stack([on, np.ones(len(on))])
    size = x.shape[1]
    squares, products = (x[:, :, None] * x[:, None]).reshape(len(x), -1), x * measured[:, None]
    a, b = (counts @ squares).reshape(-1, size, size), counts @ products
    return np.linalg.solve(a + 1e-9 * np.eye(size), b[..., None])[:, :-1, 0]


def ridge_r2(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R² [P] of targets [N, P] read off features [N, D] by ridge regression, fitted on even rows, told on odd ones.

    Features are brought to unit variance; the penalty is the one of PENALTIES that reads half of the even rows best
    from the other half. nan for a target that is the same in all odd rows.
    """
    spread = features[::2].std(0)
    x = (features - features[::2].mean(0)) / np.where(spread > 1e-12, spread, 1.0)
    y = targets - targets[::2].mean(0)
    known, told, halves = x[::2], y[::2], len(x[::2]) // 2
    scale = np.maximum(told.std(0), 1e-9)

    def miss(penalty: float) -> float:
        read = known[halves:] @ _ridge(known[:halves], told[:halves], penalty)
        return float((((told[halves:] - read) / scale) ** 2).mean())

    weights = _ridge(known, told, min(PENALTIES, key=miss))
    left = ((y[1::2] - x[1::2] @ weights) ** 2).sum(0)
    varied = ((y[1::2] - y[1::2].mean(0)) ** 2).sum(0)
    return np.where(varied > 1e-9, 1 - left / np.maximum(varied, 1e-9), np.nan)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    return np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ y)


def invariance(codes: np.ndarray) -> float:
    """ρ = mean distance of two people in the same motion / of one person in two motions, of codes [people, motions, D].

    0: the code knows motion alone; 1: as much of the person as of the motion.
    """
    people = np.linalg.norm(codes - np.roll(codes, 1, 0), axis=-1).mean()
    motions = np.linalg.norm(codes - np.roll(codes, 1, 1), axis=-1).mean()
    return float(people / max(motions, 1e-12))


def retrieval(codes: np.ndarray) -> float:
    """Share of codes [people, motions, D] whose person is told by the nearest mean of codes; chance is 1 / people.

    A code is left out of its own person's mean.
    """
    people, motions, _ = codes.shape
    total = codes.sum(1)
    right = 0
    for motion in range(motions):
        means = np.repeat(total[None] / motions, people, 0)
        own = (total - codes[:, motion]) / max(motions - 1, 1)
        means[np.arange(people), np.arange(people)] = own
        distance = np.linalg.norm(codes[:, motion][:, None] - means, axis=-1)
        right += int((distance.argmin(1) == np.arange(people)).sum())
    return right / (people * motions)


def emotion(tracks: dict[str, Sequence[float]]) -> np.ndarray:
    """Valence and arousal [F, 2] of drawn faces' parameters (recipe I6.6), for EMO-SIM*."""
    t = {name: np.asarray(track, float) for name, track in tracks.items()}
    brow = (t["brow_left"] + t["brow_right"]) / 2
    blink = (t["blink_left"] + t["blink_right"]) / 2
    return np.stack([0.7 * t["smile"] - 0.15 * (1 - brow), 0.5 * t["jaw"] + 0.3 * abs(brow) + 0.2 * (1 - blink)], 1)
