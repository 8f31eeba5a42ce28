"""Editing of motions: scale, hold, loop, concatenate, smooth, and a drawing of one over time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xnemo.errors import XNeMoError
from xnemo.tokens.motion_file import Motion, check_alike, check_size, write_whole


def scale(motion: Motion, factor: float, neutral: np.ndarray | None = None) -> Motion:
    """Exaggerate (> 1) or calm (< 1) the expression about `neutral` [D] (default: the motion's mean); f_rts stays."""
    if not np.isfinite(factor):
        raise XNeMoError(f"the factor must be a finite number, not {factor}")
    centre = motion.f_mot.mean(axis=0) if neutral is None else np.asarray(neutral, dtype=np.float32)
    if centre.shape != motion.f_mot.shape[1:]:
        raise XNeMoError(f"neutral must be [{motion.f_mot.shape[1]}], not {centre.shape}")
    return replace(motion, f_mot=centre + factor * (motion.f_mot - centre))


def hold(motion: Motion, at: float, seconds: float) -> Motion:
    """Freeze the frame at second `at` for `seconds` more, then go on."""
    if not 0 <= at <= (len(motion) - 1) / motion.fps + 1e-6 or not seconds >= 0:
        raise XNeMoError(f"cannot hold at {at:g} s for {seconds:g} s: the motion lasts {motion.seconds:g} s")
    check_size(len(motion) + seconds * motion.fps, motion.f_mot.shape[1])
    frame, extra = round(at * motion.fps), round(seconds * motion.fps)
    index = np.concatenate([np.arange(frame + 1), np.full(extra, frame), np.arange(frame + 1, len(motion))])
    return replace(motion, f_mot=motion.f_mot[index], f_rts=motion.f_rts[index])


def concatenate(motions: Sequence[Motion], blend: int = 8) -> Motion:
    """One after another; the last `blend` frames of each cross-fade with the first of the next (so it is shorter)."""
    if not motions:
        raise XNeMoError("nothing to concatenate: give at least one motion")
    _check_blend(blend)
    check_alike(motions, "joined")
    first, rates = motions[0], {motion.fps for motion in motions}
    if len(rates) > 1:
        raise XNeMoError(f"motions of {min(rates):g} and {max(rates):g} frames per second cannot be joined")
    check_size(sum(map(len, motions)), first.f_mot.shape[1])
    f_mot, f_rts = first.f_mot, first.f_rts
    for motion in motions[1:]:
        f_mot, f_rts = _faded(f_mot, motion.f_mot, blend), _faded(f_rts, motion.f_rts, blend)
    return replace(first, f_mot=f_mot, f_rts=f_rts)


def loop(motion: Motion, times: int, blend: int = 8) -> Motion:
    """The motion `times` over; every seam, and the seam from the end to the start, is cross-faded.

    The result repeats with a period of T − blend frames, so a player may repeat it for ever without a jump.
    """
    if times < 1:
        raise XNeMoError(f"times must be at least 1, not {times}")
    _check_blend(blend)
    check_size(times * len(motion), motion.f_mot.shape[1])
    blend = min(blend, len(motion) // 2)
    period = len(motion) - blend

    def once(values: np.ndarray) -> np.ndarray:
        # The tail fades into the head: frame 0 of the period follows its last frame as it did in the clip.
        return np.concatenate([_faded(values[period:], values[:blend], blend), values[blend:period]])

    return replace(motion, f_mot=np.tile(once(motion.f_mot), (times, 1)), f_rts=np.tile(once(motion.f_rts), (times, 1)))


def smooth(motion: Motion, sigma: float = 1.0) -> Motion:
    """Gaussian over time, sigma in frames; ends are repeated."""
    if not 0 <= sigma <= len(motion) * 10:
        raise XNeMoError(f"sigma must lie between 0 and ten times the length, not {sigma}")
    if sigma == 0:
        return motion
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()

    def filtered(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((radius, radius), (0, 0)), mode="edge")
        return np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0) @ kernel

    return replace(motion, f_mot=filtered(motion.f_mot), f_rts=filtered(motion.f_rts))


def plot(motion: Motion, path: str | Path, components: int = 4) -> Path:
    """Draw the main components of f_mot, its speed, and f_rts over time to a PNG; returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = np.arange(len(motion)) / motion.fps
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    codes, speed, place = figure.subplots(3, 1, sharex=True)
    centred = motion.f_mot - motion.f_mot.mean(axis=0)
    _, strength, axes = np.linalg.svd(centred, full_matrices=False)
    share = strength**2 / max(float((strength**2).sum()), 1e-12)
    for i in range(min(components, len(axes))):
        codes.plot(seconds, centred @ axes[i], label=f"component {i + 1} ({share[i]:.0%})")
    codes.set_ylabel("f_mot")
    speed.plot(seconds[1:], np.linalg.norm(np.diff(motion.f_mot, axis=0), axis=1) * motion.fps, color="black")
    speed.set_ylabel("speed of f_mot per second")
    for i, name in enumerate(("Δy", "Δx", "s")):
        place.plot(seconds, motion.f_rts[:, i], label=name)
    place.set(ylabel="f_rts", xlabel="seconds")
    for panel in (codes, place):
        panel.legend(loc="upper right", fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return write_whole(picture.getvalue(), Path(path))


def _check_blend(blend: int) -> None:
    if blend < 0:
        raise XNeMoError(f"blend must not be negative, not {blend}")


def _faded(a: np.ndarray, b: np.ndarray, blend: int) -> np.ndarray:
    """a [T,C] then b [U,C] with a cross-fade of at most `blend` frames."""
    n = min(blend, len(a), len(b))
    weight = (np.arange(1, n + 1) / (n + 1))[:, None].astype(a.dtype)
    mixed = (1 - weight) * a[len(a) - n :] + weight * b[:n]
    return np.concatenate([a[: len(a) - n], mixed, b[n:]])
