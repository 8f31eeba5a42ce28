"""The ablation "w/o cross-attention" (paper section 4.3): motion as a picture that is added, instead of tokens to read.

An upsampling decoder turns the numbers of a frame's motion tokens into a map of the latents' size, which is added after
the denoiser's first convolution, as a pose or depth map would be. It begins at zero, as motion modules do.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.attention import KeysValues

NAME = "motion_map"


class MotionMap(nn.Module):
    """Motion tokens of `numbers` values in all -> maps [channels, size, size], doubling from four pixels."""

    def __init__(self, numbers: int, size: int, channels: int) -> None:
        super().__init__()
        start, doublings = size, 0
        while start > 4 and start % 2 == 0:
            start, doublings = start // 2, doublings + 1
        self.start = (channels, start, start)
        self.first = nn.Linear(numbers, channels * start * start)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(doublings + 1))
        self.last = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, motion: Tensor) -> Tensor:
        """motion [N, numbers] -> [N, channels, size, size]."""
        x = self.first(motion).unflatten(1, self.start)
        for i, conv in enumerate(self.convs):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) if i else x
            x = F.leaky_relu(conv(x), 0.2)
        return self.last(x)

    def keys_values(self, motion: Tensor) -> list[KeysValues]:
        """motion [B, F, L, c] -> one pair of equal maps [B, F, size², channels]: what motion modules answer, pixels in
        the place of tokens, so that a clip's windows are cut the same way."""
        maps = self(motion.flatten(0, 1).flatten(1)).flatten(2).transpose(1, 2).unflatten(0, motion.shape[:2])
        return [(maps, maps)]
