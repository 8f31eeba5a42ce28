"""Images to latents and back: what the diffusion runs on.

"svd" is the temporal-decoder VAE of the release, "sd" the image VAE (their encoders are identical),
"patches" a linear codec for the small shape, fitted in closed form, and "conv" the same with convolutions around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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

    def decode_clip(self, latents: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
        """The frames of one clip, latents [F,C,h,w] at once or in pieces, in order as [n,3,H,W] of bounded size.

        A temporal decoder's chunks overlap and are cross-faded, so no seam shows where they meet. How the latents
        are cut into pieces changes nothing.
        """
        held: Tensor | None = None  # decoded frames the next chunk will be faded into
        stride = self.chunk - self.overlap
        for part, final in self._chunks([latents] if isinstance(latents, Tensor) else latents):
            frames = self._decode(part, frames=len(part))
            if held is not None and len(held):
                fade = torch.arange(1, len(held) + 1, device=frames.device) / (len(held) + 1)
                fade = fade.to(frames.dtype).view(-1, 1, 1, 1)
                frames = torch.cat([held.lerp(frames[: len(held)], fade), frames[len(held) :]])
            ready = frames if final else frames[:stride]
            held = frames[len(ready) :]
            yield ready

    def _chunks(self, pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
        """(chunk of latents, whether it is the last); neighbours share `overlap` frames."""
        waiting: Tensor | None = None
        for piece in pieces:
            waiting = piece if waiting is None else torch.cat([waiting, piece])
            while len(waiting) > self.chunk:
                yield waiting[: self.chunk], False
                waiting = waiting[self.chunk - self.overlap :]
        if waiting is not None:
            yield waiting, True

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
        self.factor, self.whitening = config.factor, config.whitening
        pixels = 3 * config.factor**2
        if config.channels > pixels:
            raise XNeMoError(
                f"codec.channels is {config.channels}: at codec.factor {config.factor} a patch "
                f"has {pixels} values, so give at most that many"
            )
        lossless = config.channels == pixels
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.eye(pixels) if lossless else torch.zeros(config.channels, pixels))
        self.register_buffer("deviation", torch.full((config.channels,), 0.5))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the map from images [N,3,H,W] in [-1,1]; a few hundred images are enough."""
        total = torch.zeros_like(self.mean).double()
        count, products = 0, torch.outer(total, total)
        for part in images.split(256):
            patches = F.pixel_unshuffle(part.double(), self.factor).movedim(1, -1).flatten(0, -2)  # [n,P]
            count, total, products = count + len(patches), total + patches.sum(0), products + patches.T @ patches
        mean = total / count
        energy, vectors = torch.linalg.eigh(products / count - mean.outer(mean))  # ascending
        basis = vectors.flip(1).T[: len(self.basis)]
        sign = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()  # else arbitrary
        self.mean.copy_(mean)
        self.basis.copy_(basis * sign)
        # A component without energy in the fitting images must not blow up rounding errors.
        deviation = energy.flip(0)[: len(self.basis)].clamp(min=1e-6).sqrt()
        overall = deviation.square().mean().sqrt()
        self.deviation.copy_(deviation**self.whitening * overall ** (1 - self.whitening))

    def _encode(self, images: Tensor) -> Tensor:
        if not self.basis.any():
            raise XNeMoError("the patch codec is not fitted: call codec.fit(images) or load trained weights")
        patches = F.pixel_unshuffle(images.to(self.basis.dtype), self.factor).movedim(1, -1)  # [B,h,w,P]
        return ((patches - self.mean) @ self.basis.T / self.deviation).movedim(-1, 1)

    def _decode(self, latents: Tensor, frames: int) -> Tensor:
        latents = latents.to(self.basis.dtype).movedim(1, -1)
        patches = (latents * self.deviation) @ self.basis + self.mean
        return F.pixel_shuffle(patches.movedim(-1, 1), self.factor)


class ConvCodec(PatchCodec):
    """The patch codec with a small convolutional network added on either side, which learns what lines cannot say.

    It starts as the linear codec (the networks' last layers are zero), so a minute of training only improves on it.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        if 2 ** len(config.widths) != config.factor:
            raise XNeMoError(
                f"codec.widths has {len(config.widths)} entries: give one per halving, "
                f"{config.factor.bit_length() - 1} for codec.factor {config.factor}"
            )
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        below = 3
        for width in config.widths:
            down += [nn.PixelUnshuffle(2), nn.Conv2d(4 * below, width, 3, padding=1), Residual(width)]
            up = [Residual(width), nn.Conv2d(width, 4 * below, 3, padding=1), nn.PixelShuffle(2), *up]
            below = width
        self.down = (
            None if config.linear_encoder else nn.Sequential(*down, nn.Conv2d(below, config.channels, 3, padding=1))
        )
        self.up = nn.Sequential(nn.Conv2d(config.channels, below, 3, padding=1), *up)
        for last in [self.up[-2], *([self.down[-1]] if self.down else [])]:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def fit(self, images: Tensor, steps: int = 800, batch: int = 16, lr: float = 2e-3, seed: int = 0) -> None:
        """The closed form, then `steps` of training on images [N,3,H,W]: about a minute for 64 px on one core."""
        super().fit(images)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, betas=(0.9, 0.99))
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, (i + 1) / 20, 1.02 - i / steps))
        size = images.shape[-1] // self.factor
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch,), generator=generator)
            noise = torch.randn(batch, len(self.basis), size, size, generator=generator)
            with torch.enable_grad():
                losses = codec_step(self, images[chosen].to(self.basis), noise.to(self.basis))
                optimizer.zero_grad()
                losses["loss"].backward()
            optimizer.step()
            decay.step()
        optimizer.zero_grad()

    def _encode(self, images: Tensor) -> Tensor:
        linear = super()._encode(images)
        return linear if self.down is None else linear + self.down(images.to(self.basis.dtype))

    def _decode(self, latents: Tensor, frames: int) -> Tensor:
        return super()._decode(latents, frames) + self.up(latents.to(self.basis.dtype))


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm x)))), [B,C,H,W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


def picture_error(pictures: Tensor, truth: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean absolute error of pictures [B,3,H,W], and of their horizontal and vertical differences: the latter keep
    edges, which at small sizes carry the expression. Pixels count as `weight` [B,1,H,W] says."""
    error = (pictures - truth) * weight
    return error.abs().mean(), error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def codec_step(codec: Codec, images: Tensor, noise: Tensor, spread: float = 0.1) -> dict[str, Tensor]:
    """Losses of one training step; images [B,3,H,W] in [-1,1], noise N(0,1) shaped like their latents.

    The posterior has the fixed deviation `spread`, so that its KL term is the latents' energy.
    """
    latents = codec.encode(images)
    pixels, edges = picture_error(codec.decode(latents + spread * noise), images)
    energy = latents.square().mean() / 2
    return {"loss": pixels + 0.5 * edges + 1e-3 * energy, "pixels": pixels, "edges": edges, "energy": energy}


def build_codec(config: CodecConfig) -> Codec:
    """The codec that `config.kind` names, with fresh weights."""
    kinds = {"svd": VaeCodec, "sd": VaeCodec, "conv": ConvCodec, "patches": PatchCodec}
    return kinds[config.kind](config)
