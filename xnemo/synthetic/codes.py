"""The renderer as a perfect motion encoder and decoder: its own parameters are the code.

A code that holds everything a head does, and nothing of who it is, shows what a tokenizer and a generator can do
without the losses of a trained encoder and denoiser. A motion with such codes names MODEL in place of a digest.
"""

import numpy as np
import torch

from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.measure import from_unit, to_unit
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render
from xnemo.tokens.motion_file import Motion, still_rts

MODEL = "renderer"
BATCH = 32  # frames drawn at a time
FPS = 25.0


def drawn_motion(seed: int, frames: int, emotion: str | None = None, intensity: int | None = None) -> Motion:
    """The motion of `sequence`, each parameter scaled from its range to [-1, 1]; the head stays in its place."""
    parameters, _ = sequence(seed, frames, emotion, intensity)
    return Motion(to_unit(parameters, MOTION).numpy(), still_rts(frames), FPS, MODEL)


def draw(identity_seed: int, motion: Motion, size: int) -> np.ndarray:
    """uint8 RGB [T,size,size,3] of that head doing the motion; codes beyond their range are cut off there."""
    identity = random_identity(identity_seed)[None]
    parameters = from_unit(torch.from_numpy(motion.f_mot).clamp(-1, 1), MOTION)
    parts = [render(identity, part, torch.zeros(len(part), 3), size) for part in parameters.split(BATCH)]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()
