"""The small networks around the denoiser: pictures to reference, motion codes and tokens; latents to pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xnemo.batch import to_pixels
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.prepare import Driving, Portrait, Progress
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
    check_motion(model.config, motion)
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


def check_motion(config: ModelConfig, motion: Motion) -> None:
    """Refuse the codes of another motion encoder."""
    if motion.f_mot.shape[1] != config.motion_encoder.f_mot:
        raise XNeMoError(
            f"the motion's f_mot has width {motion.f_mot.shape[1]}, the model expects "
            f"{config.motion_encoder.f_mot}: extract it again with this model"
        )


@torch.no_grad()
def decode(model: XNeMo, latents: Tensor | Iterable[Tensor]) -> Iterator[np.ndarray]:
    """latents [1,C,F,h,w] of a clip, at once or in pieces, as pictures uint8 [n,H,W,3] in order; raises XNeMoError if
    they are not finite."""
    pieces = [latents] if isinstance(latents, Tensor) else latents
    for images in model.codec.decode_clip(piece[0].transpose(0, 1) for piece in pieces):
        if not images.isfinite().all():
            raise XNeMoError("the networks gave NaN: the weights are damaged, or the precision is too low for them")
        yield to_pixels(images).permute(0, 2, 3, 1).cpu().numpy()


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
