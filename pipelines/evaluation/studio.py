"""Where drawn heads nobody trained on are filmed: how a head's motion is taken, and how a motion is put on a head.

`ModelStudio` does it as users do, with a trained model; `RendererStudio` with the renderer's own parameters as codes,
which is the ceiling: nothing is lost in encoding or drawing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from xnemo.synthetic import clips, codes
from xnemo.synthetic.motion import MOTION, sequence
from xnemo.tokens.motion_file import Motion

if TYPE_CHECKING:
    from xnemo.model import XNeMo

CLIP_SIZE, DRAWN_SIZE = 256, 64


@dataclass(frozen=True, eq=False)
class Subject:
    """A head that acts an emotion: its code motion, and the truth by parameter [T]."""

    seed: int
    emotion: str
    intensity: int
    motion: Motion
    truth: Mapping[str, np.ndarray]


class Studio(Protocol):
    """Both ways of a motion."""

    def film(self, seed: int, frames: int, emotion: str, intensity: int) -> Subject:
        """A head of identity `seed` acts; its motion is taken."""
        ...

    def draw(self, seed: int, motion: Motion) -> np.ndarray:
        """Another head, of identity `seed`, does the motion: uint8 RGB [T,H,W,3]."""
        ...


class ModelStudio:
    """With a trained model and ordinary files, in a scratch folder."""

    def __init__(self, model: XNeMo, folder: Path) -> None:
        self.model, self.folder = model, folder

    def film(self, seed: int, frames: int, emotion: str, intensity: int) -> Subject:
        from xnemo.animation import encode_driving
        from xnemo.prepare import prepare_driving

        path = self.folder / f"{seed}.mp4"
        clips.write_clip(path, seed, seed, frames / 25, CLIP_SIZE, emotion, intensity=intensity)
        motion = encode_driving(self.model, prepare_driving(path))
        path.unlink()
        return Subject(seed, emotion, intensity, motion, _truth(seed, frames, emotion, intensity))

    def draw(self, seed: int, motion: Motion) -> np.ndarray:
        from xnemo.animation import animate

        portrait = self.folder / f"{seed}.png"
        if not portrait.exists():
            clips.portrait(portrait, seed, CLIP_SIZE)
        return animate(self.model, portrait, motion, seed=0).frames


class RendererStudio:
    """With the renderer itself."""

    def film(self, seed: int, frames: int, emotion: str, intensity: int) -> Subject:
        motion = codes.drawn_motion(seed, frames, emotion, intensity)
        return Subject(seed, emotion, intensity, motion, _truth(seed, frames, emotion, intensity))

    def draw(self, seed: int, motion: Motion) -> np.ndarray:
        return codes.draw(seed, motion, DRAWN_SIZE)


def _truth(seed: int, frames: int, emotion: str, intensity: int) -> dict[str, np.ndarray]:
    motion, _ = sequence(seed, frames, emotion, intensity)
    return dict(zip(MOTION, motion.double().numpy().T, strict=True))
