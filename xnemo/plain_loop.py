"""Training a stage without any platform: the whole loop, for one process and one device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from xnemo.batch import ClipBatch, PairBatch
from xnemo.draw import Draw
from xnemo.ema import Ema
from xnemo.stages import Stage


def train(
    stage: Stage,
    batches: Iterable[PairBatch | ClipBatch],
    *,
    steps: int,
    lr: float,
    seed: int = 0,
    ema: float = 0.9999,
    clip: float = 1.0,
    device: str = "cpu",
    on_step: Callable[[int, dict[str, Tensor]], Any] | None = None,
) -> None:
    """Run `steps` optimizer steps over `batches` and leave the averaged weights in the model.

    AdamW with the rate of `learning_rate`. The discriminator follows each generator step.
    """
    stage.to(device)
    optimizer = torch.optim.AdamW(parameter_groups(stage, lr))
    params = stage.trained
    average = Ema(params, ema)
    critic = None
    if stage.discriminator is not None:
        critic = torch.optim.Adam(
            stage.discriminator.parameters(), lr=stage.config.gan.discriminator_lr, betas=stage.config.gan.betas
        )
    for step, batch in zip(range(steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, lr) * group["lr_scale"]
        losses = stage.losses(batch.to(device), Draw(seed, batch.ids.to(device)))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(params, clip)
        optimizer.step()
        average.update()
        if critic is not None and (critic_losses := stage.discriminator_losses()) is not None:
            critic.zero_grad(set_to_none=True)
            critic_losses["loss"].backward()
            critic.step()
        if on_step is not None:
            on_step(step, losses)
    average.apply()


def parameter_groups(stage: Stage, lr: float) -> list[dict[str, Any]]:
    """`Stage.groups` as AdamW takes them: decay on matrices only, each group at its own multiple of the rate."""
    split = []
    for group in stage.groups():
        for decay, chosen in (
            (0.01, [p for p in group["params"] if p.ndim > 1]),
            (0.0, [p for p in group["params"] if p.ndim <= 1]),
        ):
            if chosen:
                split.append({**group, "params": chosen, "weight_decay": decay, "lr": lr * group["lr_scale"]})
    return split


def learning_rate(step: int, steps: int, peak: float, warmup: int = 20, floor: float = 0.1) -> float:
    """Linear warm-up, then a cosine to `floor` of the peak."""
    rise = min(1.0, (step + 1) / warmup)
    fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    return peak * rise * fall
