"""The options of an animation: their defaults, where each comes from, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.prepare import HeadMotion, check_span
from xnemo.solvers import SCHEDULERS, SchedulerName
from xnemo.windows import OVERLAP, SIZE

Move = Literal["all", "expression", "head"]
WindowKind = Literal["open", "released"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be asked of `xnemo.animate`. Every field has a default with a reason."""

    steps: int | None = None
    """Denoising steps. None: the model's own (25 for the released shape: paper, appendix A; its script: 35)."""
    guidance_scale: float | None = None
    """s in ε_u + s (ε_c - ε_u); the paper's w is s - 1. None: the model's own (3.5 for the released shape, paper)."""
    scheduler: SchedulerName = "ddim"
    """ "ddim" as trained and released; "dpm++" and "unipc" need about half the steps."""
    seed: int = 0
    head_motion: HeadMotion | None = None
    """Where the head goes: "relative" follows the driver's from where it is in his first frame, "still" leaves it where
    the portrait has it (the released script), "absolute" puts it where the driver has it, for a portrait that is a
    frame of the same video. None: "relative", or "still" where the portrait is a video."""
    strength: float = 1.0
    """How far the motion departs from the portrait's own: 0 not at all, 1 as the driver, more exaggerates."""
    move: Move = "all"
    """ "expression": the head stays in its place; "head": only its place and size change. Turns of the head are part
    of the motion code, so they go with the expression."""
    face: int = 0
    """Which face of the portrait, 0 the largest."""
    driving_face: int = 0
    """Which face of the driving video, by its size in the first frame that shows so many."""
    start: float = 0.0
    end: float | None = None
    """Seconds of the driving video."""
    max_frames: int | None = None
    fps: float | None = None
    """Frame rate of the result. None: the driver's own."""
    paste_back: bool = False
    """Put the result back into the whole portrait instead of showing its crop. Always so where several faces are
    driven, or the portrait is a video."""
    windows: WindowKind = "open"
    """ "released": the closed loop of the released code, whose windows are shifted at random at each step; it joins the
    clip's end to its start and keeps the whole clip in memory."""
    window_size: int = SIZE
    """Frames that are denoised together. 24: what the temporal layers were trained on (paper, released code)."""
    overlap: int = OVERLAP
    """Frames that neighbouring windows share. 4: the released code."""

    def checked(self, config: ModelConfig) -> Options:
        """Itself, with the model's own steps and guidance scale filled in. Raises XNeMoError for what could not run."""
        steps, scale = sampling(config, self.steps, self.guidance_scale)
        check_options(config, steps, scale)
        if not 0 <= self.seed < 1 << 63:
            raise XNeMoError(f"seed is {self.seed}: give a whole number from 0 to 2^63 - 1")
        longest, rate = config.temporal_max_len, self.fps
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("head_motion", self.head_motion, (None, *get_args(HeadMotion)))
        _one_of("move", self.move, get_args(Move))
        _one_of("windows", self.windows, get_args(WindowKind))
        _in_range("strength", self.strength, 0, 3)
        if self.windows == "released" and self.scheduler != "ddim":
            raise XNeMoError(f'windows "released" goes with scheduler "ddim" only, not with "{self.scheduler}"')
        if not 1 <= self.window_size <= longest:
            raise XNeMoError(f"window_size is {self.window_size}: this model's temporal layers take 1 to {longest}")
        if not 0 <= self.overlap < self.window_size:
            raise XNeMoError(f"overlap is {self.overlap}: windows of {self.window_size} frames can share 0 to "
                             f"{self.window_size - 1}")  # fmt: skip
        if self.max_frames is not None and self.max_frames < 1:
            raise XNeMoError(f"max_frames is {self.max_frames}: give at least 1")
        if rate is not None and not (math.isfinite(rate) and 1 <= rate <= 120):
            raise XNeMoError(f"fps is {rate}: give 1 to 120")
        check_span(self.start, self.end)
        return Options(**{**vars(self), "steps": steps, "guidance_scale": scale})


def sampling(config: ModelConfig, steps: int | None, guidance_scale: float | None) -> tuple[int, float]:
    """Steps and guidance scale, the model's own where they are not given."""
    return (
        config.steps if steps is None else steps,
        config.guidance_scale if guidance_scale is None else guidance_scale,
    )


def check_options(config: ModelConfig, steps: int, guidance_scale: float) -> None:
    """Refuse what the sampler could not run, in one sentence."""
    if not 1 <= steps < config.schedule.train_steps:
        raise XNeMoError(f"steps is {steps}: give 1 to {config.schedule.train_steps - 1}")
    if not (math.isfinite(guidance_scale) and 0 <= guidance_scale <= 30):
        raise XNeMoError(f"guidance_scale is {guidance_scale}: give a number from 0 to 30")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        words = [str(choice) for choice in choices if choice is not None]
        raise XNeMoError(f"{name} is {value!r}: give {', '.join(words[:-1])} or {words[-1]}")


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise XNeMoError(f"{name} is {value}: give a number from {low} to {high}")
