"""Motion cross-attention: every pixel of a frame attends to that frame's motion tokens.

Paper section 3.2 (one layer after each spatial transformer). Released code: two attentions and a feed-forward
per module, after every ResNet, also where there is no transformer (`motion_positions: release21`).
"""

from __future__ import annotations

from torch import Tensor, nn

from xnemo.attention import Attention, InsertedTransformer, KeysValues


class MotionModule(nn.Module):
    """Zero-initialised cross-attention to motion tokens; no self-attention, no position code."""

    def __init__(self, width: int, heads: int, groups: int, token_dim: int) -> None:
        super().__init__()
        # The released checkpoints name this part after the temporal layer it was derived from.
        self.temporal_transformer = InsertedTransformer(
            width, groups, (Attention(width, heads, token_dim) for _ in range(2))
        )

    def keys_values(self, motion: Tensor) -> list[KeysValues]:
        """motion [B, F, L, c] -> keys and values [B, F, L, C] of both attentions; they do not depend on t."""
        return [attention.keys_values(motion) for attention in self.temporal_transformer.attentions]

    def forward(self, x: Tensor, keys_values: list[KeysValues]) -> Tensor:
        """x [(B F), C, H, W], keys and values [(B F), L, C] -> [(B F), C, H, W]."""
        inner = self.temporal_transformer
        tokens = inner.norm(x).flatten(2).transpose(1, 2)
        attentions = inner.attentions
        tokens = inner(tokens, lambda i, y: attentions[i](y, keys_values[i]))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])
