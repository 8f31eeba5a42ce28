"""What a step's pictures are worth: the GAN head's faces (eq. 7), and the predictions of a small model, decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xnemo import losses as loss
from xnemo.batch import PairBatch, to_unit
from xnemo.codec import picture_error
from xnemo.crops import faces
from xnemo.errors import XNeMoError

if TYPE_CHECKING:
    from xnemo.stages import GanLossConfig, Stage


def gan_losses(stage: Stage, batch: PairBatch, f_mot: Tensor) -> dict[str, Tensor]:
    """Eq. 7's terms for ŷ = G(f_app(reference face), f_mot) against the clean driving face; "gan" is the sum.

    f_mot [B,D] enters before its fusion with f_rts, so the target is the face-centred crop and not the frame.
    """
    assert stage.gan is not None
    config, size = stage.config.gan, stage.model.config.gan.image_size
    real = faces(to_unit(batch.target), batch.target_box, size)
    reference = faces(to_unit(batch.reference), batch.reference_box, size)
    fake = stage.gan(reference, f_mot)
    terms = {"reconstruction": (fake - real).abs().mean(), **perceptual(stage, real, fake)}
    if stage.discriminator is not None:
        terms |= judged(stage, real, fake)
    return {"gan": weighted(config, terms), **terms}


def weighted(config: GanLossConfig, terms: dict[str, Tensor]) -> Tensor:
    """The sum of eq. 7's terms, each by its weight."""
    return reduce(torch.add, (getattr(config, name) * value for name, value in terms.items()))


def perceptual(stage: Stage, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """How far the frozen features of fakes [B,3,S,S] are from those of the real ones, not weighted yet."""
    terms = {}
    for name, net in stage.features.items():
        with torch.no_grad():
            wanted = net(real)
        terms[name] = loss.feature_distance(net(fake), wanted, "sum")
    return terms


def decoded_losses(stage: Stage, batch: PairBatch, guessed: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """The error, as pictures, of latents guessed for the true ones, both [B,C,h,w] ("decoded"), and what the
    discriminator makes of them.

    The decoder learns with them, so that it draws a face also from what the denoiser is half sure of. Every eighth
    sample is decoded from its true latents instead: a codec it must remain.
    """
    if batch.known is not None:
        raise XNeMoError("decoded > 0 needs whole frames: train without cached latents, or set decoded=0")
    pictures = to_unit(batch.target, stage.model.config.image_size)
    true = batch.ids.to(guessed.device) % 8 == 7  # by their ids: however many workers share a batch
    drawn = stage.model.codec.decode(torch.where(true[:, None, None, None], clean, guessed))
    boxes = batch.target_box * (drawn.shape[-1] / batch.target.shape[-1])
    pixels, edges = picture_error(drawn, pictures, 1 + stage.config.face * inside(boxes, drawn))
    result = {"decoded": pixels + 0.5 * edges}
    gan = stage.config.gan
    if stage.config.face_features > 0:
        size = stage.model.config.gan.image_size
        real, fake = (faces(each, boxes, size) for each in (pictures, drawn))
        seen = weighted(gan, perceptual(stage, real, fake))
        result["decoded"] = result["decoded"] + stage.config.face_features * seen
    if stage.config.decoded_motion > 0:
        result["motion"] = motion_error(stage, pictures, drawn, boxes)
        result["decoded"] = result["decoded"] + stage.config.decoded_motion * result["motion"]
    if stage.config.decoded_adversarial > 0:  # else a discriminator is the GAN head's, of faces
        terms = judged(stage, pictures, drawn)
        result["judged"] = terms["adversarial"] + gan.feature_matching * terms["feature_matching"]
    return result


def motion_error(stage: Stage, real: Tensor, fake: Tensor, boxes: Tensor) -> Tensor:
    """How far the motion codes of the faces in fakes [B,3,S,S] are from those in the real ones: mean|f_mot - f_mot'|.

    A mouth is a handful of pixels and a good part of the code: what reads it tells the denoiser to draw it.
    """
    trunk, size = stage.model.motion_encoder.model, stage.model.config.motion_encoder.image_size
    with torch.no_grad():
        wanted = trunk(faces(real, boxes, size))
    with without_gradients(trunk):
        return (trunk(faces(fake, boxes, size)) - wanted).abs().mean()


def inside(boxes: Tensor, pictures: Tensor) -> Tensor:
    """1 where the middle of a pixel of pictures [B,3,H,W] lies in its box [B,4] (pixels), else 0: [B,1,H,W]."""
    left, top, right, bottom = (boxes[:, i, None] for i in range(4))
    x, y = (torch.arange(n, device=pictures.device) + 0.5 for n in (pictures.shape[3], pictures.shape[2]))
    across, down = (x > left) & (x < right), (y > top) & (y < bottom)
    return (down[:, None, :, None] & across[:, None, None, :]).to(pictures)


def judged(stage: Stage, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """What the discriminator thinks of fakes [B,3,S,S], and how far their features are from those of the real ones."""
    assert stage.discriminator is not None
    with without_gradients(stage.discriminator):
        score, features = stage.discriminator(fake)
        with torch.no_grad():
            wanted = stage.discriminator(real)[1]
    stage.generated = (real.detach(), fake.detach())
    matched = loss.feature_distance(features, wanted, stage.config.gan.feature_matching_reduce)
    return {"adversarial": loss.hinge_generator(score), "feature_matching": matched}


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Graphs built inside do not reach the module's parameters (the discriminator while G is trained)."""
    wanted = [param for param in module.parameters() if param.requires_grad]
    for param in wanted:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in wanted:
            param.requires_grad_(True)
