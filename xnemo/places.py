"""Tokens that know where in the picture they are; an option for shapes trained from nothing (`xnemo/fresh.py`)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def place_table(height: int, width: int, channels: int) -> Tensor:
    """[H W, C]: waves along x and y, from a quarter period over the picture to a third of a period per cell."""
    bands = channels // 4
    omega = torch.exp(torch.linspace(math.log(math.pi / 4), math.log(math.pi * height / 3), bands))
    down = (torch.arange(height) + 0.5) / height * 2 - 1
    across = (torch.arange(width) + 0.5) / width * 2 - 1
    y, x = torch.meshgrid(down, across, indexing="ij")
    y, x = y.flatten()[:, None] * omega, x.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
