"""Linear layers and the gated feed-forward of all transformers here.

On a CPU, fp32 products go through oneDNN, the inputs' gradients included: it uses whatever the processor has, while the
default library (MKL) takes about twice as long on an AMD one. The numbers differ by rounding only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
FEW = 1 << 14  # numbers below which calling it costs more than it saves in training


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., i] times weight [o, i], plus bias [o] -> [..., o]."""
    if ONEDNN is None or not (_plain(x) and _plain(weight)):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    return _Recorded.apply(x, weight, bias) if x.numel() >= FEW else F.linear(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    assert ONEDNN is not None
    return ONEDNN(x, weight, bias, "none", [], "")


class _Recorded(torch.autograd.Function):
    """The product with its gradients, the input's through oneDNN too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), g = ctx.saved_tensors, gradients[0].flatten(0, -2)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(g, weight.T).view(x.shape) if for_x else None,
            g.T @ x.flatten(0, -2) if for_weight else None,  # which need not copy g to turn it round
            g.sum(0) if for_bias else None,
        )


def _plain(x: Tensor) -> bool:
    if torch.compiler.is_compiling():  # it chooses products for itself, and knows nothing of these
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def inference_on_cpu(x: Tensor) -> bool:
    """Whether x holds fp32 numbers in a CPU's memory and what is computed of it is recorded for no backward pass."""
    return _plain(x) and not torch.is_grad_enabled()


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
        return _Gated.apply(self.proj(x)) if x.requires_grad and _plain(x) else _gated(*self.proj(x).chunk(2, dim=-1))


def _gated(value: Tensor, gate: Tensor) -> Tensor:
    return value * F.gelu(gate)


class _Gated(torch.autograd.Function):
    """`_gated` of the two halves of [..., 2 C], whose gradient is written to one place instead of being joined."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return _gated(*both.chunk(2, dim=-1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (both,), (g,) = ctx.saved_tensors, gradients
        value, gate = both.chunk(2, dim=-1)
        result = torch.empty_like(both)
        for_value, for_gate = result.chunk(2, dim=-1)
        torch.mul(g, F.gelu(gate), out=for_value)
        for_gate.copy_(torch.ops.aten.gelu_backward(g * value, gate))
        return result


class FeedForward(nn.Module):
    """[..., C] -> [..., C] over four times the width; named as in the released checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width), nn.Identity(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
