"""What a training step is given: image pairs (stages 1 and 2) or clips (stage 3), as stored: uint8 and pixels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


class _Movable:
    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        parts = dataclasses.fields(self)  # type: ignore[arg-type]
        moved = {part.name: getattr(self, part.name).to(device, non_blocking=True) for part in parts}
        return type(self)(**moved)


@dataclass(frozen=True)
class PairBatch(_Movable):
    """Two frames of one clip per sample: uint8 RGB images [B,3,S,S], boxes [B,4] in pixels of S, ids [B]."""

    reference: Tensor
    target: Tensor  # the driving frame, un-augmented
    reference_box: Tensor
    target_box: Tensor
    ids: Tensor  # long: global sample index, the address of this sample's randomness


@dataclass(frozen=True)
class ClipBatch(_Movable):
    """A reference frame [B,3,S,S] and consecutive frames [B,F,3,S,S] of its clip; boxes [B,4] and [B,F,4]."""

    reference: Tensor
    frames: Tensor
    reference_box: Tensor
    boxes: Tensor  # smoothed over time
    ids: Tensor


def to_unit(images: Tensor, size: int | None = None) -> Tensor:
    """uint8 [B,3,S,S] to fp32 in [-1,1], shrunk (anti-aliased) to [B,3,size,size]."""
    unit = images.float().div_(127.5).sub_(1.0)
    if size is None or size == unit.shape[-1]:
        return unit
    return F.interpolate(unit, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
