"""Denoising as a stream: a clip of any length in bounded memory, finished frames first.

The windows of `xnemo.windows` are not taken step by step through the whole clip but along a slanted front
(`windows.order`): as soon as a stretch has had all its steps it is handed out and forgotten. What is computed for each
frame is what `xnemo.animate.sample` computes. At most about `steps` windows are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from xnemo.animate import guide, initial_latents, prepare
from xnemo.denoiser import Conditions
from xnemo.encode import Reference
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo
from xnemo.schedule import Schedule
from xnemo.solvers import SchedulerName, Solver, solver
from xnemo.windows import OVERLAP, SIZE, open_windows, order

OnStep = Callable[[int, int, Tensor], None]
"""Called with (window, step, the latents of the window's own stretch [1,C,n,h,w]) after each; may raise to cancel."""


@dataclass(eq=False)
class Stretch:
    """The frames from one window's first to the next window's first, all with the same number of steps behind them."""

    latents: Tensor  # [1,C,n,h,w], fp32
    motion: Tensor  # [1,n,L,c]
    cond: Conditions
    uncond: Conditions | None
    total: Tensor  # weighted predictions of the step under way
    weight: Tensor  # [n]
    solver: Solver

    def begin(self) -> None:
        self.total, self.weight = torch.zeros_like(self.latents), self.latents.new_zeros(self.latents.shape[2])


class Stream:
    """Denoises one clip; iterate over it for finished latents [1,C,n,h,w], in order.

    who(first): what the portrait contributes to the stretch that begins with this frame; asked for in order, the same
    object as long as it is the same portrait. motion(start, end): the tokens [1,n,L,c] of these frames. `state` after
    any stretch, given to `go_on` of a new stream, continues to the bit.
    """

    def __init__(
        self,
        model: XNeMo,
        who: Callable[[int], Reference],
        motion: Callable[[int, int], Tensor],
        frames: int,
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
        scheduler: SchedulerName = "ddim",
        initial: Literal["blurred_reference", "noise"] = "blurred_reference",
        window_size: int = SIZE,
        overlap: int = OVERLAP,
        on_step: OnStep | None = None,
    ) -> None:
        self.model, self.who, self.motion, self.scale = model, who, motion, guidance_scale
        self.solver, self.initial, self.on_step = solver(model.config.schedule, scheduler, steps), initial, on_step
        self.schedule, self.steps = Schedule(model.config.schedule), len(self.solver.times)
        self.windows = open_windows(frames, 0, window_size, overlap)
        self.bounds = list(pairwise([*(int(w.frames[0]) for w in self.windows), frames]))
        self.generator = torch.Generator().manual_seed(seed)
        self.shared = self._draw(1) if model.config.shared_noise else None
        self.done, self.first, self.entered = [0] * len(self.windows), 0, 0
        self.stretches: dict[int, Stretch] = {}
        self._prepared: tuple[Reference, Conditions, Conditions | None] | None = None

    @torch.no_grad()
    def _conditions(self, who: Reference) -> tuple[Conditions, Conditions | None]:
        """The two branches' conditions but for the motion; made once for all stretches with the same portrait."""
        if self._prepared is None or self._prepared[0] is not who:
            cond, uncond = prepare(self.model, who.latents, who.context, None, who.null_motion, self.scale)
            self._prepared = who, cond, uncond
        return self._prepared[1:]

    @property
    def calls(self) -> int:
        """How many times a window goes through the network in all."""
        return self.steps * len(self.windows)

    @torch.no_grad()
    def __iter__(self) -> Iterator[Tensor]:
        for k, i in order(self.windows, self.steps, self.done, self.first):
            self._predict(k, i)
            self.done[k] = i + 1
            stretch = self.stretches[k]
            self._advance(stretch, i)
            if self.on_step:
                self.on_step(k, i, stretch.latents)
            if self.done[k] == self.steps:
                self.first = k + 1
                yield self.stretches.pop(k).latents

    def _predict(self, k: int, i: int) -> None:
        """Add window k's guided prediction at step i to the stretches it covers."""
        window, parts, stretch = self.windows[k], self._covered(k), self.stretches[k]
        latents = torch.cat([self.stretches[j].latents[:, :, :n] for j, n in parts], dim=2)
        motion = torch.cat([self.stretches[j].motion[:, :n] for j, n in parts], dim=1)
        t, dtype = self.solver.times[i], self.model.denoiser.conv_in.weight.dtype
        x = latents.to(dtype)
        # The motion's keys are made anew at each step: its tokens are so small that this costs little, and keeping the
        # keys of a whole clip would take gigabytes.
        moving = self.model.denoiser.steer(stretch.cond, motion.to(dtype))
        prediction = self.model.denoiser.denoise(x, t, moving)
        if stretch.uncond is not None:
            prediction = guide(prediction, self.model.denoiser.denoise(x, t, stretch.uncond), self.scale)
        weights, at = window.weights.to(latents), 0
        for j, n in parts:
            here = weights[at : at + n]
            self.stretches[j].total[:, :, :n] += prediction[:, :, at : at + n].to(latents) * here.view(-1, 1, 1)
            self.stretches[j].weight[:n] += here
            at += n

    def _advance(self, stretch: Stretch, i: int) -> None:
        mean = stretch.total / stretch.weight.view(-1, 1, 1)
        stretch.latents = stretch.solver.step(mean, i, stretch.latents)
        stretch.begin()

    def _covered(self, k: int) -> list[tuple[int, int]]:
        """(stretch, how many of its frames) under window k; stretches are begun when first needed, in order."""
        end, parts = int(self.windows[k].frames[-1]) + 1, []
        for j in range(k, len(self.windows)):
            start, stop = self.bounds[j]
            if start >= end:
                break
            while self.entered <= j:
                self._enter(self.entered)
            parts.append((j, min(stop, end) - start))
        return parts

    def _enter(self, k: int) -> None:
        start, end = self.bounds[k]
        noise = self._draw(end - start) if self.shared is None else self.shared.expand(-1, -1, end - start, -1, -1)
        who = self.who(start)
        latents = initial_latents(self.schedule, who.latents, noise.to(who.latents), self.solver.times[0], self.initial)
        self.stretches[k] = self._stretch(k, latents, who)
        self.entered = k + 1

    def _stretch(self, k: int, latents: Tensor, who: Reference) -> Stretch:
        empty = latents.new_zeros(0)
        stretch = Stretch(
            latents, self.motion(*self.bounds[k]), *self._conditions(who), empty, empty, self.solver.fresh()
        )
        stretch.begin()
        return stretch

    def _draw(self, frames: int) -> Tensor:
        """Noise [1,C,n,h,w], frame by frame: the stream's noise is `xnemo.encode.noise`, cut into pieces."""
        side, channels = self.model.config.latent_size, self.model.config.codec.channels
        drawn = torch.randn(frames, channels, side, side, generator=self.generator)
        return drawn.transpose(0, 1)[None].to(self.model.denoiser.conv_in.weight)

    def state(self) -> dict[str, Tensor]:
        """Everything a new stream needs to go on from here, on the CPU."""
        tensors = {"generator": self.generator.get_state(), "done": torch.tensor(self.done)}
        for k, stretch in self.stretches.items():
            own = {"latents": stretch.latents, "total": stretch.total, "weight": stretch.weight}
            own |= {f"solver.{name}": value for name, value in stretch.solver.memory().items()}
            tensors |= {f"{k}.{name}": value for name, value in own.items()}
        return {name: value.cpu().contiguous() for name, value in tensors.items()}

    def go_on(self, state: dict[str, Tensor]) -> None:
        """Take over the state of a stream with the same arguments."""
        self.generator.set_state(state["generator"])
        self.done = state["done"].tolist()
        if len(self.done) != len(self.windows):
            raise XNeMoError(f"the saved state has {len(self.done)} windows, this clip {len(self.windows)}")
        self.first = sum(done == self.steps for done in self.done)
        where = self.model.denoiser.conv_in.weight.device
        for k in sorted({int(name.split(".")[0]) for name in state if name[0].isdigit()}):
            own = {name.split(".", 1)[1]: t.to(where) for name, t in state.items() if name.startswith(f"{k}.")}
            stretch = self._stretch(k, own["latents"], self.who(self.bounds[k][0]))
            stretch.total, stretch.weight = own["total"], own["weight"]
            memory = {name.removeprefix("solver."): t for name, t in own.items() if name.startswith("solver.")}
            stretch.solver.recall(memory, self.done[k])
            self.stretches[k] = stretch
        self.entered = self.first + len(self.stretches)
