"""Draw talking heads: identity, motion and placement to pictures, any size, analytically anti-aliased.

Every edge is a signed distance turned into coverage, so nothing is supersampled. Work is done in blocks small enough
for the cache, and what belongs to the head is computed only in a window around it.
"""

import torch
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.synthetic import scene
from xnemo.synthetic.geometry import Pose, face_boxes, pose
from xnemo.synthetic.head import head
from xnemo.synthetic.identity import Traits, traits
from xnemo.synthetic.paint import Canvas

__all__ = ["face_boxes", "render"]

BLOCK = 1 << 16  # pixels drawn at once: planes of 256 KiB stay in a core's cache
REACH = (0.70, 0.86)  # half-sides of the window that holds the head with hair and glasses, in head units


@torch.no_grad()
def render(identity: Tensor, motion: Tensor, placement: Tensor, size: int) -> Tensor:
    """Pictures, uint8 [N, 3, size, size] RGB, on the device of `motion`.

    identity [N, I] (or [1, I] for one person throughout) in [-1, 1]; motion [N, 13] as geometry.MOTION; placement
    [N, 3] as geometry.PLACEMENT. Raises XNeMoError for wrong shapes.
    """
    if size < 8:
        raise XNeMoError(f"size is {size}: a face needs at least 8 pixels a side")
    frames = len(motion)
    who, how = traits(identity.expand(frames, -1).to(motion.device)), pose(motion, placement)
    pictures = torch.empty(frames, 3, size, size, dtype=torch.uint8, device=motion.device)
    rows = min(size, max(1, BLOCK // size))
    count = max(1, BLOCK // (size * size))
    if motion.device.type != "cpu":
        rows, count = size, max(1, (1 << 24) // (size * size))
    for first in range(0, frames, count):
        block = slice(first, first + count)
        for top in range(0, size, rows):
            pictures[block, :, top : top + rows] = _draw(who.part(block), how.part(block), size, top, rows)
    return pictures


def _draw(who: Traits, how: Pose, size: int, top: int, rows: int) -> Tensor:
    """Rows [top, top + rows) of some pictures, uint8 [n, 3, rows, size]."""
    count, rows = len(who.width), min(rows, size - top)
    pixel = 2.0 / size
    axis = (torch.arange(size, device=who.width.device) + 0.5) * pixel - 1
    rgb = torch.empty(count, 3, rows, size, device=who.width.device)
    canvas = Canvas(rgb, axis.view(1, 1, -1), axis[top : top + rows].view(1, -1, 1), pixel)
    scene.background(canvas, who)
    scene.long_hair(canvas, who, how)
    scene.body(canvas, who, how)
    scene.neck(canvas, who, how)
    _in_window(canvas, who, how)
    return rgb.clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8)


def _in_window(canvas: Canvas, who: Traits, how: Pose) -> None:
    """Draw the heads on cut-outs of the canvas, all of one size and each around its head, and paste them back."""
    lefts, width = _span(canvas.x.flatten(), how.x, how.scale * REACH[0], canvas.pixel)
    tops, height = _span(canvas.y.flatten(), how.y, how.scale * REACH[1], canvas.pixel)
    if width <= 0 or height <= 0:
        return
    corners = enumerate(zip(tops, lefts, strict=True))
    cuts = [(n, slice(None), slice(top, top + height), slice(left, left + width)) for n, (top, left) in corners]
    x = torch.stack([canvas.x[0, :, cut[3]] for cut in cuts])
    y = torch.stack([canvas.y[0, cut[2]] for cut in cuts])
    window = Canvas(torch.stack([canvas.rgb[cut] for cut in cuts]), x, y, canvas.pixel)
    head(window, who, how)
    for n, cut in enumerate(cuts):
        canvas.rgb[cut] = window.rgb[n]


def _span(axis: Tensor, middle: Tensor, half: Tensor, pixel: float) -> tuple[list[int], int]:
    """For each sample the first index of its window along an axis of pixel centres, and the size of all windows."""
    low = (((middle - half).flatten() - axis[0]) / pixel).floor().clamp(0, len(axis)).long()
    high = (((middle + half).flatten() - axis[0]) / pixel).ceil().clamp(-1, len(axis) - 1).long() + 1
    size = int((high - low).max())
    return low.clamp(max=len(axis) - max(size, 0)).tolist(), size
