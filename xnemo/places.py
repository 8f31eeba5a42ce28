"""Tokens that know where in the picture, and on the face, they are: an option for shapes trained from nothing
(`xnemo/fresh.py`)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from xnemo.crops import REFERENCE_SCALE

HEAD = 2 / REFERENCE_SCALE  # one side of the face's box, in a picture that spans 2
REACH = 0.5  # sides of the face's box, squared: shoulders and background do not turn with it


def _line(cells: int) -> Tensor:
    """The cells' middles in [-1, 1]."""
    return (torch.arange(cells) + 0.5) / cells * 2 - 1


def _bands(cells: int, count: int) -> Tensor:
    return torch.exp(torch.linspace(math.log(math.pi / 4), math.log(math.pi * cells / 3), count))


def _waves(x: Tensor, y: Tensor) -> Tensor:
    """Phases [..., bands] along x and y -> [..., 4 bands]."""
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=-1)


@lru_cache(maxsize=64)
def place_table(height: int, width: int, channels: int) -> Tensor:
    """[H W, C]: waves along x and y, from a quarter period over the picture to a third of a period per cell."""
    omega = _bands(height, channels // 4)
    y, x = torch.meshgrid(_line(height), _line(width), indexing="ij")
    y, x = y.flatten()[:, None] * omega, x.flatten()[:, None] * omega
    return _waves(x, y)


def head_places(place: Tensor | None, height: int, width: int, channels: int) -> Tensor:
    """[1 or N, H W, C]: half of the channels is left to the content, a quarter tells where a token lies in the picture,
    the last one where it lies on the face, told as the place where a face at rest in the middle has the same feature.

    place [N, 9]: f_rts, and how far the map from the face's box to the face at rest is from the identity, [3, 2] row by
    row: what x, y (in sides of the box) and 1 add to (x, y). None is a face at rest.
    """
    own = place_table(height, width, channels // 4)
    free = own.new_zeros(len(own), channels // 2)
    if place is None:
        return torch.cat([free, own, own], dim=1)[None]
    omega = _bands(height, channels // 16).to(place)
    shift, scale = place[:, :2, None] * HEAD, place[:, 2:3].clamp(min=0.1)
    down, across = (_line(n).to(place) for n in (height, width))
    y, x = ((down - shift[:, 0]) / scale)[:, :, None], ((across - shift[:, 1]) / scale)[:, None]
    y, x = y.expand(-1, -1, width).flatten(1), x.expand(-1, height, -1).flatten(1)  # [N, H W]
    at = torch.stack([x, y, torch.full_like(x, HEAD)], dim=2)
    near = torch.exp(-(at[..., :2] / HEAD).square().sum(dim=2, keepdim=True) / REACH)
    turned = at[..., :2] + near * (at @ place[:, 3:].unflatten(1, (3, 2)))
    face = _waves(*(turned[..., i, None] * omega for i in range(2)))
    return torch.cat([torch.cat([free, own], dim=1).to(place).expand(len(face), -1, -1), face], dim=2)
