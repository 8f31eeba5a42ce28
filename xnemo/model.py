"""X-NeMo: the parts in one module. Each part is its own file; nothing but the image token is computed here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.codec import build_codec
from xnemo.config import ImageEncoderConfig, ModelConfig
from xnemo.denoiser import Denoiser
from xnemo.motion_encoder import MotionEncoder
from xnemo.reference_net import ReferenceNet

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class XNeMo(nn.Module):
    """Motion encoder, reference net, denoiser, codec and (where configured) CLIP image encoder, freshly initialised.

    The motion and temporal modules change nothing until trained or loaded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.motion_encoder = MotionEncoder(config)
        self.reference_net = ReferenceNet(config.unet)
        self.denoiser = Denoiser(config)
        self.codec = build_codec(config.codec)
        self.image_encoder = image_encoder(config.image_encoder) if config.image_encoder else None

    def context(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in [-1, 1] -> the image token [B, 1, d]; zeros where there is no image encoder."""
        if self.config.image_encoder is None or self.image_encoder is None:
            return self.null_context(len(images))
        size = self.config.image_encoder.image_size
        small = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        mean, deviation = (small.new_tensor(c).view(3, 1, 1) for c in (CLIP_MEAN, CLIP_DEVIATION))
        pixels = ((small + 1) / 2 - mean) / deviation
        own = next(self.image_encoder.parameters()).dtype
        return self.image_encoder(pixels.to(own)).image_embeds[:, None].to(self._weight.dtype)

    def null_context(self, batch: int) -> Tensor:
        """The image token of the null reference, [batch, 1, d]: zeros (released code)."""
        return self._weight.new_zeros(batch, 1, self.config.unet.context_dim)

    @property
    def _weight(self) -> Tensor:
        return self.denoiser.conv_in.weight

    def unused(self) -> set[str]:
        """Names of parameters that never receive a gradient in any stage."""
        nets = {"reference_net": self.reference_net, "denoiser": self.denoiser}
        return {f"{prefix}.{name}" for prefix, net in nets.items() for name in net.unused()}


def image_encoder(config: ImageEncoderConfig) -> nn.Module:
    """The CLIP image tower with its projection; [B, 3, S, S] CLIP-normalised pixels -> `.image_embeds` [B, d]."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward,
            hidden_act=config.activation,
            projection_dim=config.projection_dim,
        )
    )


def seeded(config: ModelConfig, seed: int) -> XNeMo:
    """A fresh model whose weights are a function of the seed; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return XNeMo(config)
