"""Exponential moving average of the trained weights, kept in fp32 (decay 0.9999 for full-size runs)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xnemo.errors import XNeMoError


class Ema:
    """Shadow copies of parameters. The decay warms up as (1+n)/(10+n), so that early weights are forgotten."""

    def __init__(self, params: Iterable[nn.Parameter], decay: float) -> None:
        self.params = list(params)
        self.decay = decay
        self.updates = 0
        self.shadow = [p.detach().float().clone() for p in self.params]

    @torch.no_grad()
    def update(self) -> None:
        """Call once after every optimizer step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.detach().float() for p in self.params], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        shadow = {f"shadow.{i}": tensor for i, tensor in enumerate(self.shadow)}
        return {"updates": torch.tensor(self.updates), **shadow}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises XNeMoError when the state was taken from other parameters."""
        shapes = [
            tuple(state[f"shadow.{i}"].shape) if f"shadow.{i}" in state else None for i in range(len(self.shadow))
        ]
        if len(state) != len(self.shadow) + 1 or shapes != [tuple(s.shape) for s in self.shadow]:
            raise XNeMoError(
                "the moving average was saved for other parameters: resume with the same stage and model configuration"
            )
        self.updates = int(state["updates"])
        for i, tensor in enumerate(self.shadow):
            tensor.copy_(state[f"shadow.{i}"])

    def apply(self) -> None:
        """Leave the averages in the parameters: the end of a training."""
        self._write(self.shadow)

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Inside the block the parameters hold their averages (for validation and export)."""
        trained = [p.detach().clone() for p in self.params]
        self._write(self.shadow)
        try:
            yield
        finally:
            self._write(trained)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for param, value in zip(self.params, values, strict=True):
            param.copy_(value)
