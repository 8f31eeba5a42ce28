"""Animate a portrait with a driving video, from files to frames (paper section 3.3; released pose2vid script).

`animate` is the whole; its steps are functions of their own, since a service runs them on different machines:
`prepare_portrait` and `prepare_driving` look at pictures only, `encode_portrait` and `encode_driving` run the small
networks, `sample` (xnemo.animate) denoises, `decode` makes pictures of the latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xnemo.clip import Clip
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import FaceDetector
from xnemo.media.faces import detector as default_detector
from xnemo.prepare import Driving, HeadMotion, Portrait, Progress, prepare_driving, prepare_portrait
from xnemo.tokens.motion_file import Motion, still_rts

if TYPE_CHECKING:
    from xnemo.model import XNeMo

ENCODE_BATCH = 32


@dataclass(frozen=True)
class Reference:
    """What a portrait contributes: latents [1,C,h,w], context [1,1,d], null_motion [1,1,L,c]."""

    latents: Tensor
    context: Tensor
    null_motion: Tensor


def animate(
    model: XNeMo,
    portrait: str | Path | bytes | np.ndarray,
    driving: str | Path | Motion,
    *,
    steps: int = 25,
    guidance_scale: float | None = None,
    seed: int = 0,
    head_motion: HeadMotion = "relative",
    face: int | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    detector: FaceDetector | None = None,
    progress: Progress | None = None,
) -> Clip:
    """Let the portrait do what the driving video's (largest) face does.

    portrait: a picture file, its bytes, or uint8 RGB [H,W,3]. driving: a video file, or a motion extracted before.
    guidance_scale: s in ε_u + s (ε_c - ε_u), by default the model's own; the paper's w is s - 1.
    head_motion: "relative" follows the driver's head from where it is in his first frame, "still" leaves the head
    where the portrait has it (released behaviour), "absolute" puts it where the driver has it, for a portrait that is
    a frame of the same video. face: which face of the portrait, 0 the largest. start, end: seconds of the driving
    video. The result has the driver's frame rate and sound. Raises XNeMoError, before any network runs, for a
    portrait or a video without a usable face.
    """
    from xnemo.animate import sample

    guidance_scale = model.config.guidance_scale if guidance_scale is None else guidance_scale
    check_options(model.config, steps, guidance_scale)
    detector = detector or default_detector()
    who = prepare_portrait(portrait, model.config, detector, face)
    audio: Path | None = None
    if isinstance(driving, Motion):
        motion = driving.part(0, min(len(driving), max_frames or len(driving)))
    else:
        video = prepare_driving(
            driving,
            detector,
            head_motion=head_motion,
            portrait=who,
            start=start,
            end=end,
            max_frames=max_frames,
            progress=progress,
        )
        audio = video.path if video.has_audio else None
        motion = encode_driving(model, video, progress)
    with evaluating(model):
        reference = encode_portrait(model, who)
        latents = sample(
            model, reference.latents, reference.context, motion_tokens(model, motion), reference.null_motion,
            steps=steps, guidance_scale=guidance_scale, noise=noise(model, len(motion), seed),
            on_step=(lambda done, *_: progress("steps", done, steps)) if progress else None,
        )  # fmt: skip
        frames = np.concatenate(list(decode(model, latents, progress)))
    return Clip(frames, motion.fps, audio, start or 0.0)


def check_options(config: ModelConfig, steps: int, guidance_scale: float) -> None:
    """Refuse what the sampler could not run, in one sentence."""
    if not 1 <= steps < config.schedule.train_steps:
        raise XNeMoError(f"steps is {steps}: give 1 to {config.schedule.train_steps - 1}")
    if not (math.isfinite(guidance_scale) and 0 <= guidance_scale <= 30):
        raise XNeMoError(f"guidance_scale is {guidance_scale}: give a number from 0 to 30 (default 3.5)")


@torch.no_grad()
def encode_portrait(model: XNeMo, portrait: Portrait) -> Reference:
    """The portrait's latents, image token and own motion with a head at rest (the null motion)."""
    with evaluating(model):
        image = signed(model, portrait.reference[None])
        f_mot = model.motion_encoder.encode(signed(model, portrait.face[None]))
        null = model.motion_encoder.fuse(f_mot, torch.from_numpy(still_rts(1)).to(f_mot))
        return Reference(model.codec.encode(image), model.context(image), null[None])


def encode_driving(model: XNeMo, driving: Driving, progress: Progress | None = None) -> Motion:
    """f_mot of every frame, once; with f_rts and the frame rate it is all the sampler needs of the driver."""
    faces = driving.faces(model.config.motion_encoder.image_size)
    return encode_faces(model, faces, driving.f_rts, driving.fps, progress)


@torch.no_grad()
def encode_faces(
    model: XNeMo, faces: Iterable[np.ndarray], f_rts: np.ndarray, fps: float, progress: Progress | None = None
) -> Motion:
    """As `encode_driving`, from batches of face crops uint8 [n,M,M,3]."""
    codes: list[Tensor] = []
    done = 0
    with evaluating(model):
        for batch in faces:
            codes += [model.motion_encoder.encode(signed(model, part)).float().cpu() for part in _split(batch)]
            done += len(batch)
            if progress:
                progress("motion", done, len(f_rts))
    return Motion(torch.cat(codes).numpy(), f_rts, fps)


@torch.no_grad()
def motion_tokens(model: XNeMo, motion: Motion) -> Tensor:
    """The motion tokens [1,F,L,c] of a motion."""
    if motion.f_mot.shape[1] != model.config.motion_encoder.f_mot:
        raise XNeMoError(
            f"the motion's f_mot has width {motion.f_mot.shape[1]}, the model expects "
            f"{model.config.motion_encoder.f_mot}: extract it again with this model"
        )
    like = model.motion_encoder.final_proj.weight
    with evaluating(model):
        return model.motion_encoder.fuse(
            torch.from_numpy(motion.f_mot).to(like), torch.from_numpy(motion.f_rts).to(like)
        )[None]


def noise(model: XNeMo, frames: int, seed: int) -> Tensor:
    """Standard normal noise [1,C,F,h,w], the same on every device."""
    side, channels = model.config.latent_size, model.config.codec.channels
    generator = torch.Generator().manual_seed(seed)
    count = 1 if model.config.shared_noise else frames
    drawn = torch.randn(count, channels, side, side, generator=generator)  # frame by frame: a longer clip begins alike
    drawn = drawn.expand(frames, -1, -1, -1)
    return drawn.transpose(0, 1)[None].to(_like(model))


@torch.no_grad()
def decode(model: XNeMo, latents: Tensor, progress: Progress | None = None) -> Iterator[np.ndarray]:
    """latents [1,C,F,h,w] as pictures, uint8 [n,H,W,3] in order; raises XNeMoError if they are not finite."""
    done = 0
    for images in model.codec.decode_clip(latents[0].transpose(0, 1)):
        if not images.isfinite().all():
            raise XNeMoError("the networks gave NaN: the weights are damaged, or the precision is too low for them")
        done += len(images)
        yield ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        if progress:
            progress("frames", done, latents.shape[2])


def signed(model: XNeMo, images: np.ndarray) -> Tensor:
    """uint8 [n,H,W,3] as [n,3,H,W] in [-1,1], on the model's device and in its precision."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).to(_like(model))


@contextmanager
def evaluating(model: XNeMo) -> Iterator[None]:
    """Dropout is off inside the block."""
    was = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was)


def _like(model: XNeMo) -> Tensor:
    return model.denoiser.conv_in.weight


def _split(faces: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(0, len(faces), ENCODE_BATCH):
        yield faces[at : at + ENCODE_BATCH]
