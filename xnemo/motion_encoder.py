"""E_mot: a face crop becomes one motion code, the code becomes the tokens the denoiser attends to.

Paper section 3.2 and appendix A. Parameter names are the released ones, so that `xnemo_motion_encoder.pth` loads
strictly. Where the release differs from the paper: three patch-attention layers instead of two, and the 512 numbers
reach the denoiser as 32 tokens of 16 instead of one token (a `ModelConfig` with motion_tokens 1 gives the latter).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.attention import Attention, InsertedBlock
from xnemo.config import ModelConfig, MotionEncoderConfig


def sin_cos(positions: Tensor, dim: int) -> Tensor:
    """Positions [L] -> [L, dim]: first half sines, second half cosines, of frequencies 10000^(-2k/dim)."""
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    angle = positions.double()[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def grid_positions(size: int, dim: int) -> Tensor:
    """[1, size², dim] for a square grid read row by row: first half of the dimensions column, second half row."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cat([sin_cos(columns.flatten(), dim // 2), sin_cos(rows.flatten(), dim // 2)], dim=1)[None]


class PatchEmbed(nn.Module):
    """Patches of a map [N,C,S,S] as tokens [N,L,dim] with their fixed position codes."""

    positions: Tensor

    def __init__(self, channels: int, size: int, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.register_buffer("positions", grid_positions(size // patch, dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2) + self.positions


class PatchAttention(nn.Module):
    """Global self-attention on a feature map [N,C,S,S], over patches; zero-initialised, so neutral at the start."""

    def __init__(self, channels: int, size: int, patch: int, dim: int, heads: int) -> None:
        super().__init__()
        self.grid, self.patch = size // patch, patch
        self.norm = nn.GroupNorm(32 if channels % 32 == 0 else 8, channels, eps=1e-6)
        self.pos_embed = PatchEmbed(channels, size, patch, dim)
        self.transformer_blocks = nn.ModuleList([InsertedBlock(dim, [Attention(dim, heads)])])
        self.proj_out = nn.Linear(dim // patch**2, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        block = self.transformer_blocks[0]
        attention = block.attention_blocks[0]
        tokens = block(self.pos_embed(self.norm(x)), lambda _, y: attention(y, attention.keys_values(y)))
        pixels = tokens.unflatten(2, (self.patch, self.patch, -1))  # a token holds its pixels' features in turn
        pixels = self.proj_out(pixels).unflatten(1, (self.grid, self.grid))  # [N, gy, gx, py, px, C]
        return x + pixels.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class SmallTrunk(nn.Module):
    """Face crop to f_mot in a few convolutions around one patch attention: the same idea, trainable on a laptop."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = 3
        for i, width in enumerate(config.widths):  # the first two stages halve the resolution
            conv = nn.Conv2d(channels, width, 3, stride=2 if i < 2 else 1, padding=1, bias=False)
            stages += [conv, nn.GroupNorm(8, width), nn.SiLU()]
            channels = width
        size = config.image_size // 4
        self.stem = nn.Sequential(*stages)
        self.attention = PatchAttention(channels, size, 2, config.attention_dim, config.attention_heads)
        self.to_maps = nn.Conv2d(channels, config.maps, 1)
        self.fc = nn.Linear(config.maps * size**2, config.f_mot)

    def forward(self, faces: Tensor) -> Tensor:
        return self.fc(F.relu(self.to_maps(self.attention(self.stem(faces)))).flatten(1))


class MotionEncoder(nn.Module):
    """Faces [N,3,S,S] RGB in [-1,1] and their placement f_rts [N,3] -> motion tokens [N,L,c]."""

    pe: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.motion_encoder
        width = config.motion_tokens * config.motion_token_dim
        self.model = SmallTrunk(own)
        self.latent_dropout = nn.Dropout(own.latent_dropout)
        self.bbox_proj = nn.Sequential(
            nn.Linear(3, own.rts_hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(own.rts_hidden, own.rts_hidden)
        )
        self.final_proj = nn.Linear(own.f_mot + own.rts_hidden, width)
        positions = sin_cos(torch.arange(config.motion_tokens), config.motion_token_dim)
        self.register_buffer("pe", positions[None])

    def encode(self, faces: Tensor) -> Tensor:
        """f_mot [N,D]: expression and pose alone; this is what the GAN head and the motion tokenizer see."""
        return self.latent_dropout(self.model(faces))

    def fuse(self, f_mot: Tensor, f_rts: Tensor) -> Tensor:
        """f_mot [N,D] with the placement f_rts [N,3] = (Δy, Δx, scale), the released order -> tokens [N,L,c]."""
        fused = self.final_proj(torch.cat([f_mot, self.bbox_proj(f_rts)], dim=1))
        return fused.unflatten(1, self.pe.shape[1:]) + self.pe

    def forward(self, faces: Tensor, f_rts: Tensor) -> Tensor:
        return self.fuse(self.encode(faces), f_rts)
