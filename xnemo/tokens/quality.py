"""How near invented motion is to real motion, in codes and in what is measured on rendered results.

Fréchet distance on windows of f_mot (as FID, with principal components in place of a feature network), simple
figures of a measured track (speeds, blinks, autocorrelation, monotony along a path and its linearity), and a linear
reader of labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xnemo.errors import XNeMoError

Array = NDArray[np.floating]


def windows(motions: Iterable[Array], length: int, stride: int, *, centred: bool = False) -> Array:
    """Sequences [T,D] -> all their windows, flattened: [N, length·D]. centred: less each window's own mean, so that
    only the movement is left, and not who moves and in which pose."""
    cut = [
        motion[start : start + length] - (motion[start : start + length].mean(0) if centred else 0)
        for motion in motions
        for start in range(0, len(motion) - length + 1, stride)
    ]
    if not cut:
        raise XNeMoError(f"no motion has {length} frames, so there is no window to compare")
    return np.stack(cut).reshape(len(cut), -1)


def frechet(real: Array, other: Array, components: int = 16) -> float:
    """Fréchet distance of two sets of vectors [N,D], [M,D], each taken as a Gaussian in the leading principal
    components of `real`, in units of their total deviation there: 0 for equal sets, 1 for "a deviation away"."""
    mean = real.mean(0)
    _, scale, basis = np.linalg.svd(real - mean, full_matrices=False)
    axes = basis[:components]
    unit = np.sqrt(np.square(scale[:components]).sum() / len(real))
    a, b = (real - mean) @ axes.T / unit, (other - mean) @ axes.T / unit
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = _root(cov_a)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def speed(track: Array) -> float:
    """Mean absolute change from frame to frame, in the track's own unit."""
    return float(np.abs(np.diff(track)).mean())


def speeds_apart(real: Array, other: Array) -> float:
    """How far two samples of speeds are apart: the mean distance of their quantiles (Wasserstein-1), in units of the
    real ones' mean. 0 for equal distributions, 1 for one that stands still."""
    at = (np.arange(200) + 0.5) / 200
    return float(np.abs(np.quantile(real, at) - np.quantile(other, at)).mean() / real.mean())


def blinks(track: Array, fps: float) -> float:
    """Blinks per minute of an eyelid's track (0 open, 1 shut): closings beyond 0.5 that opened below 0.3 before."""
    count, is_shut = 0, False
    for value in track:
        if is_shut and value < 0.3:
            is_shut = False
        elif not is_shut and value > 0.5:
            count, is_shut = count + 1, True
    return 60 * fps * count / len(track)


def autocorrelation(track: Array, lag: int) -> float:
    """Pearson's r of a track with itself `lag` frames later; 0 where it does not move."""
    early, late = track[:-lag] - track[:-lag].mean(), track[lag:] - track[lag:].mean()
    spread = np.sqrt((early @ early) * (late @ late))
    return float(early @ late / spread) if spread > 1e-12 else 0.0


def monotony(track: Array) -> float:
    """|net change| over the sum of all changes: 1 for a monotone track, near 0 for one that goes to and fro."""
    way = np.abs(np.diff(track)).sum()
    return float(abs(track[-1] - track[0]) / way) if way > 1e-12 else 0.0


def linearity(track: Array) -> float:
    """R² of the straight line fitted to a track."""
    at = np.arange(len(track)) - (len(track) - 1) / 2
    centred = track - track.mean()
    total = centred @ centred
    return float((at @ centred) ** 2 / (at @ at) / total) if total > 1e-12 else 0.0


@dataclass(frozen=True)
class LabelReader:
    """Least squares from features [N,C] to one column per label; the largest names the label."""

    labels: tuple[str, ...]
    mean: Array  # [C]
    deviation: Array  # [C]
    weights: Array  # [C+1,labels]

    @classmethod
    def fit(cls, features: Array, labels: Sequence[str], ridge: float = 10.0) -> LabelReader:
        names = tuple(sorted(set(labels)))
        mean, deviation = features.mean(0), features.std(0) + 1e-6
        a = _with_one((features - mean) / deviation)
        wanted = np.array([[label == name for name in names] for label in labels], float)
        return cls(names, mean, deviation, np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ wanted))

    def read(self, features: Array) -> list[str]:
        """The label of each row [N,C]."""
        scores = _with_one((features - self.mean) / self.deviation) @ self.weights
        return [self.labels[best] for best in scores.argmax(1)]


def _with_one(values: Array) -> Array:
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)
