"""Random numbers as a function of (seed, sample id, name): the same on any rank, batch size or device.

A shared generator hands out values by order of calls, so noise would change with the number of workers. Here
each value is a hash of its own address (a counter-based generator, SplitMix64): training resumes exactly and
keeps its noise when the world size changes.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


class Draw:
    """Named random tensors for one batch; every value depends on (seed, id, name) alone."""

    def __init__(self, seed: int, ids: Tensor) -> None:
        """`ids`: long [B], the global index of each sample. Tensors are made on the device of `ids`."""
        self.seed = seed
        self.ids = ids

    def uniform(self, name: str, *shape: int) -> Tensor:
        """fp32 [B,*shape] in [0, 1)."""
        bits = self._bits(name, math.prod(shape))
        return ((bits >> 40) & 0xFFFFFF).float().mul_(2.0**-24).view(len(self.ids), *shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal fp32 [B,*shape] (Box-Muller: two values from each 64-bit hash)."""
        count = math.prod(shape)
        bits = self._bits(name, (count + 1) // 2)
        radius = ((bits >> 40) & 0xFFFFFF).float().add_(1.0).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        angle = ((bits >> 8) & 0xFFFFFF).float().mul_(2.0 * math.pi * 2.0**-24)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs[:, :count].reshape(len(self.ids), *shape)

    def integers(self, name: str, low: int, high: int) -> Tensor:
        """long [B] in [low, high)."""
        return low + (self.uniform(name) * (high - low)).long().clamp_(max=high - low - 1)

    def _bits(self, name: str, count: int) -> Tensor:
        """int64 [B,count] of hashed bits."""
        key = int.from_bytes(
            hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest(), "little", signed=True
        )
        stream = _mix(_mix(self.ids.long()) ^ key)
        counter = torch.arange(1, count + 1, device=self.ids.device) * _GOLDEN
        return _mix(stream[:, None] + counter)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (multiplication wraps; shifts are made logical by a mask)."""
    z = z ^ ((z >> 30) & ((1 << 34) - 1))
    z = z * _MIX_1
    z = z ^ ((z >> 27) & ((1 << 37) - 1))
    z = z * _MIX_2
    return z ^ ((z >> 31) & ((1 << 33) - 1))
