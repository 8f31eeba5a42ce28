"""The landmarks of drawn faces: where features are painted, and what an encoder learns from their movement."""

import torch

from xnemo.augment import AugmentConfig
from xnemo.config import ModelConfig
from xnemo.draw import Draw
from xnemo.model import seeded
from xnemo.synthetic.geometry import MOTION, pose
from xnemo.synthetic.identity import IDENTITY, random_identities, traits
from xnemo.synthetic.landmarks import Lesson, drawn, landmarks, movement
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render

PUPILS, MOUTH = (9, 19), 20  # where they stand among the landmarks; the mouth's: four outlines from corner to corner


def without_glasses(count: int) -> torch.Tensor:
    who = random_identities(range(count))
    who[:, IDENTITY.index("glasses")] = -1
    return who


def test_landmarks_lie_on_what_is_painted() -> None:
    size, who, place = 256, without_glasses(8), torch.zeros(8, 3)
    motion = torch.zeros(8, len(MOTION))
    motion[:, MOTION.index("yaw")] = torch.linspace(-25, 25, 8)
    motion[:, MOTION.index("roll")] = torch.linspace(15, -15, 8)
    motion[:, MOTION.index("jaw")] = 1.0
    x, y = landmarks(traits(who), pose(motion, place))
    pictures = render(who, motion, place, size).float() / 255

    def colour(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        column, row = (((at + 1) * size / 2).long().clamp(0, size - 1) for at in (x, y))
        return pictures[torch.arange(8), :, row, column]

    for pupil in PUPILS:
        assert (colour(x[:, 0, pupil], y[:, 0, pupil] + 0.01).amax(1) < 0.25).all()
    outlines_x, outlines_y = (at[:, 0, MOUTH:].unflatten(1, (4, 5)) for at in (x, y))
    assert (outlines_y.diff(dim=1)[:, :, 2] > 0).all()  # upper lip, opening, lower lip
    red, green, _ = colour(outlines_x[:, 1:3, 2].mean(1), outlines_y[:, 1:3, 2].mean(1)).unbind(1)
    assert (red > 2 * green).all()  # the inside of the mouth


def test_movement_is_of_the_face_in_its_box_and_hardly_of_whose_face_it_is() -> None:
    motion, place = random_motion(3, 40)
    who, other = random_identities(range(40)), random_identities(range(100, 140))
    still = movement(who, torch.zeros_like(motion), torch.zeros_like(place))
    assert not still.any()
    moved = movement(who, motion, torch.zeros_like(place))
    torch.testing.assert_close(movement(who, motion, place), moved, rtol=0, atol=1e-5)
    assert (movement(other, motion, place) - moved).square().mean() < 0.1 * moved.square().mean()


def test_an_encoder_learns_to_tell_how_landmarks_moved() -> None:
    config = ModelConfig.small()
    lesson = Lesson(seeded(config, 0).motion_encoder, config.motion_encoder, AugmentConfig(enabled=False))
    pictures, boxes, moved = drawn(range(128))
    optimizer = torch.optim.AdamW([*lesson.encoder.model.parameters(), *lesson.read.parameters()], 1.5e-3)
    ids, errors = torch.arange(128), []
    for _ in range(30):
        errors.append(lesson(pictures, boxes, moved, Draw(0, ids)))
        optimizer.zero_grad()
        errors[-1].backward()
        optimizer.step()
    assert 0.5 < errors[0] < 2  # in deviations
    assert errors[-1] < 0.7 * errors[0]
