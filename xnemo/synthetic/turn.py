"""How a face has turned within its box, told by its motion code: fitted to drawn heads, whose features are known.

Where the networks' tokens know their place on the face (`xnemo/places.py`), that spares a small model the search for
each feature's counterpart. The map is linear in the code, so it costs one small layer, and training may change it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xnemo import crops
from xnemo.batch import to_unit
from xnemo.errors import XNeMoError
from xnemo.motion_encoder import TURN, MotionEncoder
from xnemo.synthetic.geometry import face_boxes, in_box, pose, surface_points
from xnemo.synthetic.identity import random_identities, traits
from xnemo.synthetic.motion import random_motions
from xnemo.synthetic.render import render

FIRST_SEED = 16_000_000  # people that nothing else is made of
SIDE = 128  # pixels of a drawn picture
LONGITUDES = (-35.0, -18.0, 0.0, 18.0, 35.0)  # degrees on the head
HEIGHTS = (0.05, 0.35, 0.6)  # shares of the way from the head's middle to the chin; the brows come on top
RIDGE = 1.0


@torch.no_grad()
def fit_turn(encoder: MotionEncoder, image_size: int, count: int = 3000) -> float:
    """Set `encoder.turn` from `count` drawn heads (a minute on one core); the share of the features' movement within
    the box that it takes away, on those heads. image_size: of the encoder's face crops."""
    if encoder.turn is None:
        raise XNeMoError('this encoder tells no turn: set unet.token_places to "head"')
    seeds = list(range(FIRST_SEED, FIRST_SEED + count))
    who = random_identities(seeds)
    motion, place = random_motions(seeds)
    codes = torch.cat([
        _codes(encoder, image_size, *part) for part in zip(*(t.split(100) for t in (who, motion, place)), strict=True)
    ])  # fmt: skip
    # doubles: sums inside LAPACK depend on where its memory lies, and rounding hides that
    codes = codes.double()
    seen = features(who, motion, place).double()
    resting = features(who, torch.zeros_like(motion), torch.zeros_like(place)).double()
    at = torch.cat([seen, torch.ones_like(seen[..., :1])], dim=2)
    turns = torch.linalg.lstsq(at, resting - seen).solution.flatten(1)  # [N, 6], see `places.head_places`
    middle, spread = codes.mean(0), codes.std(0).clamp(min=1e-6)
    known = (codes - middle) / spread
    gram = known.T @ known + RIDGE * torch.eye(known.shape[1], dtype=known.dtype)
    weight = torch.linalg.solve(gram, known.T @ (turns - turns.mean(0))) / spread[:, None]  # [D, 6]
    encoder.turn.weight.copy_(weight.T)
    encoder.turn.bias.copy_(turns.mean(0) - middle @ weight)
    left = seen + at @ encoder.turn(codes.to(encoder.turn.weight)).to(at).unflatten(1, (TURN // 2, 2)) - resting
    return 1 - float(left.square().mean() / (seen - resting).square().mean())


def features(who: Tensor, motion: Tensor, place: Tensor) -> Tensor:
    """Where points between brows and chin are, from the middle of the face's box in sides of it: (x, y) [N, K, 2]."""
    looks = traits(who)
    heights = [looks.brow_y, *(share * looks.height for share in HEIGHTS)]
    return in_box(*surface_points(looks, pose(motion, place), LONGITUDES, heights), who, motion, place)


def _codes(encoder: MotionEncoder, size: int, who: Tensor, motion: Tensor, place: Tensor) -> Tensor:
    faces = crops.faces(to_unit(render(who, motion, place, SIDE)), face_boxes(who, motion, place, SIDE), size)
    return encoder.model(faces.to(next(encoder.parameters()))).float()
