"""Who is drawn: a vector of traits in [-1, 1], and what each trait means in shape and colour.

Lengths are in head units: the head's half-height is about 0.6 (training recipe, section I2). x runs right, y down,
z towards the viewer, and the origin is the middle of the head.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from xnemo.errors import XNeMoError

IDENTITY = (
    "head_width", "head_height", "jaw_taper", "skin_tone", "skin_warmth",
    "hair_tone", "hairline", "hair_volume", "hair_length", "hair_parting",
    "eye_spacing", "eye_size", "iris_hue", "brow_height", "brow_thickness",
    "nose_length", "nose_width", "mouth_width", "mouth_height", "lip_hue",
    "lip_fullness", "clothes_hue", "clothes_tone", "background_hue", "background_tone",
    "light_side", "glasses", "beard",
)  # fmt: skip

SKIN = ((252, 224, 204), (243, 200, 170), (226, 172, 134), (186, 128, 90), (138, 90, 62), (98, 62, 46))
HAIR = ((30, 26, 30), (54, 36, 30), (92, 58, 38), (146, 74, 40), (184, 134, 78), (226, 190, 122), (178, 176, 180))
IRIS = ((86, 50, 28), (124, 84, 40), (96, 126, 74), (72, 128, 178), (112, 138, 158))
LIPS = ((186, 84, 78), (206, 86, 92), (190, 62, 84))
CLOTHES = (
    (38, 52, 86), (36, 96, 110), (70, 104, 78), (206, 158, 70), (188, 92, 62),
    (132, 46, 62), (128, 108, 160), (58, 60, 68), (226, 216, 200),
)  # fmt: skip
BACKGROUND = (
    (226, 204, 180), (196, 210, 184), (164, 206, 208), (150, 184, 218),
    (184, 178, 220), (222, 180, 196), (232, 190, 160), (176, 184, 194),
)  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """The decoded identity of N people: every length and flag is [N, 1, 1], every colour [N, 3, 1, 1] in 0..1."""

    width: Tensor
    height: Tensor
    depth: Tensor
    taper: Tensor
    eye_spacing: Tensor
    eye_size: Tensor
    brow_y: Tensor
    brow_thickness: Tensor
    nose_tip_y: Tensor
    nose_width: Tensor
    mouth_width: Tensor
    mouth_y: Tensor
    lip_fullness: Tensor
    hairline_y: Tensor
    hair_volume: Tensor
    hair_length: Tensor
    hair_parting: Tensor
    light_side: Tensor
    glasses: Tensor
    beard: Tensor
    skin: Tensor
    hair: Tensor
    iris: Tensor
    lips: Tensor
    clothes: Tensor
    background: Tensor

    def part(self, samples: slice) -> "Traits":
        """The traits of some of the people."""
        return Traits(**{field.name: getattr(self, field.name)[samples] for field in fields(self)})


def random_identity(seed: int) -> Tensor:
    """One person's identity [I], uniform in [-1, 1]; the same seed gives the same person."""
    values = np.random.default_rng([seed, 11]).uniform(-1, 1, len(IDENTITY))
    return torch.tensor(values, dtype=torch.float32)


def random_identities(seeds: Iterable[int]) -> Tensor:
    """Identities [N, I], one per seed."""
    return torch.stack([random_identity(seed) for seed in seeds])


def traits(identity: Tensor) -> Traits:
    """Decode identities [N, I] in [-1, 1] into lengths and colours."""
    if identity.ndim != 2 or identity.shape[1] != len(IDENTITY):
        raise XNeMoError(f"identity must be [N, {len(IDENTITY)}], not {list(identity.shape)}: see random_identity")
    v = dict(zip(IDENTITY, identity.clamp(-1, 1).float()[:, :, None, None].unbind(1), strict=True))
    height = 0.60 * (1 + 0.10 * v["head_height"])
    eye_spacing = 0.205 * (1 + 0.12 * v["eye_spacing"])
    skin = _palette(SKIN, v["skin_tone"])
    skin = (skin * (1 + 0.05 * v["skin_warmth"][:, None] * _row((1.0, 0.0, -1.0), skin))).clamp(0, 1)
    background = _palette(BACKGROUND, v["background_hue"]) * (0.80 + 0.20 * v["background_tone"][:, None])
    return Traits(
        width=0.47 * (1 + 0.11 * v["head_width"]),
        height=height,
        depth=0.76 * height,
        taper=0.26 + 0.10 * v["jaw_taper"],
        eye_spacing=eye_spacing,
        eye_size=1 + 0.17 * v["eye_size"],
        brow_y=-0.165 - 0.03 * v["brow_height"],
        brow_thickness=0.027 * (1 + 0.35 * v["brow_thickness"]),
        nose_tip_y=0.185 + 0.03 * v["nose_length"],
        nose_width=0.068 * (1 + 0.2 * v["nose_width"]),
        mouth_width=0.200 * (1 + 0.18 * v["mouth_width"]),
        mouth_y=0.345 + 0.02 * v["mouth_height"] + 0.5 * (height - 0.6),
        lip_fullness=1 + 0.3 * v["lip_fullness"],
        hairline_y=-0.38 + 0.05 * v["hairline"],
        hair_volume=0.5 + 0.5 * v["hair_volume"],
        hair_length=0.5 + 0.5 * v["hair_length"],
        hair_parting=v["hair_parting"],
        light_side=v["light_side"],
        glasses=(v["glasses"] > 0.5).float(),
        beard=(v["beard"] > 0.55).float(),
        skin=skin,
        hair=_palette(HAIR, v["hair_tone"]),
        iris=_palette(IRIS, v["iris_hue"]),
        lips=_palette(LIPS, v["lip_hue"]).lerp(skin, 0.35) * (0.55 + 0.45 * skin.mean(1, keepdim=True)),
        clothes=_palette(CLOTHES, v["clothes_hue"]) * (0.95 + 0.12 * v["clothes_tone"][:, None]),
        background=background.clamp(0, 1),
    )


def _row(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(rgb, device=like.device).view(1, 3, 1, 1)


def _palette(anchors: tuple[tuple[int, int, int], ...], position: Tensor) -> Tensor:
    """Colours [N, 3, 1, 1] on the polyline through the anchors (sRGB bytes) at positions [N, 1, 1] in [-1, 1]."""
    table = torch.tensor(anchors, dtype=torch.float32, device=position.device) / 255
    place = (position.flatten() * 0.5 + 0.5) * (len(anchors) - 1)
    low = place.floor().long().clamp(0, len(anchors) - 2)
    return torch.lerp(table[low], table[low + 1], (place - low)[:, None])[:, :, None, None]
