"""E_mot: a face crop becomes one motion code, the code becomes the tokens the denoiser attends to.

Paper section 3.2 and appendix A. Parameter names are the released ones, so that `xnemo_motion_encoder.pth` loads
strictly. Where the release differs from the paper: three patch-attention layers instead of two, and the 512 numbers
reach the denoiser as 32 tokens of 16 instead of one token (a `ModelConfig` with motion_tokens 1 gives the latter).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.attention import Attention, InsertedBlock
from xnemo.config import ModelConfig, MotionEncoderConfig
from xnemo.linear import Linear

REST = (0.0, 0.0, 1.0)  # f_rts of a head that stays where it is
TURN = 6  # numbers that tell how a face has turned within its box, see `places.head_places`


def sin_cos(positions: Tensor, dim: int) -> Tensor:
    """Positions [L] -> [L, dim]: first half sines, second half cosines, of frequencies 10000^(-2k/dim)."""
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    angle = positions.double()[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def grid_positions(size: int, dim: int) -> Tensor:
    """[1, size², dim] for a square grid read row by row: first half of the dimensions column, second half row."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cat([sin_cos(columns.flatten(), dim // 2), sin_cos(rows.flatten(), dim // 2)], dim=1)[None]


def told_place(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Motion tokens [..., L+1, c] that carry a placement -> (tokens [..., L, c], place [..., 9] = f_rts, turn)."""
    return tokens[..., :-1, :], tokens[..., -1, : len(REST) + TURN]


class PatchEmbed(nn.Module):
    """Patches of a map [N,C,S,S] as tokens [N,L,dim] with their fixed position codes."""

    positions: Tensor

    def __init__(self, channels: int, size: int, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        self.register_buffer("positions", grid_positions(size // patch, dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.proj(x).flatten(2).transpose(1, 2)
        return tokens + self.positions.to(tokens)


class PatchAttention(nn.Module):
    """Global self-attention on a feature map [N,C,S,S], over patches; zero-initialised, so neutral at the start."""

    def __init__(self, channels: int, size: int, patch: int, dim: int, heads: int) -> None:
        super().__init__()
        self.grid, self.patch = size // patch, patch
        self.norm = nn.GroupNorm(32 if channels % 32 == 0 else 8, channels, eps=1e-6)
        self.pos_embed = PatchEmbed(channels, size, patch, dim)
        self.transformer_blocks = nn.ModuleList([InsertedBlock(dim, [Attention(dim, heads)])])
        self.proj_out = Linear(dim // patch**2, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        block = cast(InsertedBlock, self.transformer_blocks[0])
        attention = cast(Attention, block.attention_blocks[0])
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


class ConvBlock(nn.Module):
    """FAN's residual block: three 3×3 convolutions of out/2, out/4 and out/4 channels, their outputs side by side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half, quarter = out // 2, out // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), _conv3(channels, half)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), _conv3(half, quarter)
        self.bn3, self.conv3 = nn.BatchNorm2d(quarter), _conv3(quarter, quarter)
        self.downsample = nn.Sequential()
        if channels != out:
            short = nn.Conv2d(channels, out, 1, bias=False)
            self.downsample.extend([nn.BatchNorm2d(channels), nn.ReLU(), short])

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return torch.cat([first, second, third], dim=1) + self.downsample(x)


def _conv3(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


class Hourglass(nn.Module):
    """Recursive down and up: a skip branch b1 at each level, b2 on the way down, b3 on the way up."""

    def __init__(self, channels: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.depth = depth
        self.dropout = nn.Dropout(dropout)
        for level in range(depth, 0, -1):
            for branch in ("b1", "b2", "b3"):
                self.add_module(f"{branch}_{level}", ConvBlock(channels, channels))
        self.b2_plus_1 = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self._level(self.depth, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        b1, b2, b3 = (self.get_submodule(f"{branch}_{level}") for branch in ("b1", "b2", "b3"))
        low = b2(F.max_pool2d(x, 2))
        low = b3(self._level(level - 1, low) if level > 1 else self.b2_plus_1(low))
        return self.dropout(b1(x)) + F.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False)


class FanTrunk(nn.Module):
    """Face crop to f_mot as released: a face-alignment network with three patch attentions, and one linear layer."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        a, b, c = config.widths
        size, attention = config.image_size, (config.attention_dim, config.attention_heads)
        self.conv1, self.bn1 = nn.Conv2d(3, a, 7, stride=2, padding=3), nn.BatchNorm2d(a)
        self.conv2 = ConvBlock(a, b)
        self.conv3 = ConvBlock(b, b)
        self.conv4 = ConvBlock(b, c)
        self.m0 = Hourglass(c, config.hourglass_depth, config.dropout)
        self.top_m_0 = ConvBlock(c, c)
        self.conv_last0, self.bn_end0 = nn.Conv2d(c, c, 1), nn.BatchNorm2d(c)
        self.l0, self.bn5 = nn.Conv2d(c, config.maps, 1), nn.BatchNorm2d(config.maps)
        self.conv6 = nn.Conv2d(config.maps, 1, 3, stride=2, padding=1)
        self.fc = nn.Linear((size // 8) ** 2, config.f_mot)
        self.att_1 = PatchAttention(b, size // 2, 4, *attention)
        self.att_2 = PatchAttention(c, size // 4, 2, *attention)
        self.att_3 = PatchAttention(c, size // 4, 2, *attention)

    def forward(self, faces: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(faces)))
        x = F.max_pool2d(self.att_1(self.conv2(x)), 2)
        x = self.att_2(self.conv4(self.conv3(x)))
        x = self.bn_end0(self.conv_last0(self.top_m_0(self.m0(x))))
        x = F.relu(self.bn5(self.l0(F.relu(self.att_3(x)))))
        return self.fc(F.relu(self.conv6(x).flatten(1)))


class MotionEncoder(nn.Module):
    """Faces [N,3,S,S] RGB in [-1,1] and their placement f_rts [N,3] -> motion tokens [N,L,c]."""

    pe: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.motion_encoder
        width = config.motion_tokens * config.motion_token_dim
        self.model = FanTrunk(own) if own.kind == "fan" else SmallTrunk(own)
        self.latent_dropout = nn.Dropout(own.latent_dropout)
        self.rts_gain = own.rts_gain
        self.bbox_proj = nn.Sequential(
            nn.Linear(3, own.rts_hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(own.rts_hidden, own.rts_hidden)
        )
        self.final_proj = nn.Linear(own.f_mot + own.rts_hidden, width)
        self.turn: nn.Linear | None = None
        if config.unet.token_places == "head":
            self.turn = nn.Linear(own.f_mot, TURN)
            nn.init.zeros_(self.turn.weight)
            nn.init.zeros_(self.turn.bias)
        positions = sin_cos(torch.arange(config.motion_tokens), config.motion_token_dim)
        self.register_buffer("pe", positions[None])

    def encode(self, faces: Tensor) -> Tensor:
        """f_mot [N,D]: expression and pose alone; this is what the GAN head and the motion tokenizer see."""
        return self.latent_dropout(self.model(faces))

    def fuse(self, f_mot: Tensor, f_rts: Tensor) -> Tensor:
        """f_mot [N,D] with the placement f_rts [N,3] = (Δy, Δx, scale), the released order -> tokens [N,L,c].

        Where the networks' tokens know their place on the face, a token more carries f_rts as it is and how the face
        has turned (`told_place`).
        """
        place = f_rts
        if self.rts_gain != 1:
            f_rts = self.rts_gain * (f_rts - f_rts.new_tensor(REST)) + f_rts.new_tensor(REST)
        fused = self.final_proj(torch.cat([f_mot, self.bbox_proj(f_rts)], dim=1))
        tokens = fused.unflatten(1, self.pe.shape[1:]) + self.pe.to(fused)
        if self.turn is None:
            return tokens
        place = torch.cat([place.to(tokens), self.turn(f_mot)], dim=1)
        told = F.pad(place, (0, tokens.shape[2] - place.shape[1]))
        return torch.cat([tokens, told[:, None]], dim=1)

    def forward(self, faces: Tensor, f_rts: Tensor) -> Tensor:
        return self.fuse(self.encode(faces), f_rts)
