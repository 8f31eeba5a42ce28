"""Drawn pairs of a portrait and a stranger's motion, with the true answer; and what a model makes of them (recipe I6).

A pair is one picture of person A and one of person B, both in random motion. The truth is A with B's expression and
pose at a placement drawn for it, cut by the same square as the portrait. Boxes are the renderer's own: no detector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo import crops
from xnemo.animate import guide, initial_latents
from xnemo.batch import to_pixels, to_unit
from xnemo.denoiser import Conditions
from xnemo.draw import Draw
from xnemo.motion_encoder import REST
from xnemo.schedule import Schedule
from xnemo.synthetic.geometry import HEAD_Y, MOTION
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.measure import measure
from xnemo.synthetic.motion import random_motions
from xnemo.synthetic.render import face_boxes, render

if TYPE_CHECKING:
    from xnemo.model import XNeMo

SIDE = 256  # pixels of a drawn picture
FIRST_SEED = 15_000_000  # people no training and no measuring network ever saw
PORTRAIT_ROAMS, TARGET_ROAMS = 0.3, 0.7  # shares of the placement's range: more, and the head leaves the square
BORDER = 1 / 8
NAMES = (*MOTION, "x", "y", "log_scale")


@dataclass(frozen=True)
class CrossPairs:
    """N pairs. Pictures uint8 [N, 3, S, S] (S = the model's), face crops uint8 [N, 3, M, M], motions [N, 16] as NAMES.

    `swapped` shows the driving motion on a third person; `own` is the portrait's face, for the null motion.
    """

    reference: Tensor
    truth: Tensor
    driver: Tensor  # whole picture of the driver, [N, 3, SIDE, SIDE]
    faces: Tensor
    swapped: Tensor
    own: Tensor
    f_rts: Tensor
    squares: Tensor  # of reference and truth, in pixels of a drawn picture
    portrait_identity: Tensor
    driver_identity: Tensor
    portrait_motion: Tensor
    target_motion: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def draw_pairs(first: int, count: int, image_size: int, face_size: int, seed: int = 0) -> CrossPairs:
    """Pairs number first to first + count of a seed; a pair depends on its number alone."""
    ids = torch.arange(first, first + count)
    base = FIRST_SEED + 300_000 * seed
    people = [random_identities((base + 3 * ids + k).tolist()) for k in range(3)]
    (motion_a, place_a), (motion_b, place_b) = (random_motions((base + 3 * ids + k).tolist()) for k in range(2))
    place_a = PORTRAIT_ROAMS * place_a  # so that the square around it stays in the picture
    place_t, middle = place_a + TARGET_ROAMS * place_b, torch.zeros_like(place_a)
    portrait, truth = render(people[0], motion_a, place_a, SIDE), render(people[0], motion_b, place_t, SIDE)
    driver, swapped = render(people[1], motion_b, middle, SIDE), render(people[2], motion_b, middle, SIDE)
    box, target_box = face_boxes(people[0], motion_a, place_a, SIDE), face_boxes(people[0], motion_b, place_t, SIDE)
    squares = crops.square(box, crops.REFERENCE_SCALE)

    def face(pictures: Tensor, who: Tensor, motion: Tensor, place: Tensor) -> Tensor:
        return cut(pictures, crops.square(face_boxes(who, motion, place, SIDE)), face_size)

    return CrossPairs(
        reference=cut(portrait, squares, image_size),
        truth=cut(truth, squares, image_size),
        driver=driver,
        faces=face(driver, people[1], motion_b, middle),
        swapped=face(swapped, people[2], motion_b, middle),
        own=face(portrait, people[0], motion_a, place_a),
        f_rts=crops.f_rts(target_box, box).float(),
        squares=squares,
        portrait_identity=people[0],
        driver_identity=people[1],
        portrait_motion=torch.cat([motion_a, place_a], 1),
        target_motion=torch.cat([motion_b, place_t], 1),
        ids=ids,
    )


@torch.no_grad()
def conditions(model: XNeMo, pairs: CrossPairs, code: Tensor, f_rts: Tensor) -> tuple[Tensor, Conditions, Conditions]:
    """Reference latents [N, C, h, w] and the two guidance branches for motion codes f_mot [N, D] and f_rts [N, 3]."""
    like = model.denoiser.conv_in.weight
    image = to_unit(pairs.reference).to(like)
    latents, context = model.codec.encode(image), model.context(image)
    motion = model.motion_encoder.fuse(code, f_rts.to(like))[:, None]
    null = model.motion_encoder.fuse(code_of(model, pairs.own), still(pairs).to(like))[:, None]
    cond = model.denoiser.prepare(context, motion, model.reference_net(latents, context, null[:, 0]))
    return latents, cond, model.denoiser.prepare(model.null_context(len(pairs)), null)


def still(pairs: CrossPairs) -> Tensor:
    """The f_rts [N, 3] that leaves every head where the portrait has it."""
    return torch.tensor(REST).expand(len(pairs), -1)


@torch.no_grad()
def code_of(model: XNeMo, faces: Tensor) -> Tensor:
    """f_mot [N, D] of face crops uint8 [N, 3, M, M]."""
    return model.motion_encoder.encode(to_unit(faces).to(model.denoiser.conv_in.weight))


def animate_pairs(
    model: XNeMo, pairs: CrossPairs, faces: Tensor, f_rts: Tensor, steps: int, guidance_scale: float
) -> Tensor:
    """Results uint8 [N, 3, S, S] of driving faces uint8 [N, 3, M, M] placed as f_rts [N, 3] says."""
    return animate_codes(model, pairs, code_of(model, faces), f_rts, steps, guidance_scale)


@torch.no_grad()
def animate_codes(
    model: XNeMo, pairs: CrossPairs, code: Tensor, f_rts: Tensor, steps: int, guidance_scale: float
) -> Tensor:
    """Results uint8 [N, 3, S, S]: sampling as for clips, with one frame each; noise depends on the pair's number."""
    schedule = Schedule(model.config.schedule)
    reference, cond, uncond = conditions(model, pairs, code, f_rts)
    noise = Draw(0, pairs.ids).normal("noise", reference.shape[1], 1, *reference.shape[2:]).to(reference)
    times = schedule.ddim_timesteps(steps)
    latents = initial_latents(schedule, reference, noise, times[0])
    for t, t_prev in zip(times, [*times[1:], -1], strict=True):
        prediction = model.denoiser.denoise(latents, t, cond)
        if guidance_scale != 1:
            prediction = guide(prediction, model.denoiser.denoise(latents, t, uncond), guidance_scale)
        latents = schedule.ddim_step(prediction, t, t_prev, latents)
    images = model.codec.decode(latents[:, :, 0])
    return to_pixels(images).cpu()


@torch.no_grad()
def loss_gaps(model: XNeMo, pairs: CrossPairs, times: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Per pair [N, T]: how much worse the denoiser guesses the truth with a false condition than with the true one.

    motion: another pair's driver (should be > 0); swap: the same motion on another person (should be about 0);
    identity: another pair's portrait (should be > 0).
    """
    schedule = Schedule(model.config.schedule)
    like = model.denoiser.conv_in.weight
    clean = model.codec.encode(to_unit(pairs.truth).to(like))[:, :, None]
    noise = Draw(1, pairs.ids).normal("noise", *clean.shape[1:]).to(like)
    other = torch.roll(torch.arange(len(pairs)), 1)
    code = code_of(model, pairs.faces)
    _, true, _ = conditions(model, pairs, code, pairs.f_rts)
    _, motion, _ = conditions(model, pairs, code[other], pairs.f_rts)
    _, swap, _ = conditions(model, pairs, code_of(model, pairs.swapped), pairs.f_rts)
    stranger = {name: (keys[other], values[other]) for name, (keys, values) in true.reference.items()}
    identity = replace(true, image={name: token[other] for name, token in true.image.items()}, reference=stranger)

    def loss(told: Conditions, t: int) -> np.ndarray:
        noisy, target = schedule.add_noise(clean, noise, t), schedule.target(clean, noise, t)
        error = (model.denoiser.denoise(noisy, t, told).float() - target.float()).square()
        return error.flatten(1).mean(1).double().cpu().numpy()

    base = np.stack([loss(true, t) for t in times], 1)
    told = {"motion": motion, "swap": swap, "identity": identity}
    return {name: np.stack([loss(each, t) for t in times], 1) - base for name, each in told.items()}


def codes(model: XNeMo, faces: Tensor, batch: int = 64) -> np.ndarray:
    """f_mot float64 [N, D] of face crops uint8 [N, 3, M, M]."""
    return torch.cat([code_of(model, part).double().cpu() for part in faces.split(batch)]).numpy()


def f_rts_of(pairs: CrossPairs, motion: np.ndarray) -> np.ndarray:
    """The f_rts [N, 3] that motions and placements [N, 16] (NAMES) amount to: the boxes that the portraits' heads
    would have, against the portraits' own. What `placed` measured is held against what was commanded by it."""
    moved = torch.from_numpy(motion).float()
    count = len(MOTION)
    box = face_boxes(pairs.portrait_identity, moved[:, :count], moved[:, count:], SIDE)
    own = pairs.portrait_motion
    return crops.f_rts(box, face_boxes(pairs.portrait_identity, own[:, :count], own[:, count:], SIDE)).double().numpy()


def placed(pictures: Tensor, squares: Tensor) -> np.ndarray:
    """Motion and placement [N, 16] (NAMES) measured in crops uint8 [N, 3, S, S], told in units of the drawn picture.

    Heads fill a crop more than the measuring network has ever seen, so crops are given a border first.
    """
    seen = measure(bordered(pictures))
    side = (squares[:, 2] - squares[:, 0]).numpy()
    left, top = squares[:, 0].numpy() - BORDER * side, squares[:, 1].numpy() - BORDER * side
    side = side * (1 + 2 * BORDER)
    rest = HEAD_Y / 2  # a measured y is from where the head rests in the picture it was measured in
    x = (left + (0.5 + seen.x) * side) / SIDE - 0.5
    y = (top + (0.5 + rest + seen.y) * side) / SIDE - 0.5 - rest
    scale = np.log(np.maximum(seen.scale * side / SIDE, 1e-3))
    return np.stack([*(getattr(seen, name) for name in MOTION), x, y, scale], 1)


def bordered(pictures: Tensor) -> Tensor:
    """Crops uint8 [N, 3, S, S] with their edges repeated for an eighth of the side all round."""
    pad = round(BORDER * pictures.shape[-1])
    return F.pad(pictures.float(), (pad,) * 4, mode="replicate").byte()


def cut(pictures: Tensor, squares: Tensor, size: int) -> Tensor:
    """Squares [N, 4] out of uint8 [N, 3, H, W], resized, edges repeated outside: uint8 [N, 3, size, size]."""
    shrink = float((squares[:, 2] - squares[:, 0]).median()) / size
    cut = crops.face_crop(pictures.float(), squares.float(), size, padding="border", supersample=max(1, round(shrink)))
    return cut.round().clamp(0, 255).byte()
