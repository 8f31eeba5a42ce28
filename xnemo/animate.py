"""Sampling: from noise to the latents of an animated clip (paper section 4.1 and eq. 2; released sampling loop).

Everything random is handed in, so a run can be repeated exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.denoiser import Conditions, Denoiser
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo
from xnemo.schedule import Schedule
from xnemo.windows import OVERLAP, SIZE, Window, open_windows, released_windows

if TYPE_CHECKING:
    from xnemo.clip import Clip


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """ε_u + s(ε_c - ε_u). The paper's w (eq. 2) is s = 1 + w. Holds for v and sample predictions alike."""
    return uncond + scale * (cond - uncond)


@torch.no_grad()
def sample(
    model: XNeMo,
    reference_latents: Tensor,
    context: Tensor,
    motion: Tensor,
    null_motion: Tensor,
    *,
    steps: int,
    guidance_scale: float,
    noise: Tensor,
    initial: Literal["blurred_reference", "noise"] = "blurred_reference",
    windows: Literal["open", "released"] = "open",
    offsets: Sequence[int] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    window_size: int = SIZE,
    overlap: int = OVERLAP,
) -> Tensor:
    """Latents [1,C,F,h,w] of the clip in which the reference moves as `motion` says.

    reference_latents [1,C,h,w]; context [1,1,d]; motion [1,F,L,c]; null_motion [1,1,L,c], the reference's own
    tokens; noise [1,C,F,h,w]; offsets: the windows' shift at each step (None: no shift). on_step is called with
    the number of finished steps and the latents so far, and may raise to cancel. XNeMoError where inputs do not fit.
    """
    frames = noise.shape[2]
    _check(frames, motion, steps, offsets)
    schedule, cut = Schedule(model.config.schedule), {"open": open_windows, "released": released_windows}[windows]
    times = schedule.ddim_timesteps(steps)
    cond, uncond = prepare(model, reference_latents, context, motion, null_motion, guidance_scale)
    latents = initial_latents(schedule, reference_latents, noise, times[0], initial)
    for i, (t, t_prev) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        step_windows = cut(frames, offsets[i] if offsets else 0, window_size, overlap)
        prediction = predict(model.denoiser, latents, t, cond, uncond, guidance_scale, step_windows)
        latents = schedule.ddim_step(prediction, t, t_prev, latents)
        if on_step:
            on_step(i + 1, latents)
    return latents


def predict(
    denoiser: Denoiser,
    latents: Tensor,
    t: int,
    cond: Conditions,
    uncond: Conditions | None,
    scale: float,
    windows: Sequence[Window],
) -> Tensor:
    """The guided prediction for a whole clip [1,C,F,h,w]: the weighted average over the windows that see a frame."""
    dtype = denoiser.conv_in.weight.dtype
    total, weight = torch.zeros_like(latents), latents.new_zeros(latents.shape[2])
    for window in windows:
        ids, weights = window.frames.to(latents.device), window.weights.to(latents)
        part = latents[:, :, ids].to(dtype)
        prediction = denoiser.denoise(part, t, cond.frames(ids))
        if uncond is not None:
            prediction = guide(prediction, denoiser.denoise(part, t, uncond), scale)
        total[:, :, ids] += prediction.to(latents) * weights.view(-1, 1, 1)
        weight[ids] += weights
    return total / weight.view(-1, 1, 1)


def prepare(
    model: XNeMo, reference_latents: Tensor, context: Tensor, motion: Tensor | None, null_motion: Tensor, scale: float
) -> tuple[Conditions, Conditions | None]:
    """What the two guidance branches share over all steps and windows; no second branch at scale 1.

    The null branch knows neither the reference's tokens nor its image token, and moves as the reference does.
    """
    weight = model.denoiser.conv_in.weight
    reference = model.reference_net(reference_latents.to(weight), context.to(weight), null_motion[:, 0].to(weight))
    cond = model.denoiser.prepare(context.to(weight), None if motion is None else motion.to(weight), reference)
    if scale == 1:
        return cond, None
    return cond, model.denoiser.prepare(model.null_context(1), null_motion.to(weight))


def initial_latents(
    schedule: Schedule, reference_latents: Tensor, noise: Tensor, t: int, initial: str = "blurred_reference"
) -> Tensor:
    """The first latents [1,C,F,h,w], fp32: pure noise (paper) or the blurred reference noised to t (released code).

    At the first time step some of the image would still be seen in training; the blur supplies its low frequencies.
    """
    noise = noise.float()
    if initial == "noise":
        return noise
    return schedule.add_noise(blur(reference_latents.float())[:, :, None].expand_as(noise), noise, t)


def blur(latents: Tensor, size: int = 9, sigma: float = 18.0) -> Tensor:
    """Gaussian blur of [B,C,h,w] with reflected borders. Raises XNeMoError where the border exceeds the picture."""
    if min(latents.shape[-2:]) <= size // 2:
        raise XNeMoError(
            f"latents of {latents.shape[-2]} x {latents.shape[-1]} are too small for the blurred reference as a start: "
            f'give at least {size // 2 + 1} x {size // 2 + 1}, or initial="noise"'
        )
    kernel = torch.exp(-0.5 * ((torch.arange(size, device=latents.device) - size // 2) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(latents)
    planes = F.pad(latents, (size // 2,) * 4, mode="reflect").flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes.view_as(latents)


def _check(frames: int, motion: Tensor, steps: int, offsets: Sequence[int] | None) -> None:
    if frames < 1 or motion.shape[1] != frames:
        raise XNeMoError(f"noise has {frames} frames and motion {motion.shape[1]}: give both the clip's length")
    if offsets is not None and len(offsets) != steps:
        raise XNeMoError(f"offsets has {len(offsets)} entries for {steps} steps: give one per step")


class _CallableModule(ModuleType):
    """`xnemo.animate(model, portrait=..., driving=...)` is `xnemo.animation.animate`; the module stays one too."""

    def __call__(self, *args: Any, **options: Any) -> Clip:
        from xnemo.animation import animate

        return animate(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
