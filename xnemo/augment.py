"""Augmentation of the driving crop, so that the motion code carries no identity (paper section 3.3).

The paper names colour jitter, scaling within 30 %, piecewise affine warps and the face-centred crop; the other
ranges are ours. Geometry is one sampling of the frame (crop, anisotropy, shift and warp together), on its device; what
changes colours and quality is albumentations', seeded by each sample's own `Draw`, so that a sample is the same
whatever the device and the number of workers. There is no rotation: roll is motion.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.batch import to_pixels, to_unit
from xnemo.config import Strict
from xnemo.crops import MOTION_SCALE, centre_side, face_crop, square_grid
from xnemo.draw import Draw


class AugmentConfig(Strict):
    """Ranges and probabilities. `enabled=False` keeps the plain 1.1 × crop (ablation "w/o augmentation")."""

    enabled: bool = True
    scale: float = 0.3  # the crop is divided by U(1 - scale, 1 + scale)
    anisotropy: float = 0.1
    shift: float = 0.05  # of the crop's side
    warp: float = 0.03  # largest σ of the control points, as a fraction of the side
    colour: float = 0.4  # brightness, contrast and saturation factors U(1 - colour, 1 + colour)
    hue: float = 0.1  # of a full turn
    grayscale: float = 0.1  # probability
    degrade: float = 0.2  # probability of two of: blur, noise, JPEG


def driving_crop(images: Tensor, boxes: Tensor, size: int, draw: Draw, config: AugmentConfig) -> Tensor:
    """Augmented face crops [B,3,size,size] in [-1,1] of images [B,3,S,S] in [-1,1] around boxes [B,4] (pixels)."""
    x, y, side = centre_side(boxes)
    side = side * MOTION_SCALE
    if not config.enabled:
        return face_crop(images, _squares(x, y, side), size, padding="border")
    scale = 1 + config.scale * _signed(draw, "scale")
    side = side / scale
    shift = config.shift * _signed(draw, "shift", 2) * _coin(draw, "shift?", 0.5)[:, None]
    squares = _squares(x + shift[:, 0] * side, y + shift[:, 1] * side, side)
    crops = face_crop(images, squares, size, warp=_warp(images, size, draw, config), padding="reflection")
    return _photometric(crops, draw, config)


def _squares(x: Tensor, y: Tensor, side: Tensor) -> Tensor:
    return torch.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], dim=-1)


def _warp(like: Tensor, size: int, draw: Draw, config: AugmentConfig) -> Tensor:
    """Anisotropy and piecewise affine displacement [B,size,size,2], in units of the square (-1 to 1)."""
    batch = like.shape[0]
    stretch = config.anisotropy * _signed(draw, "stretch", 2) * _coin(draw, "stretch?", 0.5)[:, None]
    sigma = 2 * config.warp * draw.uniform("warp.sigma") * _coin(draw, "warp?", 0.8)  # the square spans 2
    nodes = draw.normal("warp", 2, 4, 4).clamp(-3, 3) * sigma[:, None, None, None]
    nodes = nodes.clamp(-4 * config.warp, 4 * config.warp)
    smooth = F.interpolate(nodes, size=(size, size), mode="bilinear", align_corners=True)
    return square_grid(size, like).expand(batch, -1, -1, -1) * stretch[:, None, None] + smooth.permute(0, 2, 3, 1)


def _photometric(images: Tensor, draw: Draw, config: AugmentConfig) -> Tensor:
    """Colour and quality of [B,3,H,W] in [-1,1], on the CPU in 8 bits (frames come out of JPEG files)."""
    if not any((config.colour, config.hue, config.grayscale, config.degrade)):
        return images
    change = _photometric_chain(config)
    pictures = to_pixels(images).permute(0, 2, 3, 1).cpu().numpy()
    seeds = draw.integers("augment.photometric", 0, 2**24).tolist()
    out = np.empty_like(pictures)
    for index, (picture, seed) in enumerate(zip(pictures, seeds, strict=True)):
        change.set_random_seed(seed)
        out[index] = change(image=picture)["image"]
    return to_unit(torch.from_numpy(out).to(images.device).permute(0, 3, 1, 2)).to(images.dtype)


@cache
def _photometric_chain(config: AugmentConfig) -> Any:
    """The transforms of one picture (uint8 [H,W,3])."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
    import albumentations as A

    around = (1 - config.colour, 1 + config.colour)
    return A.Compose(
        [
            A.ColorJitter(around, around, around, (-config.hue, config.hue), p=0.8),
            A.ToGray(p=config.grayscale),
            A.SomeOf(
                [
                    A.GaussianBlur(blur_limit=(3, 5), sigma_limit=(0.2, 1.0), p=1),
                    A.GaussNoise(std_range=(0, 0.05), p=1),
                    A.ImageCompression(quality_range=(70, 99), p=1),
                ],
                n=2,
                p=config.degrade,
            ),
        ]
    )


def _signed(draw: Draw, name: str, *shape: int) -> Tensor:
    """Uniform in [-1,1): [B,*shape]."""
    return draw.uniform(f"augment.{name}", *shape) * 2 - 1


def _coin(draw: Draw, name: str, probability: float) -> Tensor:
    """1 with the given probability, else 0: [B]."""
    return (draw.uniform(f"augment.{name}") < probability).float()
