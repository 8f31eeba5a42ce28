"""The denoiser: at each position ResNet, spatial transformer, motion module, temporal module (released code).

What a clip's steps share is computed once by `prepare` and passed to `denoise` as a value: the keys and values of
the reference's and the motion tokens, and what the one image token adds. This changes no result, only when it is
computed; `forward` is the two in a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo import motion_map
from xnemo.attention import KeysValues
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.motion_attention import MotionModule
from xnemo.motion_encoder import told_place
from xnemo.reference_attention import Bank, keep
from xnemo.temporal import TemporalModule
from xnemo.unet import Level, UNet


@dataclass(frozen=True)
class Conditions:
    """Everything the denoiser is told besides the noisy latents; independent of the timestep."""

    image: dict[str, Tensor]  # transformer name -> [B, 1, C]
    reference: dict[str, KeysValues]  # transformer name -> [B, K, C] each; empty: the null reference
    motion: dict[str, list[KeysValues]]  # motion module name -> [B, F or 1, L, C] each; empty: no motion
    place: Tensor | None = None  # [B, F or 1, 9], where tokens know their place on the head; None: at rest

    def frames(self, ids: Tensor) -> Conditions:
        """The same conditions for a window: motion of the frames `ids` [f] only."""
        motion = {
            name: [(k, v) if k.shape[1] == 1 else (k[:, ids], v[:, ids]) for k, v in pairs]
            for name, pairs in self.motion.items()
        }
        place = self.place
        if place is not None and place.shape[1] > 1:
            place = place[:, ids]
        return replace(self, motion=motion, place=place)


class Denoiser(UNet):
    """SD-1.5 shape with motion and temporal modules."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.unet)
        heads, groups = config.unet.heads, config.unet.norm_groups
        everywhere = config.motion_positions == "release21"
        attended = config.motion_input == "attention"
        self.motion_map: motion_map.MotionMap | None = None
        if not attended:
            numbers = config.motion_tokens * config.motion_token_dim
            self.motion_map = motion_map.MotionMap(numbers, config.latent_size, config.unet.channels[0])
        for _, level in self.levels():
            level.motion_modules = nn.ModuleList(
                MotionModule(level.width, heads, groups, config.motion_token_dim)
                for _ in range((level.positions if everywhere else len(level.attentions)) * attended)
            )
            level.temporal_modules = nn.ModuleList(
                TemporalModule(level.width, heads, groups, config.temporal_max_len) for _ in range(level.positions)
            )
        self.conv_norm_out = nn.GroupNorm(groups, config.unet.channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(config.unet.channels[0], config.unet.in_channels, 3, padding=1)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor | int,
        context: Tensor,
        motion: Tensor | None,
        reference: Bank | None = None,
        kept: dict[str, Tensor] | None = None,
        use_motion: bool = True,
        use_temporal: bool = True,
    ) -> Tensor:
        """One prediction [B, C, F, h, w].

        latents [B, C, F, h, w]; timestep a number or [B]; context [B, 1, d]; motion [B, F or 1, L, c] (1: the same
        for all frames); reference: the bank, [B, ...], or None for the null reference; kept: the token ids [B, K]
        of `kept_tokens`, or None to read all; use_motion / use_temporal: whether those modules run at all.
        """
        conditions = self.prepare(context, motion if use_motion else None, reference, kept)
        return self.denoise(latents, timestep, conditions, use_temporal)

    def prepare(
        self,
        context: Tensor,
        motion: Tensor | None,
        reference: Bank | None = None,
        kept: dict[str, Tensor] | None = None,
    ) -> Conditions:
        """What every step of a clip shares; arguments as in `forward`, motion None to bypass the motion modules."""
        transformers = dict(self.transformers())
        bank = keep(reference, kept) if reference is not None else {}
        if bank and bank.keys() != transformers.keys():
            raise XNeMoError("the reference's blocks are not the denoiser's: they come from another configuration")
        unmoved = Conditions(
            image={name: t.block.image_vector(context) for name, t in transformers.items()},
            reference={name: transformers[name].block.attn1.keys_values(tokens) for name, tokens in bank.items()},
            motion={},
        )
        return unmoved if motion is None else self.steer(unmoved, motion)

    def steer(self, conditions: Conditions, motion: Tensor) -> Conditions:
        """The conditions with this motion [B, F or 1, L, c] in place of theirs."""
        place = None
        if self.config.token_places == "head":
            motion, place = told_place(motion)
        told = {name: module.keys_values(motion) for name, module in self.motion_modules()}
        return replace(conditions, motion=told, place=place)

    def motion_modules(self) -> list[tuple[str, MotionModule | motion_map.MotionMap]]:
        kinds = (MotionModule, motion_map.MotionMap)
        return [(name, module) for name, module in self.named_modules() if isinstance(module, kinds)]

    def denoise(
        self, latents: Tensor, timestep: Tensor | int, conditions: Conditions, use_temporal: bool = True
    ) -> Tensor:
        """latents [B, C, F, h, w], timestep a number or [B] -> prediction [B, C, F, h, w]."""
        frames = latents.shape[2]
        x = latents.transpose(1, 2).flatten(0, 1)  # [(B F), C, h, w]
        time = self.embed_time(torch.as_tensor(timestep, device=latents.device).reshape(-1))
        if len(time) > 1:  # one time for all: a single row serves every frame
            time = time.repeat_interleave(frames, dim=0)

        def visit(name: str, level: Level, index: int, x: Tensor, time: Tensor) -> Tensor:
            return self.run("positions", self._position, name, level, index, x, time, frames, conditions, use_temporal)

        added = None
        if motion_map.NAME in conditions.motion:
            maps = per_frame(conditions.motion[motion_map.NAME][0][0], frames)
            added = maps.transpose(1, 2).unflatten(2, latents.shape[-2:])
        x = self.walk(x, time, visit, added)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x.unflatten(0, (-1, frames)).transpose(1, 2)

    def _position(
        self,
        name: str,
        level: Level,
        index: int,
        x: Tensor,
        time: Tensor,
        frames: int,
        conditions: Conditions,
        use_temporal: bool,
    ) -> Tensor:
        x = self.run("resnets", level.resnets[index], x, time)
        if level.attentions:
            key = f"{name}.attentions.{index}.transformer_blocks.0"
            image = per_frame(conditions.image[key][:, None], frames)
            place = None if conditions.place is None else per_frame(conditions.place[..., None, :], frames)[:, 0]
            x, _ = self.run("attentions", level.attentions[index], x, image, conditions.reference.get(key), place)
        key = f"{name}.motion_modules.{index}"
        if key in conditions.motion:
            pairs = [(per_frame(keys, frames), per_frame(values, frames)) for keys, values in conditions.motion[key]]
            x = self.run("motion_modules", level.motion_modules[index], x, pairs)
        if use_temporal:
            x = self.run("temporal_modules", level.temporal_modules[index], x, frames)
        return x


def per_frame(x: Tensor, frames: int) -> Tensor:
    """[B, F or 1, L, C] -> [(B F), L, C]."""
    return x.expand(-1, frames, -1, -1).flatten(0, 1)
