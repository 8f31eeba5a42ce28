"""How a clip longer than the temporal layers reach is cut into overlapping windows of frames.

Released code ("prompt travelling"): a closed loop of equally weighted windows, so the clip's last frames attend to its
first ones. Ours is open: no window wraps around, the last one is aligned to the end, and weights fall towards a
window's ends so that no seam shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def order(
    windows: Sequence[Window], steps: int, done: Sequence[int] | None = None, first: int = 0
) -> Iterator[tuple[int, int]]:
    """(window, step) in an order that finishes the clip from its beginning: always the earliest window that may go on.

    Step i of a window needs step i-1 of every window it shares frames with, and step i of the earlier ones among them
    before it, so predictions add up as if all windows took each step together. At most about `steps` windows are
    under way at any time, however long the clip. done: the steps each window has behind it; first: the earliest
    unfinished window (both to go on in the middle).
    """
    begins = [int(window.frames[0]) for window in windows]
    ends = [int(window.frames[-1]) + 1 for window in windows]
    count, progress = len(windows), list(done) if done else [0] * len(windows)

    def ready(k: int) -> bool:
        earlier, later = k - 1, k + 1
        while earlier >= first and ends[earlier] > begins[k]:
            if progress[earlier] <= progress[k]:
                return False
            earlier -= 1
        while later < count and begins[later] < ends[k]:
            if progress[later] < progress[k]:
                return False
            later += 1
        return progress[k] < steps

    k = first
    while first < count:
        while not ready(k):
            k += 1
        yield k, progress[k]
        progress[k] += 1
        while first < count and progress[first] == steps:
            first += 1
        ran = k
        while k > first and ends[k - 1] > begins[ran]:  # earlier ones that share frames with it may be ready now
            k -= 1
