"""Temporal modules: self-attention over the frames of a clip at each pixel (AnimateDiff's shape, released code)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xnemo.attention import Attention, InsertedTransformer
from xnemo.errors import XNeMoError


def position_table(length: int, width: int) -> Tensor:
    """Interleaved sine and cosine [1, length, width]."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-torch.log(torch.tensor(1e4)) / width))
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None]


class FramePositions(nn.Module):
    """Adds each frame's place in the window; the table bounds the window's length."""

    pe: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", position_table(length, width))

    def forward(self, x: Tensor) -> Tensor:
        """[N, F, C] -> [N, F, C]."""
        return x + self.pe[:, : x.shape[1]]


class TemporalAttention(Attention):
    """Self-attention over frames [N, F, C], positions added to queries, keys and values alike."""

    def __init__(self, width: int, heads: int, max_len: int) -> None:
        super().__init__(width, heads)
        self.pos_encoder = FramePositions(max_len, width)

    def attend(self, x: Tensor) -> Tensor:
        x = self.pos_encoder(x)
        return self(x, self.keys_values(x))


class TemporalModule(nn.Module):
    """Zero-initialised attention across frames."""

    def __init__(self, width: int, heads: int, groups: int, max_len: int) -> None:
        super().__init__()
        self.max_len = max_len
        self.temporal_transformer = InsertedTransformer(
            width, groups, (TemporalAttention(width, heads, max_len) for _ in range(2))
        )

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x [(B F), C, H, W] -> the same shape. Raises XNeMoError beyond `max_len` frames."""
        if frames > self.max_len:
            raise XNeMoError(f"{frames} frames in one window; the temporal layers take at most {self.max_len}")
        inner = self.temporal_transformer
        # [(B F), C, H, W] -> [(B H W), F, C] once for the whole module: everything inside is per token or per pixel
        tokens = inner.norm(x).unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        attentions = inner.attentions
        tokens = inner(tokens, lambda i, y: attentions[i].attend(y))
        tokens = tokens.unflatten(0, (-1, *x.shape[2:]))  # [B, H, W, F, C]
        return x + tokens.permute(0, 3, 4, 1, 2).flatten(0, 1)
