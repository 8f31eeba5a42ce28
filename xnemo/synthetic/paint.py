"""The brushes: a canvas, anti-aliased coverage of signed distances, soft spots, and compositing."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """Pixels [N, 3, H, W] in 0..1 with the frame coordinates of their centres, x [N|1, 1, W] and y [N|1, H, 1]."""

    rgb: Tensor
    x: Tensor
    y: Tensor
    pixel: float  # width of a pixel in frame coordinates

    def over(self, colour: Tensor, cover: Tensor) -> None:
        """Lay a colour [N, 3, H|1, W|1] over the canvas with coverage [N, H, W]."""
        self.rgb.lerp_(colour.expand_as(self.rgb), cover[:, None])


def cover(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """Share of a pixel inside a shape whose signed distance (negative inside) is `distance`; writes over it."""
    return distance.div_(pixel).neg_().add_(0.5).clamp_(0, 1)


def cover_steep(height: Tensor) -> Tensor:
    """Coverage of `height` < 0 where its slope varies: the distance is taken from neighbouring pixels."""
    dx, dy = torch.gradient(height, dim=(-1, -2)) if min(height.shape[-2:]) > 1 else (height * 0, height * 0)
    return cover(height / (dx.square() + dy.square()).sqrt_().clamp_min_(1e-4), 1.0)


def band(y: Tensor, top: Tensor, bottom: Tensor, pixel: Tensor | float) -> Tensor:
    """Share of a pixel between two heights, nothing where they have crossed."""
    return cover(top - y, pixel).add_(cover(y - bottom, pixel)).sub_(1).clamp_(min=0)


def step(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = ((value - low) / (high - low)).clamp_(0, 1)
    return t * t * (3 - 2 * t)


def spot(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """A soft spot: 1 in the middle, a bell with these half-axes."""
    return ((x / width).square_() + (y / height).square_()).neg_().exp_()


def rgb(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    """A constant colour [1, 3, 1, 1] beside a tensor."""
    return torch.tensor(colour, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def lit(albedo: Tensor, light: Tensor, shadow: Tensor, bright: Tensor) -> Tensor:
    """Albedo [N, 3, H|1, W|1] under a light map [N, H, W] in 0..1, tinted from shadow to bright [1, 3, 1, 1]."""
    return albedo * torch.lerp(shadow, bright, light[:, None])
