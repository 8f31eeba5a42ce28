"""Read who is drawn off a picture, whatever the head does: the identity counterpart of `measure`.

Two small trunks see the whole picture and an upright crop of the head (laid by `measure`'s own finder). They were
trained on renders alone, in random motion, spoilt as results are, never on the output of any model. How well each
trait is read on people never seen is in the file's metadata (`accuracy`).
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xnemo.synthetic.identity import IDENTITY
from xnemo.synthetic.measure import SIZE, channels_first, reader, shrink, trunk, upright

WEIGHTS = Path(__file__).with_name("measure_identity.safetensors")
REACH = 1.0  # of the upright crop, in head units to each side: the hair is in it
CONFOUNDED = ("mouth_width", "brow_height", "eye_size", "head_height")
"""Traits that motion imitates: smile, brow raise, blink and jaw. Leakage shows here first."""
AROUND = ("clothes_hue", "clothes_tone", "background_hue", "background_tone", "light_side")
"""What a picture shows beside the person: copied easily, so it is no proof of identity."""
READABLE = 0.5  # R² on degraded pictures from which a trait counts in similarity and error


class IdentityReader(nn.Module):
    """Pictures [N, 3, 64, 64] in [-1, 1] and place [N, 4] (measure.PLACED in [-1, 1]) to traits [N, 28] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = trunk(SIZE, (16, 24, 40), 64, 64)
        self.head = trunk(SIZE, (24, 48, 80), 128, 64)
        self.traits = nn.Sequential(nn.ReLU(), nn.Linear(128, len(IDENTITY)))

    def forward(self, images: Tensor, place: Tensor) -> Tensor:
        crop = upright(images, place, SIZE, REACH)
        return self.traits(torch.cat([self.whole(images), self.head(crop)], 1))


@torch.no_grad()
def measure_identity(images: np.ndarray | Tensor, batch: int = 32) -> np.ndarray:
    """Traits [N, 28] in the order of identity.IDENTITY, about [-1, 1], of square uint8 pictures of any size.

    `glasses` and `beard` are -1 or 1 in truth. Raises XNeMoError for anything but square uint8 pictures.
    """
    pictures, read = channels_first(images), []
    for first in range(0, len(pictures), batch):
        x = shrink(pictures[first : first + batch])
        read.append(_identity_reader()(x, reader().place(x).float()))
    return torch.cat(read).double().numpy()


def visible(identity: Tensor) -> Tensor:
    """Identities [N, 28] as a picture can show them: glasses and beard are there (1) or not (-1)."""
    seen = identity.clone()
    for name, threshold in (("glasses", 0.5), ("beard", 0.55)):  # as in identity.traits
        at = IDENTITY.index(name)
        seen[:, at] = torch.where(identity[:, at] > threshold, 1.0, -1.0)
    return seen


def accuracy() -> dict[str, dict[str, float]]:
    """R² per trait on people never trained on, for `clean` and `degraded` pictures, from the file's metadata."""
    from safetensors import safe_open

    with safe_open(WEIGHTS, "pt") as file:
        facts: dict[str, dict[str, float]] = json.loads(file.metadata()["r2"])
    return facts


def readable() -> list[int]:
    """Places in IDENTITY of the person's traits that are read well enough to be held against a result."""
    degraded = accuracy()["degraded"]
    return [at for at, name in enumerate(IDENTITY) if degraded[name] >= READABLE and name not in AROUND]


@cache
def _identity_reader() -> IdentityReader:
    from safetensors.torch import load_file

    network = IdentityReader()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return network.eval()
