"""How a clip longer than the temporal layers reach is cut into overlapping windows of frames.

Released code ("prompt travelling"): a closed loop of equally weighted windows, so the clip's last frames attend to its
first ones. Ours is open: no window wraps around, the last one is aligned to the end, and weights fall towards a
window's ends so that no seam shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xnemo.errors import XNeMoError

SIZE = 24  # frames the temporal layers were trained on
OVERLAP = 4


@dataclass(frozen=True)
class Window:
    """Frame ids [f] in temporal order and the weights [f] of their predictions in the average over windows."""

    frames: Tensor
    weights: Tensor


def open_windows(frames: int, offset: int = 0, size: int = SIZE, overlap: int = OVERLAP) -> list[Window]:
    """Windows from the first frame to the last; `offset` (any integer) moves the inner ones.

    Each window has `size` frames, or all frames where the clip is shorter.
    """
    stride = _stride(size, overlap)
    if frames <= size:
        return [Window(torch.arange(frames), torch.ones(frames))]
    last = frames - size
    starts = sorted({0, last, *range(offset % stride, last, stride)})
    ramp = torch.arange(1, size + 1)
    weights = torch.minimum(ramp, ramp.flip(0)).clamp(max=overlap + 1).float()
    return [Window(torch.arange(start, start + size), weights) for start in starts]


def released_windows(frames: int, offset: int = 0, size: int = SIZE, overlap: int = OVERLAP) -> list[Window]:
    """The released closed loop: a window every `size - overlap` frames, ids modulo the clip's length."""
    stride = _stride(size, overlap)
    if frames <= size:
        return [Window(torch.arange(frames), torch.ones(frames))]
    starts = range(offset, offset + frames, stride)
    return [Window(torch.arange(start, start + size) % frames, torch.ones(size)) for start in starts]


def _stride(size: int, overlap: int) -> int:
    if not 0 <= overlap < size:
        raise XNeMoError(f"windows of {size} frames cannot overlap by {overlap}: give 0 to {size - 1}")
    return size - overlap
