"""Animate a portrait with a driving video, from files to frames (paper section 3.3; released pose2vid script).

`animate` is the whole, `stream` the same in bounded memory. Their steps are functions of their own, since a service
runs them on different machines: `xnemo.scene.look` sees pictures only, `encode_portrait` and `encode_driving` run the
small networks, `xnemo.stream` denoises, `decode` makes pictures of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xnemo.animate import sample
from xnemo.clip import Clip
from xnemo.driver import Driver
from xnemo.encode import (
    Reference,
    decode,
    encode_driving,
    encode_faces,
    encode_portrait,
    evaluating,
    motion_tokens,
    noise,
    signed,
)
from xnemo.media.faces import FaceDetector
from xnemo.media.faces import detector as default_detector
from xnemo.options import Options
from xnemo.prepare import Driving, Portrait, Progress
from xnemo.scene import Actor, Source, look
from xnemo.stream import OnStep, Stream
from xnemo.tokens.edit import scale
from xnemo.tokens.motion_file import Motion, still_rts
from xnemo.work import Part, Work

if TYPE_CHECKING:
    from xnemo.model import XNeMo

__all__ = [
    "Animation", "Reference", "animate", "decode", "encode_driving", "encode_faces", "encode_portrait",
    "motion_tokens", "noise", "signed", "stream",
]  # fmt: skip
OnWindow = Callable[[int, int, Tensor], None]
"""Called with (finished windows, all windows, the latents [1,C,n,h,w] just finished); may raise to cancel."""


@dataclass(frozen=True)
class Animation:
    """A result that is made while `frames` (uint8 RGB [H,W,3]) is read; see `Clip` for the sound."""

    frames: Iterator[np.ndarray]
    count: int
    fps: float
    audio: Path | None
    audio_start: float
    drivers: tuple[Driver, ...]  # their motion, as it was taken from them
    portrait: np.ndarray  # the whole picture, uint8 [H,W,3]


def animate(
    model: XNeMo,
    portrait: str | Path | bytes | np.ndarray,
    driving: Source | Mapping[int, Source],
    *,
    detector: FaceDetector | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
    **options: Any,
) -> Clip:
    """Let the portrait do what the driving video's (largest) face does.

    portrait: a picture file, its bytes, uint8 RGB [H,W,3], or a video whose face is replaced in every frame. driving: a
    video, a picture, or a motion extracted before; or one of these for each of several faces, {face: driving}.
    options: the fields of `xnemo.options.Options` (steps, guidance_scale, seed, …). on_step and on_window are called
    as the denoiser goes on, and may raise to cancel. The result has the driver's frame rate and sound. Raises
    XNeMoError, before any network runs, for a portrait or a video without a usable face.
    """
    made = stream(
        model, portrait, driving, detector=detector, progress=progress, on_step=on_step, on_window=on_window, **options
    )
    frames: np.ndarray | None = None
    for at, frame in enumerate(made.frames):
        frames = np.empty((made.count, *frame.shape), np.uint8) if frames is None else frames
        frames[at] = frame
    assert frames is not None
    return Clip(frames, made.fps, made.audio, made.audio_start)


def stream(
    model: XNeMo,
    portrait: str | Path | bytes | np.ndarray,
    driving: Source | Mapping[int, Source],
    *,
    detector: FaceDetector | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
    work: Work | None = None,
    **options: Any,
) -> Animation:
    """As `animate`, but the frames are made as they are read: the driver's video is decoded and encoded, its windows
    denoised and their pictures made a few at a time, so memory does not grow with the clip. What is held of each frame
    is its box and f_rts (44 bytes). work: where finished windows are kept, to go on after a crash."""
    asked = Options(**options).checked(model.config)
    faces = list(driving) if isinstance(driving, Mapping) else [asked.face]
    parts = {face: work.part(f"face-{face}") for face in faces} if work else {}
    scene = look(
        model.config, portrait, driving, asked, detector or default_detector(), progress,
        kept=lambda face, path: parts[face].driving(path) if parts else None,
    )  # fmt: skip
    meter, drivers, results = Meter(len(scene.actors), on_step, on_window, progress), [], []
    for at, actor in enumerate(scene.actors):
        part = parts.get(actor.face)
        if part and isinstance(actor.driving, Driving):
            part.keep_driving(actor.driving)
        drivers.append(Driver(model, actor.driving, scene.frames, part.codes() if part else None))
        latents = _denoised(model, actor, drivers[at], asked, part, at, meter)
        results.append(frame for batch in decode(model, latents) for frame in batch)
    frames = _counted(model, scene.composed(results), scene.frames, progress)
    return Animation(frames, scene.frames, scene.fps, scene.audio, scene.audio_start, tuple(drivers), scene.picture)


def _denoised(
    model: XNeMo, actor: Actor, driver: Driver, asked: Options, part: Part | None, at: int, meter: Meter
) -> Iterator[Tensor]:
    """The latents [1,C,n,h,w] of the clip, in order. What a part kept is not computed again."""
    steps, scale = asked.steps or 0, asked.guidance_scale or 0.0  # `checked` has filled them in
    first, frames = encode_portrait(model, actor.portrait), driver.frames
    moved, looks = _mover(model, actor.portrait, asked), actor.looks() if actor.looks else None

    def tokens(start: int, end: int) -> Tensor:
        return motion_tokens(model, moved(driver.part(start, end)))

    def who(frame: int) -> Reference:
        return encode_portrait(model, looks(frame)) if looks else first

    if asked.windows == "released":
        shift = np.random.default_rng(asked.seed).integers(0, asked.window_size, steps)
        yield sample(
            model, first.latents, first.context, tokens(0, frames), first.null_motion, steps=steps,
            guidance_scale=scale, noise=noise(model, frames, asked.seed), windows="released",
            offsets=shift.tolist(), window_size=asked.window_size, overlap=asked.overlap,
            on_step=lambda done, latents: meter.step(at, 0, done - 1, latents, done, steps),
        )  # fmt: skip
        return
    walk = Stream(
        model, who, tokens, frames, steps=steps, guidance_scale=scale, seed=asked.seed,
        scheduler=asked.scheduler, window_size=asked.window_size, overlap=asked.overlap,
        on_step=lambda k, i, latents: meter.step(at, k, i, latents, sum(walk.done), walk.calls),
    )  # fmt: skip
    for latents in part.finished(walk, first.latents) if part else walk:
        if meter.on_window:
            meter.on_window(walk.first, len(walk.windows), latents)
        yield latents


def _counted(model: XNeMo, frames: Iterable[np.ndarray], count: int, progress: Progress | None) -> Iterator[np.ndarray]:
    if progress:
        progress("frames", 0, count)
    with evaluating(model):
        for done, frame in enumerate(frames, 1):
            if progress:
                progress("frames", done, count)
            yield frame


class Meter:
    """How far the denoising of all faces is, told to whoever wants to know."""

    def __init__(
        self, faces: int, on_step: OnStep | None, on_window: OnWindow | None, progress: Progress | None
    ) -> None:
        self.done, self.on_step, self.on_window, self.progress = [0] * faces, on_step, on_window, progress

    def step(self, face: int, window: int, step: int, latents: Tensor, done: int, total: int) -> None:
        """A window of a face has taken a step; `done` of its `total` calls of the denoiser are behind it."""
        self.done[face] = done
        if self.on_step:
            self.on_step(window, step, latents)
        if self.progress:
            self.progress("steps", sum(self.done), total * len(self.done))


@torch.no_grad()
def _mover(model: XNeMo, portrait: Portrait, asked: Options) -> Callable[[Motion], Motion]:
    """What makes of a driver's motion the motion that the options want: all, part, less or more of it."""
    own = np.empty(0, np.float32)
    if asked.strength != 1 or asked.move == "head":
        with evaluating(model):
            own = model.motion_encoder.encode(signed(model, portrait.face[None]))[0].float().cpu().numpy()

    def moved(motion: Motion) -> Motion:
        if asked.move == "expression":
            motion = replace(motion, f_rts=still_rts(len(motion)))
        if asked.move == "head":
            motion = replace(motion, f_mot=np.repeat(own[None], len(motion), axis=0))
        if asked.strength == 1:
            return motion
        shift, size = motion.f_rts[:, :2] * asked.strength, motion.f_rts[:, 2:] ** asked.strength
        return replace(scale(motion, asked.strength, own), f_rts=np.concatenate([shift, size], axis=1))

    return moved
