"""How heads move: seeded sequences of pose, expression and placement at 25 frames/s.

Every parameter follows an Ornstein-Uhlenbeck process, smoothed twice more so that heads have inertia, in its range;
blinks and the jaw of a talker come on top, and an emotion (MEAD's eight, three intensities) is a bias of expression.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.synthetic.geometry import MOTION, PLACEMENT, RANGES

__all__ = ["EMOTIONS", "FPS", "MOTION", "PLACEMENT", "RANGES", "random_motion", "random_motions", "sequence"]

FPS = 25

EMOTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "angry": {"brow_left": -1.0, "brow_right": -1.0, "smile": -0.5, "jaw": 0.1, "pitch": -6},
    "contempt": {"brow_left": 0.7, "brow_right": -0.6, "smile": -0.25, "blink_right": 0.35, "yaw": 8, "pitch": 5},
    "disgusted": {"brow_left": -0.6, "brow_right": -0.6, "smile": -0.9, "cheek": 0.8, "blink_left": 0.25,
                  "blink_right": 0.25},
    "fear": {"brow_left": 0.8, "brow_right": 0.8, "smile": -0.7, "jaw": 0.35, "gaze_x": 0.5},
    "happy": {"smile": 1.0, "cheek": 0.7, "brow_left": 0.2, "brow_right": 0.2, "jaw": 0.15},
    "sad": {"smile": -0.9, "brow_left": 0.35, "brow_right": 0.35, "blink_left": 0.35, "blink_right": 0.35,
            "gaze_y": 0.7, "pitch": -9},
    "surprised": {"brow_left": 1.0, "brow_right": 1.0, "jaw": 0.7, "pucker": 0.3, "pitch": 5},
}  # fmt: skip
"""MEAD's eight emotions as the expression of intensity 3; contempt is lopsided. Intensities 1 and 2 are 40 and 70 %."""

# Time constant in seconds, and how far the process roams: standard deviation as a share of half the range.
WANDER = {
    "yaw": (0.70, 0.70), "pitch": (0.70, 0.65), "roll": (0.70, 0.75),
    "jaw": (0.30, 0.50), "smile": (0.80, 0.60), "pucker": (0.40, 0.60), "blink_left": (0.50, 0.50),
    "blink_right": (0.50, 0.50), "brow_left": (0.60, 0.60), "brow_right": (0.60, 0.60),
    "gaze_x": (0.35, 0.60), "gaze_y": (0.40, 0.55), "cheek": (0.80, 0.60),
    "x": (0.75, 0.75), "y": (0.75, 0.70), "log_scale": (0.75, 0.80),
}  # fmt: skip
REST = {"jaw": -0.9, "pucker": -1.1, "blink_left": -1.5, "blink_right": -1.5, "cheek": -0.8}
"""Where one-sided processes rest, in half-ranges from the middle: below -1 they are mostly at zero."""


def sequence(seed: int, frames: int, emotion: str | None = None, intensity: int | None = None) -> tuple[Tensor, Tensor]:
    """Motion [F, 13] (geometry.MOTION) and placement [F, 3] (geometry.PLACEMENT) of one clip at 25 frames/s.

    emotion is one of EMOTIONS (default: none, the expression roams freely), intensity 1 to 3 (default 3).
    """
    if frames < 1:
        raise XNeMoError(f"frames is {frames}: a sequence needs at least one")
    rng = np.random.default_rng([seed, 23])
    curves = {name: _wander(rng, name, frames, 1.0 if emotion is None else _calm(name)) for name in WANDER}
    for name, bias in _bias(emotion, intensity).items():
        curves[name] += bias
    curves["jaw"] += _talking(rng, frames)
    blinks = _blinks(rng, frames)
    both = np.tanh(curves["brow_left"] + curves["brow_right"])  # brows mostly move together
    for side in ("left", "right"):
        curves[f"blink_{side}"] = np.maximum(curves[f"blink_{side}"], blinks)
        curves[f"brow_{side}"] = 0.5 * (curves[f"brow_{side}"] + both)
    motion = np.stack([np.clip(curves[name], *RANGES[name]) for name in MOTION], -1)
    placement = np.stack([np.clip(curves[name], *RANGES[name]) for name in PLACEMENT], -1)
    return torch.from_numpy(motion).float(), torch.from_numpy(placement).float()


def random_motion(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Independent motions [N, 13] and placements [N, 3], uniform over RANGES: for measuring, not for watching."""
    rng = np.random.default_rng([seed, 29])
    low, high = np.array([RANGES[name] for name in MOTION + PLACEMENT]).T
    drawn = torch.from_numpy(rng.uniform(low, high, (count, len(low)))).float()
    return drawn[:, : len(MOTION)], drawn[:, len(MOTION) :]


def random_motions(seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
    """The first of `random_motion` of every seed, [N, 13] and [N, 3]: each is a function of its own seed alone."""
    motion, placement = zip(*(random_motion(seed, 1) for seed in seeds), strict=True)
    return torch.cat(motion), torch.cat(placement)


def _wander(rng: np.random.Generator, name: str, frames: int, amplitude: float) -> np.ndarray:
    """White noise through three leaky integrators that share the time constant, bent softly into the range."""
    (seconds, share), (low, high) = WANDER[name], RANGES[name]
    time = np.arange(int(4 * seconds * FPS)) / FPS
    kernel = time**2 * np.exp(-3 * time / seconds)
    values = np.convolve(rng.standard_normal(frames + len(kernel) - 1), kernel / np.linalg.norm(kernel), "valid")
    bent = np.tanh(REST.get(name, 0.0) + share * amplitude * 1.6 * values)
    if name in REST:  # one-sided: what is below the middle of the bend is rest
        return np.clip(low + (high - low) * 0.5 * (1 + bent) * 1.25 - 0.12, low, high)
    return 0.5 * (low + high) + 0.5 * (high - low) * bent


def _calm(name: str) -> float:
    """With an emotion the face stays nearer to it, while the head moves as ever."""
    return 1.0 if name in ("yaw", "pitch", "roll", *PLACEMENT) else 0.6


def _bias(emotion: str | None, intensity: int | None) -> dict[str, float]:
    if emotion is None:
        return {}
    if emotion not in EMOTIONS:
        raise XNeMoError(f"there is no emotion {emotion!r}: choose one of {', '.join(EMOTIONS)}")
    level = 3 if intensity is None else intensity
    if level not in (1, 2, 3):
        raise XNeMoError(f"intensity is {intensity}: choose 1, 2 or 3")
    return {name: value * (0.1 + 0.3 * level) for name, value in EMOTIONS[emotion].items()}


def _talking(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Phrases of a jaw that swings at 3 to 5 Hz, with pauses between."""
    time = np.arange(frames) / FPS
    rate = rng.uniform(3, 5)
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * rate * time + rng.uniform(0, 2 * np.pi))
    phrase = 0.5 + 0.5 * np.sin(2 * np.pi * time / rng.uniform(1.5, 3.0) + rng.uniform(0, 2 * np.pi))
    return 0.55 * swing * np.clip(2 * phrase - 0.6, 0, 1)


def _blinks(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Both eyes shut for about a fifth of a second, every two seconds or so."""
    time = np.arange(frames) / FPS
    lids = np.zeros(frames)
    when = rng.uniform(0.2, 2.0)
    while when < frames / FPS:
        lids = np.maximum(lids, np.clip(1.6 - np.abs(time - when) / 0.075, 0, 1))
        when += rng.uniform(1.0, 3.0)
    return lids
