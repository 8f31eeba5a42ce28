"""Fresh weights for shapes trained from nothing.

The released networks inherit from a large pretraining what a small one would need hundreds of thousands of samples
to find: that a token's counterpart in the reference lies near the token's own place. Here attention begins there.
"""

from __future__ import annotations

import torch
from torch import nn

from xnemo.model import XNeMo
from xnemo.reference_attention import SpatialTransformer

SHARPNESS = 3.0  # of the first attention maps: queries and keys start as this multiple of their usual scale


@torch.no_grad()
def align(model: XNeMo) -> None:
    """Fresh weights with which every token first attends to what resembles it in content and place, and copies it:
    equal reference net and denoiser, equal queries and keys, orthogonal values undone by the output layer."""
    for _, transformer in model.denoiser.transformers():
        _align(transformer)
    shared = model.denoiser.state_dict()
    model.reference_net.load_state_dict({name: shared[name].clone() for name in model.reference_net.state_dict()})


def _align(transformer: SpatialTransformer) -> None:
    attention = transformer.block.attn1
    nn.init.orthogonal_(attention.to_v.weight)
    attention.to_out.get_parameter("0.weight").copy_(attention.to_v.weight.T)
    attention.to_q.weight.mul_(SHARPNESS)
    attention.to_k.weight.copy_(attention.to_q.weight)
