"""Motion between key expressions: linear or spherical in f_mot, linear in f_rts (paper: appendix D, recipe F)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xnemo.errors import XNeMoError
from xnemo.tokens.motion_file import Motion, check_alike, check_size

Curve = Literal["linear", "spherical"]


@dataclass(frozen=True)
class Key:
    """One moment of a motion: `seconds` from its start."""

    motion: Motion
    seconds: float


def parse_key(text: str) -> tuple[str, float]:
    """`"a.safetensors@0.4s"` → ("a.safetensors", 0.4); without `@` the first frame is meant."""
    path, at, moment = text.rpartition("@")
    if not at:
        return text, 0.0
    try:
        return path, float(moment.removesuffix("s"))
    except ValueError:
        raise XNeMoError(f"{text}: write a moment as FILE@SECONDS, for example a.safetensors@0.4s") from None


def at(key: Key) -> tuple[np.ndarray, np.ndarray]:
    """f_mot [D] and f_rts [3] at the key's moment, between frames by a straight line; XNeMoError if it lies outside."""
    motion, last = key.motion, (len(key.motion) - 1) / key.motion.fps
    if not 0 <= key.seconds <= last + 1e-6:
        raise XNeMoError(f"the moment {key.seconds:g} s lies outside a motion whose last frame is at {last:g} s")
    position = key.seconds * motion.fps
    before = int(np.floor(position + 1e-6))
    after, alpha = min(before + 1, len(motion) - 1), max(position - before, 0.0)
    f_mot, f_rts = (
        _lerp(values[before].astype(np.float64), values[after].astype(np.float64), alpha)
        for values in (motion.f_mot, motion.f_rts)
    )
    return f_mot, f_rts


def interpolate(
    keys: Sequence[Key], frames: int, *, times: Sequence[float] | None = None, curve: Curve = "linear"
) -> Motion:
    """A motion of `frames` frames that passes through every key, first and last exactly.

    times: when each key is reached, increasing; scaled to the result's length (default: evenly spaced).
    curve "spherical" turns f_mot's direction at constant speed and grows its length linearly.
    """
    _check(keys, frames, times)
    codes, places = (np.stack(parts) for parts in zip(*map(at, keys), strict=True))
    knots = np.arange(len(keys), dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
    position = np.interp(np.linspace(knots[0], knots[-1], frames), knots, np.arange(len(keys)))
    segment = np.minimum(position.astype(int), len(keys) - 2)
    alpha = (position - segment)[:, None]
    blend = slerp if curve == "spherical" else _lerp
    first = keys[0].motion
    return Motion(
        f_mot=blend(codes[segment], codes[segment + 1], alpha),
        f_rts=_lerp(places[segment], places[segment + 1], alpha),
        fps=first.fps,
        model=first.model,
    )


def slerp(a: np.ndarray, b: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """a, b [N,D], alpha [N,1] in [0,1] → [N,D]; (nearly) parallel, opposite or zero vectors are mixed linearly."""
    length_a, length_b = np.linalg.norm(a, axis=1, keepdims=True), np.linalg.norm(b, axis=1, keepdims=True)
    tiny = 1e-8
    unit_a, unit_b = a / np.maximum(length_a, tiny), b / np.maximum(length_b, tiny)
    angle = np.arccos(np.clip((unit_a * unit_b).sum(1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    straight = (sine < 1e-4) | (length_a < tiny) | (length_b < tiny)
    straight |= (alpha == 0) | (alpha == 1)  # the ends are exact
    safe = np.where(straight, 1.0, sine)
    turned = (np.sin((1 - alpha) * angle) * unit_a + np.sin(alpha * angle) * unit_b) / safe
    return np.where(straight, _lerp(a, b, alpha), turned * _lerp(length_a, length_b, alpha))


def _lerp(a: np.ndarray, b: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    return (1 - alpha) * a + alpha * b


def _check(keys: Sequence[Key], frames: int, times: Sequence[float] | None) -> None:
    if len(keys) < 2:
        raise XNeMoError("interpolation needs at least two keys")
    if frames < len(keys):
        raise XNeMoError(f"{frames} frames cannot pass through {len(keys)} keys: ask for more frames")
    check_alike([key.motion for key in keys])
    check_size(frames, keys[0].motion.f_mot.shape[1])
    if times is not None and (
        len(times) != len(keys) or not (np.diff(times) > 0).all() or not np.isfinite(times).all()
    ):
        raise XNeMoError(f"times must be {len(keys)} increasing numbers, one for each moment")
