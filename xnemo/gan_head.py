"""The second head of the dual-head training: a GAN that redraws the driving face from [f_app, f_mot].

Paper section 3.3 and appendix A. Its reconstruction is easy to learn and pulls expression into f_mot long before
the diffusion head would; nothing of it is used at inference. The style [f_app, f_mot] modulates every layer of a
StyleGAN2-like generator directly, without a mapping network and without noise inputs: all motion must come from f_mot.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError


class GanHead(nn.Module):
    """Appearance trunk f_app and generator: a_R [B,3,S,S], f_mot [B,D] -> faces [B,3,S,S], all RGB in [-1,1].

    a_R is the clean, face-centred crop of the reference; the faces are to match the driving frame's own crop.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gan = config.gan
        self.appearance = ResNet50() if gan.appearance == "resnet50" else SmallAppearance(gan.appearance_dim)
        style = gan.appearance_dim + config.motion_encoder.f_mot
        self.generator = Generator(style, gan.base_size, gan.channels)

    def forward(self, reference: Tensor, f_mot: Tensor) -> Tensor:
        return self.generator(torch.cat([self.appearance(reference), f_mot], dim=1))


class SmallAppearance(nn.Module):
    """[B,3,S,S] -> f_app [B,dim] in four strided convolutions and a mean over positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (3, max(dim // 4, 8), max(dim // 2, 8), dim, dim)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, b), nn.SiLU())
                for a, b in pairwise(widths)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


class ModulatedConv(nn.Module):
    """3×3 convolution whose weights a style scales per input channel and renormalises per output channel.

    The scale is applied to the input and the norm to the output, which equals modulating the weights (StyleGAN2,
    eq. 1-3) and needs one ordinary convolution for the whole batch.
    """

    def __init__(self, channels: int, out: int, style: int, size: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(torch.randn(out, channels, size, size) / (channels * size**2) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(out))
        self.scale = nn.Linear(style, channels)
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = self.scale(style)  # [B,C]
        y = F.conv2d(x * scale[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            energy = scale.square() @ self.weight.square().sum((2, 3)).T  # [B,out]
            y = y * (energy + 1e-8).rsqrt()[:, :, None, None]
        return y + self.bias[None, :, None, None]


class Generator(nn.Module):
    """Style [B,D] -> images [B,3,S,S] in [-1,1]; S = base_size doubled at every entry of `channels` after the first."""

    def __init__(self, style: int, base_size: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, channels[0], base_size, base_size))
        before = (channels[0], *channels[:-1])
        self.first = nn.ModuleList(ModulatedConv(a, b, style) for a, b in zip(before, channels, strict=True))
        self.second = nn.ModuleList(ModulatedConv(b, b, style) for b in channels)
        self.to_rgb = nn.ModuleList(ModulatedConv(b, 3, style, size=1, demodulate=False) for b in channels)

    def forward(self, style: Tensor) -> Tensor:
        x = self.start.expand(len(style), -1, -1, -1)
        rgb = x.new_zeros(1)
        for i, (first, second, to_rgb) in enumerate(zip(self.first, self.second, self.to_rgb, strict=True)):
            if i:
                x, rgb = _double(x), _double(rgb)
            x = F.leaky_relu(first(x, style), 0.2)
            x = F.leaky_relu(second(x, style), 0.2)
            rgb = rgb + to_rgb(x, style)
        return torch.tanh(rgb)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Discriminator(nn.Module):
    """Spectral-norm ResNet, unconditional: images [B,3,S,S] -> score [B] and the feature map after every block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = (3, *config.gan.discriminator_channels)
        size = config.gan.image_size
        blocks = []
        for i, (before, after) in enumerate(pairwise(widths)):
            blocks.append(DownBlock(before, after, first=i == 0, halve=size >= 8))
            size = size // 2 if size >= 8 else size
        self.blocks = nn.ModuleList(blocks)
        self.score = spectral_norm(nn.Linear(widths[-1], 1))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, features = images, []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return self.score(F.relu(x).sum((2, 3)))[:, 0], features


class DownBlock(nn.Module):
    """Two 3×3 convolutions beside a 1×1 short cut, then halved by averaging."""

    def __init__(self, channels: int, out: int, first: bool, halve: bool) -> None:
        super().__init__()
        self.first, self.halve = first, halve
        self.conv1 = spectral_norm(nn.Conv2d(channels, out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(out, out, 3, padding=1))
        self.short = spectral_norm(nn.Conv2d(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.conv1(x if self.first else F.relu(x))  # the image itself must not lose its dark half
        inside = self.conv2(F.relu(inside))
        if self.halve:
            inside, x = F.avg_pool2d(inside, 2), F.avg_pool2d(x, 2)  # pooling first is the same and cheaper
        return inside + self.short(x)


class ResNet50(nn.Module):
    """f_app of the paper: images [B,3,S,S] in [-1,1] -> [B,2048]. Names are those of the published ImageNet weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _resnet_layer(64, 64, blocks=3, stride=1)
        self.layer2 = _resnet_layer(256, 128, blocks=4, stride=2)
        self.layer3 = _resnet_layer(512, 256, blocks=6, stride=2)
        self.layer4 = _resnet_layer(1024, 512, blocks=3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        x = (images / 2 + 0.5 - self.mean) / self.deviation
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    def load_imagenet(self, path: Path | str) -> None:
        """Read a published ResNet-50 classifier (.pth or .safetensors); its last layer is dropped."""
        try:
            if str(path).endswith(".safetensors"):
                from safetensors.torch import load_file

                weights = load_file(path)
            else:
                weights = torch.load(path, map_location="cpu", weights_only=True)
            self.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
        except Exception as error:
            raise XNeMoError(f"{path} does not hold ImageNet ResNet-50 weights: {error}") from error


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a residual; the stride is in the 3×3."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = nn.Sequential()
        if channels != out:
            self.downsample.extend([nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)])

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.bn1(self.conv1(x)))
        inside = F.relu(self.bn2(self.conv2(inside)))
        return F.relu(self.bn3(self.conv3(inside)) + self.downsample(x))


def _resnet_layer(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(4 * width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(channels, width, stride), *rest)
