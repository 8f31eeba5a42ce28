"""Videos of a drawn head for tests of the pipelines: one picture, moved about, so that they cost nothing."""

import functools
from pathlib import Path

import numpy as np
import torch

from xnemo.media.video import write_video
from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.render import face_boxes, render

SIZE = 192


@functools.cache
def head(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 RGB [192, 192, 3], true box [4]) of the person `seed`."""
    who, how, where = random_identity(seed)[None], torch.zeros(1, len(MOTION)), torch.zeros(1, 3)
    return (render(who, how, where, SIZE)[0].permute(1, 2, 0).numpy(), face_boxes(who, how, where, SIZE)[0].numpy())


def moving(seed: int, frames: int, step: float = 0.5) -> list[np.ndarray]:
    """A head that drifts to the right by `step` pixels a frame, the border repeated."""
    image = head(seed)[0]
    padded = np.pad(image, ((0, 0), (SIZE, 0), (0, 0)), "edge")
    return [padded[:, SIZE - round(k * step) : 2 * SIZE - round(k * step)] for k in range(frames)]


def head_video(path: Path, seed: int, frames: int = 40, fps: float = 25) -> Path:
    """Write the moving head `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, moving(seed, frames), fps)
