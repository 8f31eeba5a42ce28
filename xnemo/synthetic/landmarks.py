"""What a fresh motion encoder learns first: where the landmarks of drawn faces have moved.

The released encoder starts from a landmark network for photographs (2DFAN); one for drawn heads starts here, from
landmarks the renderer knows. Not their places are asked for, which tell whose face it is, but how far they are from
where the same face has them at rest, within its box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.augment import AugmentConfig, driving_crop
from xnemo.batch import to_unit
from xnemo.config import MotionEncoderConfig
from xnemo.draw import Draw
from xnemo.motion_encoder import MotionEncoder
from xnemo.synthetic import face
from xnemo.synthetic.geometry import Pose, face_boxes, in_box, painted_points, pose
from xnemo.synthetic.identity import Traits, random_identities, traits
from xnemo.synthetic.motion import random_motions
from xnemo.synthetic.render import render

FIRST_SEED = 40_000_000  # people that nothing else is made of
SIDE = 128  # pixels of a drawn picture
KNOWN = 4000  # heads that say which ways landmarks move
WAYS = 20  # leading directions of the landmarks' movement, each asked for in its own deviation: a blink counts as a nod


class Lesson(nn.Module):
    """The encoder and, while it learns, a linear layer that reads the landmarks' movement off its code."""

    mean: Tensor
    ways: Tensor

    def __init__(self, encoder: MotionEncoder, config: MotionEncoderConfig, augment: AugmentConfig) -> None:
        super().__init__()
        self.encoder, self.image_size, self.augment = encoder, config.image_size, augment
        self.read = nn.Linear(config.f_mot, WAYS)
        moved = movement(*_people(range(FIRST_SEED, FIRST_SEED + KNOWN))).double()  # as in `fit_turn`
        _, deviation, directions = torch.linalg.svd(moved - moved.mean(0), full_matrices=False)
        self.register_buffer("mean", moved.mean(0).float())
        self.register_buffer("ways", (directions[:WAYS].T / deviation[:WAYS] * KNOWN**0.5).float())

    def forward(self, pictures: Tensor, boxes: Tensor, moved: Tensor, draw: Draw) -> Tensor:
        """The mean squared error for pictures uint8 [N,3,S,S], boxes [N,4], movement [N,2K]; 1 is what a guess at the
        mean has."""
        faces = driving_crop(to_unit(pictures), boxes, self.image_size, draw, self.augment)
        return F.mse_loss(self.read(self.encoder.encode(faces)), (moved - self.mean) @ self.ways)


def drawn(heads: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures uint8 [N,3,128,128] of people in random motion, one per number, their boxes [N,4] and `movement`."""
    who, motion, place = _people([FIRST_SEED + KNOWN + head for head in heads])
    return render(who, motion, place, SIDE), face_boxes(who, motion, place, SIDE), movement(who, motion, place)


def movement(who: Tensor, motion: Tensor, place: Tensor) -> Tensor:
    """How far the landmarks of drawn heads are from those of the same faces at rest, in box sides: [N,2K]."""
    moved = _in_box(who, motion, place) - _in_box(who, torch.zeros_like(motion), torch.zeros_like(place))
    return moved.flatten(1)


def landmarks(who: Traits, how: Pose) -> tuple[Tensor, Tensor]:
    """Frame coordinates [N,1,K] of brows (3 each), eyes (corners, lids, iris) and mouth (corners, and the lips' four
    outlines at three places)."""
    x, y = [], []
    brow, eye = torch.tensor([-0.8, 0.0, 0.8]), torch.tensor([-1.0, 0.0, 1.0])
    for side in (-1, 1):
        x.append(side * (who.eye_spacing + face.BROW_OUT + face.BROW_HALF * brow))
        y.append(face.brow_line(brow, how.brow[side > 0], who))
        out = face.EYE_HALF * who.eye_size * eye
        lids = face.eyes(_skin(side * (who.eye_spacing + out)), who, how)
        x += [side * (who.eye_spacing + out)] * 2
        y += [face.EYE_Y + lids.upper, face.EYE_Y + lids.lower]
        x.append(side * who.eye_spacing + face.GAZE_X * how.gaze_x)
        y.append(face.EYE_Y - face.IRIS_Y + face.GAZE_Y * how.gaze_y + 0 * who.eye_spacing)
    across = face.mouth_half(who, how) * torch.tensor([-1.0, -0.6, 0.0, 0.6, 1.0])
    lips = face.mouth(_skin(across), who, how)
    x += [across] * 4
    y += [lips.top, lips.opening_top, lips.opening_bottom, lips.bottom]
    return painted_points(who, how, torch.cat(x, -1), torch.cat(y, -1))


def _skin(x: Tensor) -> face.Surface:
    return face.Surface(x, torch.zeros_like(x), torch.ones_like(x), torch.ones_like(x))


def _in_box(who: Tensor, motion: Tensor, place: Tensor) -> Tensor:
    return in_box(*landmarks(traits(who), pose(motion, place)), who, motion, place)


def _people(seeds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    return random_identities(seeds), *random_motions(seeds)
