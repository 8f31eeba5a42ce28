"""What a training step is given: image pairs (stages 1 and 2) or clips (stage 3), as stored: uint8 and pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.crops import f_rts


class _Movable:
    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return self._each(lambda value: value.to(device))

    def first(self, count: int) -> Self:
        """Its first `count` samples."""
        return self._each(lambda value: value[:count] if isinstance(value, Tensor) else value.first(count))

    def _each(self, change: Callable[[Any], Any]) -> Self:
        parts = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {part.name: getattr(self, part.name) for part in parts}
        return type(self)(**{name: None if value is None else change(value) for name, value in values.items()})


@dataclass(frozen=True)
class Encoded(_Movable):
    """What frozen networks made of a sample's whole frames, computed beforehand. The batch's pictures are then faces
    cut out of the frames, with boxes in their pixels; the places are those boxes in pixels of the frames."""

    reference: Tensor  # latents [B,C,h,w]
    targets: Tensor  # latents [B,F,C,h,w]; a pair has F = 1
    context: Tensor  # [B,1,d] of the reference
    reference_place: Tensor  # [B,4]
    places: Tensor  # [B,4] of a pair, [B,F,4] of a clip


@dataclass(frozen=True)
class PairBatch(_Movable):
    """Two frames of one clip per sample: uint8 RGB images [B,3,S,S], boxes [B,4] in pixels of S, ids [B]."""

    reference: Tensor
    target: Tensor  # the driving frame, un-augmented
    reference_box: Tensor
    target_box: Tensor
    ids: Tensor  # long: global sample index, the address of this sample's randomness
    known: Encoded | None = None

    @property
    def placement(self) -> Tensor:
        """f_rts [B,3] of the target against the reference."""
        if self.known is not None:
            return f_rts(self.known.places, self.known.reference_place)
        return f_rts(self.target_box, self.reference_box)


@dataclass(frozen=True)
class ClipBatch(_Movable):
    """A reference frame [B,3,S,S] and consecutive frames [B,F,3,S,S] of its clip; boxes [B,4] and [B,F,4]."""

    reference: Tensor
    frames: Tensor
    reference_box: Tensor
    boxes: Tensor  # smoothed over time
    ids: Tensor
    known: Encoded | None = None

    @property
    def placement(self) -> Tensor:
        """f_rts [B,F,3] of the frames against the reference."""
        boxes, reference = self.boxes, self.reference_box
        if self.known is not None:
            boxes, reference = self.known.places, self.known.reference_place
        return f_rts(boxes, reference[:, None].expand_as(boxes))


def to_pixels(images: Tensor) -> Tensor:
    """Images of any shape in [-1,1] to uint8, on their device; what lies outside is cut off."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()


def to_unit(images: Tensor, size: int | None = None) -> Tensor:
    """uint8 [B,3,S,S] to fp32 in [-1,1], shrunk (anti-aliased) to [B,3,size,size]."""
    unit = images.float().div_(127.5).sub_(1.0)
    if size is None or size == unit.shape[-1]:
        return unit
    return F.interpolate(unit, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
