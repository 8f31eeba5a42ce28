"""From a prediction to the next latents: DDIM as the release samples, DPM-Solver++ and UniPC through diffusers.

All run on the noise the model was trained with (beta_end 0.02, not Stable Diffusion's 0.012). DDIM takes the released
time steps ("leading"), the multistep solvers diffusers' own ("linspace", from the last one down): they reach the same
picture in fewer steps. They remember earlier steps, so every stretch of a clip has a solver of its own.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from xnemo.config import ScheduleConfig
from xnemo.errors import XNeMoError
from xnemo.schedule import Schedule

SchedulerName = Literal["ddim", "dpm++", "unipc"]
SCHEDULERS: tuple[SchedulerName, ...] = get_args(SchedulerName)
_PREDICTION = {"epsilon": "epsilon", "sample": "sample", "v": "v_prediction"}


class Solver(Protocol):
    """`times`: the time steps, noise to image. `fresh`: the same solver before its first step."""

    times: list[int]

    def fresh(self) -> Solver: ...

    def step(self, prediction: Tensor, i: int, latents: Tensor) -> Tensor:
        """The latents after step i, fp32, shaped like them."""

    def memory(self) -> dict[str, Tensor]:
        """What it remembers, to go on elsewhere with `recall`."""

    def recall(self, memory: dict[str, Tensor], i: int) -> None:
        """Be as after step i-1."""


class Ddim:
    """The released sampler, η = 0; it remembers nothing."""

    def __init__(self, config: ScheduleConfig, steps: int) -> None:
        self.schedule = Schedule(config)
        self.times = self.schedule.ddim_timesteps(steps)

    def fresh(self) -> Ddim:
        return self

    def step(self, prediction: Tensor, i: int, latents: Tensor) -> Tensor:
        return self.schedule.ddim_step(prediction, self.times[i], [*self.times, -1][i + 1], latents)

    def memory(self) -> dict[str, Tensor]:
        return {}

    def recall(self, memory: dict[str, Tensor], i: int) -> None:
        pass


class Multistep:
    """A second-order solver of diffusers (arXiv 2211.01095, 2302.04867)."""

    def __init__(self, config: ScheduleConfig, name: SchedulerName, steps: int) -> None:
        from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

        Schedule(config).ddim_timesteps(steps)  # refuses what no schedule can do
        kind = DPMSolverMultistepScheduler if name == "dpm++" else UniPCMultistepScheduler
        self._inner: Any = kind(
            num_train_timesteps=config.train_steps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule="scaled_linear",
            prediction_type=_PREDICTION[config.prediction],
            timestep_spacing="linspace",
            solver_order=2,
            final_sigmas_type="zero",
        )
        self._inner.set_timesteps(steps)
        self.times = [int(t) for t in self._inner.timesteps]
        self._inner.set_begin_index(0)

    def fresh(self) -> Multistep:
        return copy.deepcopy(self)

    def step(self, prediction: Tensor, i: int, latents: Tensor) -> Tensor:
        after: Tensor = self._inner.step(prediction, self._inner.timesteps[i], latents, return_dict=False)[0]
        return after

    def memory(self) -> dict[str, Tensor]:
        kept = {f"model_outputs.{n}": t for n, t in enumerate(self._inner.model_outputs) if t is not None}
        last = getattr(self._inner, "last_sample", None)
        return kept if last is None else {**kept, "last_sample": last}

    def recall(self, memory: dict[str, Tensor], i: int) -> None:
        inner, order = self._inner, self._inner.config.solver_order
        inner.model_outputs = [memory.get(f"model_outputs.{n}") for n in range(order)]
        inner.lower_order_nums, inner._step_index = min(i, order), i
        if hasattr(inner, "timestep_list"):  # UniPC
            inner.timestep_list = [inner.timesteps[i - order + n] if i - order + n >= 0 else None for n in range(order)]
            inner.last_sample = memory.get("last_sample")
            inner.this_order = min(order, len(self.times) - (i - 1), i) if i else None


def solver(config: ScheduleConfig, name: SchedulerName, steps: int) -> Solver:
    """The solver of that name. Raises XNeMoError for an unknown one, or for steps it cannot do."""
    if name == "ddim":
        return Ddim(config, steps)
    if name not in SCHEDULERS:
        raise XNeMoError(f"scheduler is {name!r}: give {', '.join(SCHEDULERS[:-1])} or {SCHEDULERS[-1]}")
    return Multistep(config, name, steps)
