"""Self-reenactment: how far a redrawn frame is from the true one (paper section 4.2, Table 1 left).

Frames are brought to 256 x 256 first (`frames.SIZE`). Figures are means over a video's frames, then over videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.errors import XNeMoError
from xnemo.metrics import weights

Backbone = Literal["alexnet", "vgg16"]
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11  # the window of Wang et al. 2004


def l1(result: Tensor, truth: Tensor) -> Tensor:
    """Mean |difference| of pictures [N, C, H, W] in [0, 1], per picture [N]: 0 is perfect, 1 the worst."""
    _same(result, truth)
    return (result - truth).abs().flatten(1).mean(1)


def psnr(result: Tensor, truth: Tensor) -> Tensor:
    """10 log10(1 / mean squared difference) in dB of pictures [N, C, H, W] in [0, 1], per picture [N]; inf if equal."""
    _same(result, truth)
    return -10 * (result - truth).square().flatten(1).mean(1).log10()


def ssim(result: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of pictures [N, C, H, W] in [0, 1], per picture [N]: 1 is perfect.

    11 x 11 Gaussian window (σ 1.5), population covariance, K1 .01, K2 .03, data range 1, channels averaged, and only
    windows that lie wholly inside: scikit-image's `gaussian_weights=True, use_sample_covariance=False`.
    """
    _same(result, truth)
    if min(result.shape[-2:]) < SSIM_WINDOW:
        raise XNeMoError(f"SSIM needs pictures of at least {SSIM_WINDOW} pixels a side, not {list(result.shape)}")
    x, y = result.float() - 0.5, truth.float() - 0.5  # about the middle, single precision is enough for the variances
    places = torch.arange(SSIM_WINDOW, dtype=torch.float32, device=x.device) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (places / SSIM_SIGMA) ** 2)
    window /= window.sum()
    maps = torch.cat([x, y, x * x, y * y, x * y], 1)
    row = window.view(1, 1, 1, -1).expand(maps.shape[1], 1, 1, -1)
    maps = F.conv2d(F.conv2d(maps, row, groups=len(row)), row.transpose(2, 3), groups=len(row))
    mean_x, mean_y, xx, yy, xy = maps.chunk(5, 1)
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return likeness.flatten(1).mean(1)


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, version 0.1): 0 for equal pictures, larger is farther.

    Published layouts: torchvision's `features.N.weight|bias` of AlexNet or VGG-16, and `linK.model.1.weight` [1,C,1,1].
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone = "alexnet") -> None:
        super().__init__()
        self.features, self.taps = _alexnet() if backbone == "alexnet" else _vgg16()
        widths = [_width(self.features, tap) for tap in self.taps]
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def forward(self, result: Tensor, truth: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in [0, 1] -> distance [N]."""
        _same(result, truth)
        x = (torch.cat([result, truth]) * 2 - 1 - self.shift) / self.scale
        total = x.new_zeros(len(result))
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                a, b = unit.chunk(2)
                total = total + self.heads[self.taps.index(index)]((a - b) ** 2).flatten(1).mean(1)
            if index == self.taps[-1]:
                break
        return total


def load_lpips(given: Mapping[str, str] | None = None, backbone: Backbone = "alexnet") -> Lpips:
    """The network with published weights. Raises `weights.NotComputed` where a file is absent."""
    names = (backbone, f"lpips_{backbone}")
    for name in names:
        weights.find(name, given)  # an absent file is told before any is opened
    trunk, heads = (weights.checked(name, given) for name in names)
    return fill_lpips(Lpips(backbone), weights.tensors(trunk), weights.tensors(heads), str(trunk))


def fill_lpips(network: Lpips, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor], source: str) -> Lpips:
    """The two files' tensors into the network."""
    kept = {name: t for name, t in trunk.items() if name.startswith("features.")}
    kept |= {
        f"heads.{k}.weight": heads[f"lin{k}.model.1.weight"] for k in range(5) if f"lin{k}.model.1.weight" in heads
    }
    weights.fill(network, kept, source)
    return network


def _alexnet() -> tuple[nn.Sequential, list[int]]:
    conv, relu, pool = nn.Conv2d, nn.ReLU, nn.MaxPool2d
    return nn.Sequential(
        conv(3, 64, 11, 4, 2), relu(), pool(3, 2), conv(64, 192, 5, padding=2), relu(), pool(3, 2),
        conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu(),
        conv(256, 256, 3, padding=1), relu(),
    ), [1, 4, 7, 9, 11]  # fmt: skip


def _vgg16() -> tuple[nn.Sequential, list[int]]:
    layers: list[nn.Module] = []
    taps, before = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        taps.append(len(layers) - 1)
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1]), taps


def _width(features: nn.Sequential, tap: int) -> int:
    convolution = features[tap - 1]
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels


def _same(result: Tensor, truth: Tensor) -> None:
    if result.shape != truth.shape or result.ndim != 4:
        raise XNeMoError(f"pictures {list(result.shape)} and {list(truth.shape)} cannot be compared: give [N,C,H,W]")
