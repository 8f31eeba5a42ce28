"""Motion tokenizer: a 1-D convolutional VQ-VAE over sequences of f_mot, one code per four frames.

Paper: appendix D (4096 codes of 8 dimensions, windows of 128 frames → 32 tokens). The convolution plan, the
velocity and commitment terms are T2M-GPT's; l2-normalised codes are ViT-VQGAN practice (8-d codes collapse
otherwise). Shapes: B batch, T frames (a multiple of the factor), D features, N = T / factor · groups tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from xnemo.config import Strict
from xnemo.errors import XNeMoError

Reduce = Callable[[Tensor], Tensor]  # sums a tensor over all data-parallel ranks


class TokenizerConfig(Strict):
    """Shape and loss weights of the tokenizer."""

    features: int = 512  # D, the width of f_mot
    codes: int = 4096
    code_dim: int = 8
    groups: int = 1  # codes per time step; > 1 is product quantisation with one shared codebook
    width: int = 512
    halvings: int = 2  # the temporal factor is 2 ** halvings
    dilations: tuple[int, ...] = (9, 3, 1)
    window: int = 128  # training frames
    velocity: float = 0.5
    commit: float = 0.02
    decay: float = 0.99  # of the codebook's moving averages
    dead: float = 0.1  # a code is dead below this share of the mean count V / K

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.window % self.factor:
            raise ValueError(f"window ({self.window}) must be a multiple of 2 ** halvings ({self.factor})")
        return self

    @property
    def factor(self) -> int:
        """Frames per time step of the code sequence."""
        return 2**self.halvings

    @classmethod
    def paper(cls) -> Self:
        """The published sizes (≈ 19 M parameters)."""
        return cls()

    @classmethod
    def small(cls, features: int = 64) -> Self:
        """Trains in seconds on two CPU cores."""
        return cls(features=features, codes=64, code_dim=4, groups=4, width=96, dilations=(3, 1), window=32, decay=0.97)


class MotionTokenizer(nn.Module):
    """f_mot [B,T,D] ↔ code ids [B,N]. Features are z-scored inside: callers see raw f_mot only."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.belongs_to = ""  # digest of the model whose f_mot it was trained on
        self.digest = ""  # of its own weights as last saved or loaded
        latent = config.code_dim * config.groups
        self.encoder = _encoder(config, latent)
        self.decoder = _decoder(config, latent)
        self.codebook = Codebook(config)
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("std", torch.ones(config.features))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Per-feature mean and standard deviation [D] of the training set; constant features get a floor."""
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            raise XNeMoError(
                f"feature statistics must be of width {self.config.features}, "
                f"not {tuple(mean.shape)}: train the tokenizer for this motion encoder"
            )
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(max(float(std.mean()) * 1e-3, 1e-6)))

    def encode(self, f_mot: Tensor) -> Tensor:
        """f_mot [B,T,D] → ids [B,N] long, time-major (the groups of one time step are neighbours)."""
        z = self._latents(self._normalised(f_mot))
        return self.codebook.nearest(z).flatten(1)

    def decode(self, ids: Tensor) -> Tensor:
        """ids [B,N] → f_mot [B,T,D]."""
        groups = self.config.groups
        if ids.ndim != 2 or ids.shape[1] % groups:
            raise XNeMoError(f"ids must be [B,N] with N a multiple of {groups}, not {tuple(ids.shape)}")
        codes = self.codebook.vectors[ids.unflatten(1, (-1, groups))]
        return self._raw(self._features(codes))

    def losses(self, f_mot: Tensor, reduce: Reduce | None = None) -> dict[str, Tensor]:
        """f_mot [B,T,D] → {"loss", its terms, "nrmse", "perplexity", "usage"}; in training the codebook moves.

        `reduce` sums over data-parallel ranks (default: torch.distributed where it is initialised).
        """
        x = self._normalised(f_mot)
        z = self._latents(x)
        ids = self.codebook.nearest(z.detach())
        codes = self.codebook.vectors[ids].clone()
        decoded = self._features(z + (codes - z).detach())  # straight-through
        terms = {
            "reconstruction": F.smooth_l1_loss(decoded, x),
            "velocity": F.smooth_l1_loss(decoded.diff(dim=1), x.diff(dim=1)),
            "commit": (z - codes).square().mean(),
        }
        loss = terms["reconstruction"] + self.config.velocity * terms["velocity"] + self.config.commit * terms["commit"]
        if self.training:
            self.codebook.update(z.detach(), ids, reduce or sum_over_ranks)
        with torch.no_grad():
            nrmse = (decoded - x).square().mean().sqrt()
            report = code_report(ids, self.config.codes)
        return {"loss": loss, **terms, "nrmse": nrmse, **report}

    def receptive_steps(self) -> int:
        """Code steps on either side that a decoded frame depends on: the overlap that makes chunks exact."""
        frames, rate = 3.0, self.config.factor  # two full-rate k3 convolutions, and one for rounding up
        frames += rate  # first k3 convolution, at the rate of the codes
        for _ in range(self.config.halvings):
            frames += rate * sum(self.config.dilations)
            rate //= 2
            frames += rate  # the k3 convolution after each doubling
        return -int(-frames // self.config.factor)

    def _normalised(self, f_mot: Tensor) -> Tensor:
        width, factor = self.config.features, self.config.factor
        if f_mot.ndim != 3 or f_mot.shape[2] != width:
            raise XNeMoError(
                f"f_mot must be [B,T,{width}] for this tokenizer, not {tuple(f_mot.shape)}: "
                "use the tokenizer trained with the same motion encoder"
            )
        if f_mot.shape[1] < factor or f_mot.shape[1] % factor:
            raise XNeMoError(
                f"a motion of {f_mot.shape[1]} frames cannot be tokenized: "
                f"give a multiple of {factor}, at least {factor}"
            )
        return (f_mot - self.mean) / self.std

    def _raw(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean

    def _latents(self, x: Tensor) -> Tensor:
        """[B,T,D] → unit vectors [B,T/factor,G,d]."""
        z = self.encoder(x.transpose(1, 2)).transpose(1, 2)
        return F.normalize(z.unflatten(2, (self.config.groups, self.config.code_dim)), dim=-1)

    def _features(self, z: Tensor) -> Tensor:
        return self.decoder(z.flatten(2).transpose(1, 2)).transpose(1, 2)


class Codebook(nn.Module):
    """K unit vectors moved by exponential averages of what they are assigned; dead ones are re-seeded.

    T2M-GPT resets below a count of 1, calibrated for 512 codes. Here the threshold follows the mean count V / K
    (V vectors per global batch), so it means the same for any codebook and batch.
    """

    vectors: Tensor
    count: Tensor
    total: Tensor
    updates: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.decay, self.dead = config.decay, config.dead
        start = F.normalize(torch.randn(config.codes, config.code_dim), dim=-1)
        self.register_buffer("vectors", start)
        self.register_buffer("count", torch.zeros(config.codes))
        self.register_buffer("total", torch.zeros_like(start))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def nearest(self, z: Tensor) -> Tensor:
        """Unit vectors [...,d] → ids [...] of the closest codes."""
        return (z @ self.vectors.T).argmax(dim=-1)

    @torch.no_grad()
    def update(self, z: Tensor, ids: Tensor, reduce: Reduce) -> None:
        """One moving-average step from this rank's vectors z [...,d] and their ids [...]; equal on all ranks."""
        z, ids = z.reshape(-1, z.shape[-1]).float(), ids.reshape(-1)
        count = torch.zeros_like(self.count).index_add_(0, ids, torch.ones_like(z[:, 0]))
        total = torch.zeros_like(self.total).index_add_(0, ids, z)
        packed = reduce(torch.cat([total, count[:, None], self._candidates(z)], dim=1))
        d = total.shape[1]
        total, count, candidates = packed[:, :d], packed[:, d], F.normalize(packed[:, d + 1 :], dim=-1)
        mean_count = count.sum() / len(count)
        if self.updates > 0:  # the first batch finds all codes dead, and so seeds them with its own vectors
            self.count.lerp_(count, 1 - self.decay)
            self.total.lerp_(total, 1 - self.decay)
        self._revive(candidates, self.dead * mean_count)
        self.vectors.copy_(F.normalize(self.total, dim=-1))
        self.updates += 1

    def _revive(self, candidates: Tensor, threshold: Tensor) -> None:
        dead = self.count < threshold
        # Twice the threshold: time to be chosen, little weight against what it will be assigned.
        self.count.copy_(torch.where(dead, 2 * threshold, self.count))
        self.total.copy_(torch.where(dead[:, None], 2 * threshold * candidates, self.total))

    def _candidates(self, z: Tensor) -> Tensor:
        """A vector of the batch for each code [K,d]: rank r fills every world-th row, so that sums agree.

        A fixed generator per update keeps a resumed run on the same path.
        """
        rank, world = _rank_and_world()
        generator = torch.Generator().manual_seed(int(self.updates) * world + rank)
        codes, d = self.vectors.shape
        picks = torch.randint(len(z), (codes,), generator=generator).to(z.device)
        jitter = 0.02 * torch.randn(codes, d, generator=generator).to(z.device)
        mine = (torch.arange(codes, device=z.device) % world == rank)[:, None]
        return torch.where(mine, z[picks] + jitter, torch.zeros_like(jitter))


def code_report(ids: Tensor, codes: int) -> dict[str, Tensor]:
    """How well the codebook is used by `ids`: perplexity in [1, codes] and the share of codes seen at all."""
    share = torch.bincount(ids.reshape(-1), minlength=codes).float() / max(ids.numel(), 1)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"perplexity": entropy.exp(), "usage": (share > 0).float().mean()}


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum over the default process group; the tensor itself where there is none."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _Residual(nn.Module):
    """ReLU, dilated k3, ReLU, 1×1, added to the input."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.spread = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(self.spread(F.relu(x))))


def _stack(config: TokenizerConfig) -> list[nn.Module]:
    return [_Residual(config.width, dilation) for dilation in config.dilations]


def _encoder(config: TokenizerConfig, latent: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv1d(config.features, config.width, 3, padding=1), nn.ReLU()]
    for _ in range(config.halvings):
        layers += [nn.Conv1d(config.width, config.width, 4, stride=2, padding=1), *_stack(config)]
    return nn.Sequential(*layers, nn.Conv1d(config.width, latent, 3, padding=1))


def _decoder(config: TokenizerConfig, latent: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv1d(latent, config.width, 3, padding=1), nn.ReLU()]
    for _ in range(config.halvings):
        layers += [*_stack(config), nn.Upsample(scale_factor=2), nn.Conv1d(config.width, config.width, 3, padding=1)]
    layers += [nn.Conv1d(config.width, config.width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(config.width, config.features, 3, padding=1))
