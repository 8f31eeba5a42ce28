"""Mutual self-attention: the denoiser reads the reference net's tokens as extra keys and values (paper section 3.1).

A *bank* is a plain dict: block name -> the reference's normalised tokens [B, L, C]. No bank is the null reference.
Reference feature masking (paper section 3.3) drops tokens, as the released code does, rather than zeroing them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xnemo.attention import Attention, KeysValues
from xnemo.errors import XNeMoError
from xnemo.linear import FeedForward, linear
from xnemo.places import head_places

Bank = dict[str, Tensor]


class TransformerBlock(nn.Module):
    """Self-attention (reading the reference), the image token, feed-forward; each added to its input."""

    def __init__(self, width: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)  # unused, like attn2.to_q and attn2.to_k: see `image_vector`
        self.attn2 = Attention(width, heads, context_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def image_vector(self, context: Tensor) -> Tensor:
        """context [B, 1, d] -> what cross-attention adds to every token [B, 1, C].

        Over one token softmax is 1, so the answer is W_o W_v c + b_o whatever the query.
        """
        if context.shape[1] != 1:
            raise XNeMoError(f"the context must be one token [B, 1, d], not {tuple(context.shape)}")
        return self.attn2.to_out(self.attn2.to_v(context))

    def forward(self, x: Tensor, image: Tensor, reference: KeysValues | None) -> tuple[Tensor, Tensor]:
        """x [(B F), L, C], image [(B F), 1, C], reference [B, K, C] each -> (new x, own tokens [(B F), L, C])."""
        own = self.norm1(x)
        x = x + self.attn1(own, with_reference(self.attn1.keys_values(own), reference)) + image
        return x + self.ff(self.norm3(x)), own


class SpatialTransformer(nn.Module):
    """GroupNorm, 1x1 convolution in, one block, 1x1 convolution out, added to the input."""

    def __init__(self, width: int, heads: int, groups: int, context_dim: int, places: str = "none") -> None:
        super().__init__()
        self.places = places
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, context_dim)])
        self.proj_out = nn.Conv2d(width, width, 1)

    @property
    def block(self) -> TransformerBlock:
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def tokens(self, x: Tensor, place: Tensor | None = None) -> Tensor:
        """[N, C, H, W] -> [N, HW, C], what the block takes in. place [N, 9]: see `places.head_places`."""
        tokens = pointwise(self.proj_in, self.norm(x).flatten(2).transpose(1, 2))
        if self.places == "none":
            return tokens
        return tokens + head_places(place, x.shape[2], x.shape[3], x.shape[1]).to(tokens)

    def forward(
        self, x: Tensor, image: Tensor, reference: KeysValues | None = None, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [N, C, H, W] -> (new x, own normalised tokens [N, HW, C], which a reference net stores)."""
        tokens, own = self.block(self.tokens(x, place), image, reference)
        return x + pointwise(self.proj_out, tokens).transpose(1, 2).unflatten(2, x.shape[2:]), own


def pointwise(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution as the product it is: tokens [N, L, C] -> [N, L, C']."""
    return linear(tokens, conv.weight[:, :, 0, 0], conv.bias)


def with_reference(own: KeysValues, reference: KeysValues | None) -> KeysValues:
    """Own keys and values [(B F), L, C], each followed by its clip's [B, K, C] where there is a reference."""
    if reference is None:
        return own
    keys, values = (
        torch.cat([o.unflatten(0, (len(r), -1)), r[:, None].expand(-1, len(o) // len(r), -1, -1)], dim=2).flatten(0, 1)
        for o, r in zip(own, reference, strict=True)
    )
    return keys, values


def kept_tokens(reference: Bank, ratio: float, uniform: Callable[[str, int], Tensor]) -> dict[str, Tensor]:
    """Random subsets for reference feature masking: int(L (1 - ratio)) token ids per layer and sample.

    `uniform(block name, L)` gives random numbers [B, L]; the ids [B, K] are those of its smallest values.
    """
    if not 0 <= ratio <= 1:
        raise XNeMoError(f"the masking ratio must lie in [0, 1], not {ratio}")
    return {
        name: uniform(name, tokens.shape[1]).argsort(dim=1)[:, : int(tokens.shape[1] * (1 - ratio))].to(tokens.device)
        for name, tokens in reference.items()
    }


def keep(reference: Bank, kept: dict[str, Tensor] | None) -> Bank:
    """The bank with only the kept tokens [B, K, C] in each layer."""
    if kept is None:
        return reference
    return {name: tokens.take_along_dim(kept[name][..., None], dim=1) for name, tokens in reference.items()}
