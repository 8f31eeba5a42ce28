"""How near invented motion is to real motion, in codes and in what is measured on rendered results.

Fréchet distance on windows of f_mot (as FID, with principal components in place of a feature network), and simple
figures of a measured track: speed, autocorrelation, monotony along a path and its linearity.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from xnemo.errors import XNeMoError

Array = NDArray[np.floating]


def windows(motions: Iterable[Array], length: int, stride: int) -> Array:
    """Sequences [T,D] -> all their windows, flattened: [N, length·D]."""
    cut = [
        motion[start : start + length].reshape(-1)
        for motion in motions
        for start in range(0, len(motion) - length + 1, stride)
    ]
    if not cut:
        raise XNeMoError(f"no motion has {length} frames, so there is no window to compare")
    return np.stack(cut)


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
