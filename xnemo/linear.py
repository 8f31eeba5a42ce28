"""Linear layers and the gated feed-forward of all transformers here.

Where nothing is recorded for a backward pass, fp32 products on a CPU go through oneDNN: it uses whatever the processor
has, while the default library (MKL) takes about twice as long on an AMD one. The numbers differ by rounding only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., i] times weight [o, i], plus bias [o] -> [..., o]."""
    if _ONEDNN is not None and inference_on_cpu(x) and weight.dtype == torch.float32:
        return _ONEDNN(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def inference_on_cpu(x: Tensor) -> bool:
    """Whether x holds fp32 numbers in a CPU's memory and what is computed of it is recorded for no backward pass."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()


class Linear(nn.Linear):
    """nn.Linear through `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class GatedGelu(nn.Module):
    """[..., C] -> [..., 4 C]: one half of a projection times the GELU of the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """[..., C] -> [..., C] over four times the width; named as in the released checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width), nn.Identity(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
