"""Fresh weights for shapes trained from nothing.

The released networks inherit from a large pretraining what a small one would need hundreds of thousands of samples
to find: that a token's counterpart in the reference lies near the token's own place. Here attention begins there.
"""

from __future__ import annotations

import torch
from torch import nn

from xnemo.model import XNeMo
from xnemo.reference_attention import SpatialTransformer

SHARPNESS = 2.0  # of the first attention maps: queries and keys start as this multiple of their usual scale


@torch.no_grad()
def align(model: XNeMo) -> None:
    """Fresh weights with which every token first attends to its own place and copies what is there: equal reference net
    and denoiser, equal queries and keys, orthogonal values undone by the output layer."""
    for _, transformer in model.denoiser.transformers():
        _align(transformer)
    shared = model.denoiser.state_dict()
    model.reference_net.load_state_dict({name: shared[name].clone() for name in model.reference_net.state_dict()})


def _align(transformer: SpatialTransformer) -> None:
    attention = transformer.block.attn1
    nn.init.orthogonal_(attention.to_v.weight)
    attention.to_out.get_parameter("0.weight").copy_(attention.to_v.weight.T)
    if transformer.places != "none":
        _look_at_places(transformer)
    attention.to_k.weight.copy_(attention.to_q.weight)


def _look_at_places(transformer: SpatialTransformer) -> None:
    """Queries read the channels that tell places alone, which the content leaves to them: at the noisy end the content
    of the denoiser's tokens is noise, and would send its attention anywhere. Half of the heads look at the place in the
    picture, where its background is, the others at the place on the face."""
    query, width = transformer.block.attn1.to_q.weight, transformer.proj_in.weight.shape[0]
    for parameter in (transformer.proj_in.weight, transformer.proj_in.get_parameter("bias")):
        parameter[width // 2 :] = 0
    query.zero_()
    heads = query.chunk(transformer.block.attn1.heads)
    for index, head in enumerate(heads):
        told = slice(-(width // 4), None) if index % 2 else slice(width // 2, -(width // 4))
        nn.init.orthogonal_(head[:, told], gain=SHARPNESS)
