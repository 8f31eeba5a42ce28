"""The noise schedule and the DDIM step (paper eq. 1; constants from the released configuration).

ᾱ comes from a scaled-linear β of 0.00085 → 0.02: the released networks were trained on it. Stable Diffusion
itself ends at 0.012; training with one and sampling with the other goes wrong without any error.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from xnemo.config import ScheduleConfig
from xnemo.errors import XNeMoError

Share = TypeVar("Share", float, Tensor)


def shifted(u: Share, shift: float) -> Share:
    """s·u / (1 + (s-1)·u) of shares u of the time steps: s = 1 leaves them, above 1 they are noisier."""
    return shift * u / (1 + (shift - 1) * u)


class Schedule:
    """ᾱ and everything computed from it. Time steps are in [0, train_steps): a tensor [B] or an int.

    Every method broadcasts a [B] time step over the trailing dimensions of its tensors and computes in their
    dtype, with the coefficients kept in fp32.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        low, high = config.beta_start**0.5, config.beta_end**0.5
        beta = torch.linspace(low, high, config.train_steps, dtype=torch.float64) ** 2
        self.alphas_cumprod: Tensor = torch.cumprod(1.0 - beta, dim=0).float()  # [train_steps]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """x_t = √ᾱ x0 + √(1-ᾱ) ε, both [B,...]."""
        signal, sigma = self._signal_sigma(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """What the network must predict: ε, v = √ᾱ ε - √(1-ᾱ) x0, or x0, by `config.prediction`."""
        if self.config.prediction == "epsilon":
            return noise
        if self.config.prediction == "sample":
            return x0
        signal, sigma = self._signal_sigma(t, x0)
        return signal * noise - sigma * x0

    def to_x0_eps(self, pred: Tensor, x_t: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """The clean sample and the noise that a prediction implies, both shaped like x_t."""
        signal, sigma = self._signal_sigma(t, x_t)
        if self.config.prediction == "epsilon":
            return (x_t - sigma * pred) / signal, pred
        if self.config.prediction == "sample":
            return pred, (x_t - signal * pred) / sigma
        return signal * x_t - sigma * pred, signal * pred + sigma * x_t

    def snr(self, t: Tensor | int) -> Tensor:
        """Signal-to-noise ratio ᾱ/(1-ᾱ), shaped like t."""
        alpha = self.alphas_cumprod.to(t.device if isinstance(t, Tensor) else "cpu")[t]
        return alpha / (1 - alpha)

    def min_snr_weight(self, t: Tensor | int, gamma: float) -> Tensor:
        """Loss weight of min-SNR-γ (arXiv 2303.09556) in the space of the prediction. γ ≤ 0 gives ones."""
        snr = self.snr(t)
        if gamma <= 0:
            return torch.ones_like(snr)
        in_sample_space = snr.clamp(max=gamma)
        if self.config.prediction == "epsilon":
            return in_sample_space / snr
        if self.config.prediction == "v":
            return in_sample_space / (snr + 1)
        return in_sample_space

    def ddim_timesteps(self, steps: int) -> list[int]:
        """The time steps of a run, noise to image ("leading" spacing plus the offset): 35 → 953, …, 1.

        With a `sampling_shift` s they are evenly spaced instead and then moved as training moves its own
        (`losses.shift_timesteps`): of s = 12, 3 → 999, 959, 856.
        """
        longest = self.config.train_steps - self.config.steps_offset
        if not 1 <= steps <= longest:
            raise XNeMoError(f"steps is {steps}: give a number of sampling steps between 1 and {longest}")
        if (shift := self.config.sampling_shift) > 1:
            even = [i / steps for i in range(steps, 0, -1)]
            return [int(shifted(u, shift) * longest) for u in even]
        stride = self.config.train_steps // steps
        return [i * stride + self.config.steps_offset for i in reversed(range(steps))]

    def ddim_step(self, pred: Tensor, t: int, t_prev: int, x_t: Tensor) -> Tensor:
        """One deterministic step (η = 0) from t to t_prev; a negative t_prev is the clean image (ᾱ = 1)."""
        x0, eps = self.to_x0_eps(pred, x_t, t)
        return x0 if t_prev < 0 else self.add_noise(x0, eps, t_prev)

    def _signal_sigma(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1-ᾱ) at t, shaped to broadcast against `like`."""
        alpha = self.alphas_cumprod.to(like.device)[t]
        if alpha.ndim:
            alpha = alpha.view(-1, *[1] * (like.ndim - 1))
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)
