"""Augmentation of the driving crop, so that the motion code carries no identity (paper section 3.3).

The paper names colour jitter, scaling within 30 %, piecewise affine warps and the face-centred crop; the other
ranges are ours. Geometry is one sampling of the frame (crop, anisotropy, shift and warp together). Colour runs in
torch rather than in an image library: then every number comes from the sample's own `Draw`, whatever the device
and the number of workers. There is no rotation: roll is motion.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

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
    degrade: float = 0.2  # probability of blur, noise or JPEG


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
    return _degrade(_colour(crops, draw, config), draw, config.degrade)


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


def _colour(images: Tensor, draw: Draw, config: AugmentConfig) -> Tensor:
    """Brightness, contrast, saturation, hue and grayscale of [B,3,H,W] in [-1,1]."""
    on = _coin(draw, "colour?", 0.8)
    brightness, contrast, saturation = (
        (1 + config.colour * _signed(draw, name) * on)[:, None, None, None]
        for name in ("brightness", "contrast", "saturation")
    )
    x = (images + 1) / 2 * brightness
    x = torch.lerp(_grey(x).mean(dim=(2, 3), keepdim=True).expand_as(x), x, contrast.expand_as(x))
    keep = saturation * (1 - _coin(draw, "grayscale", config.grayscale))[:, None, None, None]
    grey = _grey(x)
    x = grey + keep * _turn_hue(x - grey, config.hue * _signed(draw, "hue") * on)
    return x.clamp(0, 1) * 2 - 1


def _turn_hue(chroma: Tensor, turn: Tensor) -> Tensor:
    """Rotate colours [B,3,H,W] about the grey axis by `turn` [B] of a full circle (Rodrigues' formula)."""
    cos, sin = torch.cos(2 * math.pi * turn), torch.sin(2 * math.pi * turn)
    same, ring = (1 + 2 * cos) / 3, (1 - cos) / 3
    skew = sin / math.sqrt(3)
    row = torch.stack([same, ring - skew, ring + skew], dim=1)  # [B,3]; the matrix is circulant
    matrix = torch.stack([row, row.roll(1, 1), row.roll(2, 1)], dim=1)
    return torch.einsum("bij,bjhw->bihw", matrix, chroma)


def _degrade(images: Tensor, draw: Draw, probability: float) -> Tensor:
    """One of blur, noise and JPEG on a fraction of the images [B,3,H,W] in [-1,1]."""
    chosen = _coin(draw, "degrade?", probability).bool()
    if not chosen.any():
        return images
    kind = draw.integers("degrade", 0, 3)
    strength = draw.uniform("degrade.strength")
    noise = draw.normal("degrade.noise", *images.shape[1:])
    out = images.clone()
    for index in torch.nonzero(chosen).flatten().tolist():
        image, amount = images[index : index + 1], float(strength[index])
        if kind[index] == 0:
            out[index] = _blur(image, 0.2 + 0.8 * amount)[0]
        elif kind[index] == 1:
            out[index] = image[0] + 0.1 * amount * noise[index]  # 0.05 of the full range
        else:
            out[index] = _jpeg(image, 70 + 29 * amount)[0]
    return out.clamp(-1, 1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a 5-pixel kernel (σ <= 1)."""
    line = torch.exp(-0.5 * (torch.arange(-2, 3, device=images.device, dtype=images.dtype) / sigma) ** 2)
    kernel = (line[:, None] * line / line.sum() ** 2).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=images.shape[1])


def _jpeg(images: Tensor, quality: float) -> Tensor:
    """What JPEG of a quality in 50 to 100 does to [1,3,H,W] in [-1,1]: 8×8 cosine blocks, rounded.

    All channels use one smooth table (step 3 at the mean, 8 per unit of frequency, scaled as the standard does).
    """
    size = images.shape[-1]
    k = torch.arange(8, device=images.device, dtype=images.dtype)
    basis = torch.cos((k[None] + 0.5) * k[:, None] * math.pi / 8) / 2
    basis[0] /= math.sqrt(2)
    step = (3 + 8 * (k[:, None] + k[None])) * (200 - 2 * quality) / 100 / 127.5 + 1e-3
    padding = -size % 8
    padded = F.pad(images, (0, padding, 0, padding), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)  # [1,3,h,w,8,8]
    rounded = ((basis @ blocks @ basis.T) / step).round() * step
    whole = (basis.T @ rounded @ basis).permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return whole[..., :size, :size]


def _grey(images: Tensor) -> Tensor:
    """Luma [B,1,H,W] of RGB."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _signed(draw: Draw, name: str, *shape: int) -> Tensor:
    """Uniform in [-1,1): [B,*shape]."""
    return draw.uniform(f"augment.{name}", *shape) * 2 - 1


def _coin(draw: Draw, name: str, probability: float) -> Tensor:
    """1 with the given probability, else 0: [B]."""
    return (draw.uniform(f"augment.{name}") < probability).float()
