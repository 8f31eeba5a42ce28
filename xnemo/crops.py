"""Face boxes: squares around them, their smoothing, f_rts, and the crop itself (paper section 3.3).

A box is (left, top, right, bottom) in float pixels, a square is such a box with equal sides. Functions
on boxes take numpy arrays or torch tensors [..., 4] and answer in kind. Squares may leave the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.errors import XNeMoError

Boxes = TypeVar("Boxes", np.ndarray, Tensor)

MOTION_SCALE = 1.1  # the motion encoder's crop: this times the longer side of the box (released code)
REFERENCE_SCALE = 2.0  # the reference image's crop (released code)
MAX_SHIFT, SCALE_RANGE = 0.5, (0.7, 1.4)  # what relative head motion is clamped to: beyond it the head leaves


def centre_side(boxes: Boxes) -> tuple[Boxes, Boxes, Boxes]:
    """Centre x, centre y and longer side of boxes [..., 4], each [...]."""
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    width, height = right - left, bottom - top
    longer: Any = torch.maximum(width, height) if isinstance(width, Tensor) else np.maximum(width, height)
    return (left + right) / 2, (top + bottom) / 2, longer


def f_rts(driving: Boxes, reference: Boxes) -> Boxes:
    """Relative head placement (Δy, Δx, s) [..., 3] of driving boxes against reference boxes [..., 4].

    Δ is in units of the reference side, s is the ratio of the sides. Both boxes must be of one clip:
    against another video's portrait the numbers mean nothing. The paper writes (Δx, Δy, s); the released
    weights expect this order.
    """
    driving_x, driving_y, driving_side = centre_side(driving)
    x, y, side = centre_side(reference)
    return _stack([(driving_y - y) / side, (driving_x - x) / side, driving_side / side])


def clamp_f_rts(relative: Boxes) -> Boxes:
    """Limit (Δy, Δx, s) [..., 3] to |Δ| <= 0.5 and s in [0.7, 1.4], the range the crops leave room for."""
    y, x, s = (relative[..., i] for i in range(3))
    return _stack([y.clip(-MAX_SHIFT, MAX_SHIFT), x.clip(-MAX_SHIFT, MAX_SHIFT), s.clip(*SCALE_RANGE)])


def square(boxes: Boxes, scale: float = MOTION_SCALE) -> Boxes:
    """Squares [..., 4] of `scale` times the longer side, on the centre of each box."""
    x, y, side = centre_side(boxes)
    half = side * (scale / 2)
    return _stack([x - half, y - half, x + half, y + half])


def clip_square(boxes: np.ndarray, scale: float = REFERENCE_SCALE) -> np.ndarray:
    """One fixed square [4] for a whole clip's boxes [n, 4], so that head translation stays visible.

    Side: `scale` × the median box side, or 1.1 × the box around all boxes where that is longer; centred on the
    median centre. It may leave the frame: pad with black there.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[0] == 0 or boxes.shape[1] != 4:
        raise XNeMoError(f"boxes have shape {boxes.shape}: give at least one (left, top, right, bottom)")
    x, y, side = centre_side(boxes)
    union = max(boxes[:, 2].max() - boxes[:, 0].min(), boxes[:, 3].max() - boxes[:, 1].min())
    half = max(scale * float(np.median(side)), MOTION_SCALE * float(union)) / 2
    cx, cy = float(np.median(x)), float(np.median(y))
    return np.array([cx - half, cy - half, cx + half, cy + half])


def smooth_boxes(boxes: np.ndarray, sigma: float = 5.0) -> np.ndarray:
    """Boxes [n, 4] over time with centre, log width and log height smoothed by a Gaussian of σ frames.

    The ends are reflected, so a still face keeps its box. Detector jitter would otherwise shake the f_rts.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    if not (size > 0).all():
        raise XNeMoError("a box has no area: drop frames without a face before smoothing")
    signal = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, np.log(size)], axis=1)
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    padded = np.pad(signal, ((radius, radius), (0, 0)), mode="symmetric")
    kernel /= kernel.sum()
    smooth = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    centre, half = smooth[:, :2], np.exp(smooth[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def face_crop(
    images: Tensor,
    squares: Tensor,
    size: int,
    *,
    warp: Tensor | None = None,
    padding: str = "zeros",
    supersample: int = 1,
) -> Tensor:
    """Cut and resize squares [B,4] (pixels) out of images [B,C,H,W] by one sampling: [B,C,size,size].

    `warp` [B,size·k,size·k,2] is added to the sampling positions, in units of the square (-1 to 1 across
    it), with k = `supersample`. Set k to the shrink factor, rounded, where a crop shrinks by 1.5 or more:
    bilinear sampling alone would alias. Outside the image: "zeros" (black for images in [0,1], grey in
    [-1,1]), "border" or "reflection".
    """
    batch, _, height, width = images.shape
    x, y, side = centre_side(squares.to(images))
    grid = square_grid(size * supersample, images).expand(batch, -1, -1, -1)
    if warp is not None:
        grid = grid + warp
    middle = torch.stack([x * 2 / width - 1, y * 2 / height - 1], dim=-1)
    extent = torch.stack([side / width, side / height], dim=-1)
    grid = middle[:, None, None] + grid * extent[:, None, None]
    crops = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return F.avg_pool2d(crops, supersample) if supersample > 1 else crops


def faces(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What networks see of the faces in boxes [B,4] (pixels) of images [B,C,H,W], unchanged: [B,C,size,size]."""
    return face_crop(images, square(boxes), size, padding="border")


def square_grid(size: int, like: Tensor) -> Tensor:
    """Pixel centres [1,size,size,2] as (x, y) in (-1, 1), in the dtype and on the device of `like`."""
    line = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)[None]


def released_motion_square(box: Sequence[float], height: int, width: int) -> list[float]:
    """The released 1.1 × square of one box, or the box itself where the square would leave the frame."""
    grown = [float(v) for v in square(np.asarray(box, dtype=np.float64))]
    inside = grown[0] >= 0 and grown[1] >= 0 and grown[2] <= width - 1 and grown[3] <= height - 1
    return grown if inside else [float(v) for v in box]


def released_reference_square(box: Sequence[int], height: int, width: int) -> tuple[bool, list[int]]:
    """The released 2.0 × square in whole pixels: (needs padding, square).

    A square that leaves the frame on one side only, and fits when shifted, is shifted inside. Every edge is
    truncated towards zero on its own, so a side may be one pixel off.
    """
    left, top, right, bottom = box
    w, h = right - left, bottom - top
    grow_x = max(0.5, (2 * h - w) / (2 * w)) * w
    grow_y = max(0.5, (2 * w - h) / (2 * h)) * h
    grown = [int(left - grow_x), int(top - grow_y), int(right + grow_x), int(bottom + grow_y)]
    over = [max(0, -grown[0]), max(0, -grown[1]), max(0, grown[2] - width), max(0, grown[3] - height)]
    dx, dy = over[0] - over[2], over[1] - over[3]
    shifted = [grown[0] + dx, grown[1] + dy, grown[2] + dx, grown[3] + dy]
    fits = shifted[0] >= 0 and shifted[1] >= 0 and shifted[2] <= width and shifted[3] <= height
    if sum(v > 0 for v in over) > 1 or not fits:
        return True, grown
    return False, shifted


def _stack(parts: Sequence[Boxes]) -> Boxes:
    first = parts[0]
    return torch.stack(list(parts), dim=-1) if isinstance(first, Tensor) else np.stack(parts, axis=-1)
