"""The losses: eq. 1 for the diffusion, eqs. 3 to 7 for the GAN head (weights in `stages.StageConfig`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.errors import XNeMoError
from xnemo.schedule import shifted


def diffusion(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Eq. 1: mean squared error [B,...] in the space of the prediction, weighted per sample ([B], 1 in eq. 1)."""
    per_sample = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return (weight * per_sample).mean()


def shift_timesteps(uniform: Tensor, shift: float, train_steps: int) -> Tensor:
    """Time steps [B] from uniform numbers [B] in [0,1): s·u / (1 + (s-1)·u). 1 is uniform, above 1 noisier.

    Head motion is decided at high noise: small models that must learn it fast train there.
    """
    return (shifted(uniform, shift) * train_steps).long().clamp(max=train_steps - 1)


def hinge_generator(score: Tensor) -> Tensor:
    """-E D(ŷ)."""
    return -score.mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(y)) + E max(0, 1 + D(ŷ)); ŷ must come detached."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def feature_distance(fake: Sequence[Tensor], real: Sequence[Tensor], reduce: Literal["mean", "sum"]) -> Tensor:
    """Σ_i mean|φ_i(ŷ) - sg φ_i(y)| over feature maps (eq. 6 writes the sum; "mean" divides by their number)."""
    total = torch.stack([F.l1_loss(f, r.detach()) for f, r in zip(fake, real, strict=True)]).sum()
    return total / len(fake) if reduce == "mean" else total


class Features(nn.Module):
    """A frozen stack of 3×3 convolutions; answers with every ReLU output. Average pooling between blocks."""

    mean: Tensor  # [1,3,1,1]

    def __init__(self, blocks: Sequence[Sequence[int]], mean: Sequence[float], scale: float) -> None:
        """Images in [-1,1] enter as (image + 1) · 127.5 · scale - mean·scale, channels in BGR order."""
        super().__init__()
        widths = [3, *(width for block in blocks for width in block)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths))
        self.pool_before = {sum(len(b) for b in blocks[:k]) for k in range(1, len(blocks))}
        self.scale = scale
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = ((images.flip(1) + 1) * 127.5 - self.mean) * self.scale
        features = []
        for index, conv in enumerate(self.convs):
            if index in self.pool_before:
                x = F.avg_pool2d(x, 2)
            x = F.relu(conv(x))
            features.append(x)
        return features


# Up to relu5_1 of VGG-19 and relu5_3 of VGG-16, 13 ReLUs each, with the means of their Caffe weights (BGR).
_VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,))
_VGG16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
_IMAGENET_MEAN, _VGGFACE_MEAN = (103.939, 116.779, 123.68), (93.5940, 104.7624, 129.1863)


def perceptual_features(kind: Literal["vgg19", "vggface", "random"], weights: Path | str | None) -> Features:
    """Frozen features for the perceptual terms, from a local file or fixed at random.

    "vgg19" and "vggface" read Caffe-scaled weights (inputs 0-255 minus the mean, BGR) in torchvision's naming,
    `features.N.weight` and `.bias`, as .safetensors or .pth. Only at that scale do the weights 3e-2 and 6e-3 mean
    what the paper means: with torchvision's own normalisation the activations are about 57 times smaller.
    "random" is a small seeded net with unit-scale outputs: it needs no file and still sees edges and colour.
    """
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = Features(((16, 16), (32,), (64,)), mean=(127.5,) * 3, scale=1 / 127.5)
            for conv in net.convs:
                assert isinstance(conv, nn.Conv2d)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        return net.eval()
    if weights is None:
        raise XNeMoError(f"the {kind} features need a weights file: set its path in the stage, or leave the term out")
    blocks, mean = (_VGG19, _IMAGENET_MEAN) if kind == "vgg19" else (_VGG16, _VGGFACE_MEAN)
    net = Features(blocks, mean, scale=1.0)
    _load_vgg(net, blocks, Path(weights))
    return net.eval()


def _load_vgg(net: Features, blocks: Sequence[Sequence[int]], path: Path) -> None:
    """Fill the convolutions from torchvision's layer numbers (conv, ReLU, …, pool after each block)."""
    if not path.is_file():
        raise XNeMoError(f"no perceptual weights at {path}: give a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    layer, conv = 0, 0
    for block in blocks:
        for _ in block:
            for part in ("weight", "bias"):
                name, target = f"features.{layer}.{part}", getattr(net.convs[conv], part)
                if name not in state or state[name].shape != target.shape:
                    raise XNeMoError(f"{path} lacks {name} of shape {tuple(target.shape)}: it is not this VGG")
                target.data.copy_(state[name])
            layer, conv = layer + 2, conv + 1
        layer += 1
