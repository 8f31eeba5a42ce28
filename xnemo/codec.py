"""Images to latents and back: what the diffusion runs on.

"svd" is the temporal-decoder VAE of the release, "sd" the image VAE (their encoders are identical),
"patches" a linear codec for the small shape, fitted in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xnemo.config import CodecConfig
from xnemo.errors import XNeMoError


class Codec(nn.Module):
    """Images [B,3,H,W] in [-1,1] ⇄ latents [B,C,H/factor,W/factor] of about unit standard deviation."""

    chunk = 64  # images per call of the network: bounds memory, not the result
    overlap = 0  # frames that neighbouring chunks of a clip share, where the decoder looks along time

    def encode(self, images: Tensor) -> Tensor:
        """The latents (of a VAE: the posterior mean)."""
        return torch.cat([self._encode(part) for part in images.split(self.chunk)])

    def decode(self, latents: Tensor) -> Tensor:
        """The images of independent latents."""
        return torch.cat([self._decode(part, frames=1) for part in latents.split(self.chunk)])

    def decode_clip(self, latents: Tensor) -> Iterator[Tensor]:
        """The frames of one clip, latents [F,C,h,w], in order as [n,3,H,W] pieces that bound the memory.

        A temporal decoder's chunks overlap and are cross-faded, so no seam shows where they meet.
        """
        held = latents.new_zeros(0)  # decoded frames the next chunk will be faded into
        stride, n = self.chunk - self.overlap, len(latents)
        for start in range(0, max(n - self.overlap, 1), stride):
            part = latents[start : start + self.chunk]
            frames = self._decode(part, frames=len(part))
            if len(held):
                fade = torch.arange(1, len(held) + 1, device=frames.device) / (len(held) + 1)
                fade = fade.to(frames.dtype).view(-1, 1, 1, 1)
                frames = torch.cat([held.lerp(frames[: len(held)], fade), frames[len(held) :]])
            final = start + self.chunk >= n
            ready = frames if final else frames[:stride]
            held = frames[len(ready) :]
            yield ready

    def _encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode(self, latents: Tensor, frames: int) -> Tensor:
        raise NotImplementedError


class VaeCodec(Codec):
    """The diffusers VAE under `.vae`: "svd" decodes neighbouring frames together, "sd" each image alone."""

    chunk = 8  # decoding 25 frames of 512 px at once needs some 12 GB

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

        self.config, levels = config, len(config.widths)
        shape = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "block_out_channels": config.widths,
            "layers_per_block": config.layers_per_block,
            "latent_channels": config.channels,
            "scaling_factor": config.scaling,
        }
        self.temporal = config.kind == "svd"
        if self.temporal:
            self.overlap = 2
            self.vae = AutoencoderKLTemporalDecoder(**shape)
        else:
            self.vae = AutoencoderKL(up_block_types=("UpDecoderBlock2D",) * levels, **shape)

    def _encode(self, images: Tensor) -> Tensor:
        return self.vae.encode(images.to(self.vae.dtype)).latent_dist.mean * self.config.scaling

    def _decode(self, latents: Tensor, frames: int) -> Tensor:
        latents = latents.to(self.vae.dtype) / self.config.scaling
        options = {"num_frames": frames} if self.temporal else {}
        return self.vae.decode(latents, **options).sample


class PatchCodec(Codec):
    """The leading principal components of factor × factor RGB patches, brought to unit deviation.

    With channels = 3·factor² nothing is lost, and the codec works before `fit` too (as unshuffled pixels).
    """

    mean: Tensor  # [P], P = 3·factor²
    basis: Tensor  # [C,P], orthonormal rows
    deviation: Tensor  # [C]

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.factor = config.factor
        pixels = 3 * config.factor**2
        if config.channels > pixels:
            raise XNeMoError(f"codec.channels is {config.channels}: at codec.factor {config.factor} a patch "
                             f"has {pixels} values, so give at most that many")
        lossless = config.channels == pixels
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.eye(pixels) if lossless else torch.zeros(config.channels, pixels))
        self.register_buffer("deviation", torch.full((config.channels,), 0.5))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the map from images [N,3,H,W] in [-1,1]; a few hundred images are enough."""
        patches = F.pixel_unshuffle(images.double(), self.factor).movedim(1, -1).flatten(0, -2)  # [n,P]
        mean = patches.mean(0)
        centred = patches - mean
        energy, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
        basis = vectors.flip(1).T[: len(self.basis)]
        sign = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()  # else arbitrary
        self.mean.copy_(mean)
        self.basis.copy_(basis * sign)
        # A component without energy in the fitting images must not blow up rounding errors.
        self.deviation.copy_(energy.flip(0)[: len(self.basis)].clamp(min=1e-6).sqrt())

    def _encode(self, images: Tensor) -> Tensor:
        if not self.basis.any():
            raise XNeMoError("the patch codec is not fitted: call codec.fit(images) or load trained weights")
        patches = F.pixel_unshuffle(images.to(self.basis.dtype), self.factor).movedim(1, -1)  # [B,h,w,P]
        return ((patches - self.mean) @ self.basis.T / self.deviation).movedim(-1, 1)

    def _decode(self, latents: Tensor, frames: int) -> Tensor:
        patches = (latents.movedim(1, -1) * self.deviation) @ self.basis + self.mean
        return F.pixel_shuffle(patches.movedim(-1, 1), self.factor)


def build_codec(config: CodecConfig) -> Codec:
    """The codec that `config.kind` names, with fresh weights."""
    return PatchCodec(config) if config.kind == "patches" else VaeCodec(config)
