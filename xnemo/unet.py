"""The SD-1.5-shaped skeleton under the reference net and the denoiser; block names as in the released checkpoints.

Frames are folded into the batch: everything here sees images [N, C, H, W].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol, cast

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xnemo.config import UNetConfig
from xnemo.reference_attention import SpatialTransformer


class Level(nn.Module):
    """The parts of one resolution: ResNets (one per entry of `ins`), their transformers, and the resampler.

    A denoiser adds its modules to the two empty lists.
    """

    def __init__(
        self, config: UNetConfig, ins: Sequence[int], width: int, transformers: int, resample: str = ""
    ) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList()
        self.temporal_modules = nn.ModuleList()
        self.width = width
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                in_channels=channels,
                out_channels=width,
                temb_channels=4 * config.channels[0],
                groups=config.norm_groups,
                eps=1e-5,
            )
            for channels in ins
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(width, config.heads, config.norm_groups, config.context_dim, config.token_places)
            for _ in range(transformers)
        )
        # `name="op"` keeps diffusers from registering the one convolution twice
        down = [Downsample2D(width, use_conv=True, name="op")] if resample == "down" else []
        self.downsamplers = nn.ModuleList(down)
        self.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)] if resample == "up" else [])

    @property
    def positions(self) -> int:
        """Places after which transformers and inserted modules stand (the middle's second ResNet is none)."""
        return len(self.attentions) or len(self.resnets)


class Visit(Protocol):
    """Runs one position of a level: its ResNet and whatever follows."""

    def __call__(self, name: str, level: Level, index: int, x: Tensor, time: Tensor) -> Tensor: ...


class UNet(nn.Module):
    """conv_in, time embedding, down, middle and up levels. `walk` runs them; what happens at a position is given.

    `checkpointing` names what is recomputed in the backward pass instead of kept: whole "positions", or kinds of their
    parts, "resnets", "attentions", "motion_modules" and "temporal_modules".
    """

    checkpointing: frozenset[str] = frozenset()

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths, depth = config.channels, config.layers_per_block
        last = len(widths) - 1
        self.config = config
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])

        skips = [widths[0]]
        self.down_blocks = nn.ModuleList()
        for i, width in enumerate(widths):
            ins = [skips[-1]] + [width] * (depth - 1)
            resample = "down" if i < last else ""
            self.down_blocks.append(Level(config, ins, width, depth * config.attention[i], resample))
            skips += [width] * (depth + (i < last))
        self.mid_block = Level(config, [widths[-1]] * 2, widths[-1], 1)
        self.up_blocks = nn.ModuleList()
        previous = widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            ins = [skips.pop() + (previous if j == 0 else width) for j in range(depth + 1)]
            self.up_blocks.append(Level(config, ins, width, (depth + 1) * config.attention[i], "up" if i else ""))
            previous = width

    def levels(self) -> Iterator[tuple[str, Level]]:
        """All levels with their names, in the order data passes them."""
        down = ((f"down_blocks.{i}", level) for i, level in enumerate(self.down_blocks))
        up = ((f"up_blocks.{i}", level) for i, level in enumerate(self.up_blocks))
        for name, level in chain(down, [("mid_block", self.mid_block)], up):
            yield name, cast(Level, level)

    def transformers(self) -> Iterator[tuple[str, SpatialTransformer]]:
        """All spatial transformers under the names their stored tokens bear."""
        for name, level in self.levels():
            for j, transformer in enumerate(level.attentions):
                yield f"{name}.attentions.{j}.transformer_blocks.0", cast(SpatialTransformer, transformer)

    def unused(self) -> set[str]:
        """Names of parameters that never receive a gradient: the queries over one token, and the like."""
        return {
            f"{name}.{part}"
            for name, _ in self.transformers()
            for part in ("norm2.weight", "norm2.bias", "attn2.to_q.weight", "attn2.to_k.weight")
        }

    def embed_time(self, timestep: Tensor) -> Tensor:
        """timestep [N] -> [N, 4 * channels[0]]."""
        waves = get_timestep_embedding(timestep, self.config.channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        return self.time_embedding(waves.to(self.conv_in.weight.dtype))

    def run(self, kind: str, part: Callable[..., Any], *inputs: Any) -> Any:
        """part(*inputs), which must be pure, with its activations kept or, if its kind is to be, recomputed."""
        if kind in self.checkpointing and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def walk(self, x: Tensor, time: Tensor, visit: Visit, added: Tensor | None = None) -> Tensor:
        """x [N, in_channels, H, W], time [N or 1, D] -> [N, channels[0], H, W]; `added` [N, channels[0], H, W] joins
        after the first convolution."""
        x = self.conv_in(x)
        x = x if added is None else x + added
        skips = [x]
        for name, level in self.levels():
            for j in range(level.positions):
                if name.startswith("up"):
                    x = torch.cat([x, skips.pop()], dim=1)
                x = visit(name, level, j, x, time)
                if name.startswith("down"):
                    skips.append(x)
            if name == "mid_block":
                x = level.resnets[1](x, time)
            for downsampler in level.downsamplers:
                x = downsampler(x)
                skips.append(x)
            for upsampler in level.upsamplers:
                x = upsampler(x, skips[-1].shape[-2:])
        return x
