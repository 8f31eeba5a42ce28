"""Read pose, place and expression off a picture of a drawn head, with two small networks trained on renders alone.

The first finds the head (x, y, scale, roll) in 64 pixels; the second reads the rest from a crop laid upright around
it. How well each parameter is read on people it never saw is written in the file's metadata (`accuracy`).
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.errors import XNeMoError
from xnemo.synthetic.geometry import HEAD_SIZE, HEAD_Y, MOTION, RANGES

WEIGHTS = Path(__file__).with_name("measure.safetensors")
SIZE = 64  # the picture the networks see
CROP = 48  # the upright crop, CROP_REACH head units to each side
CROP_REACH = 0.78
PLACED = ("x", "y", "log_scale", "roll")
READ = tuple(name for name in MOTION if name != "roll")


@dataclass(frozen=True)
class Measurement:
    """One float array [N] per parameter: angles in degrees; x, y in frame sides from the middle rest; scale 1 is the
    size at rest; the others as in geometry.RANGES (left and right are the picture's)."""

    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    jaw: np.ndarray
    smile: np.ndarray
    pucker: np.ndarray
    blink_left: np.ndarray
    blink_right: np.ndarray
    brow_left: np.ndarray
    brow_right: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray
    cheek: np.ndarray


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.norm(self.first(F.relu(x)))))


def trunk(size: int, channels: tuple[int, int, int], hidden: int, outputs: int) -> nn.Sequential:
    a, b, c = channels
    return nn.Sequential(
        nn.Conv2d(3, a, 3, 2, 1), nn.BatchNorm2d(a), nn.ReLU(),
        nn.Conv2d(a, b, 3, 2, 1), Block(b), nn.BatchNorm2d(b), nn.ReLU(),
        nn.Conv2d(b, c, 3, 2, 1), Block(c), nn.BatchNorm2d(c), nn.ReLU(),
        nn.Conv2d(c, 24, 1), nn.Flatten(), nn.Linear(24 * (size // 8) ** 2, hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


class Reader(nn.Module):
    """Pictures [N, 3, 64, 64] in [-1, 1] to (place [N, 4] as PLACED, rest [N, 12] as READ), each scaled to [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.place = trunk(SIZE, (16, 24, 40), 64, len(PLACED))
        self.read = trunk(CROP, (24, 48, 80), 128, len(READ))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        place = self.place(images)
        return place, self.read(upright(images, place.float()))


def upright(images: Tensor, place: Tensor, size: int = CROP, reach_units: float = CROP_REACH) -> Tensor:
    """Crops [N, 3, size, size] that follow the head's place [N, 4] (PLACED, scaled to [-1, 1])."""
    x, y, log_scale, roll = from_unit(place, PLACED).unbind(1)
    reach = reach_units * HEAD_SIZE * log_scale.exp()
    cos, sin = reach * torch.deg2rad(roll).cos(), reach * torch.deg2rad(roll).sin()
    affine = torch.stack([cos, -sin, 2 * x, sin, cos, 2 * y + HEAD_Y], 1).view(-1, 2, 3)
    grid = F.affine_grid(affine, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def to_unit(values: Tensor, names: tuple[str, ...]) -> Tensor:
    """Parameters [N, P] in their own units, scaled so that RANGES becomes [-1, 1]."""
    low, high = torch.tensor([RANGES[name] for name in names], device=values.device).unbind(1)
    return (2 * values - low - high) / (high - low)


def from_unit(values: Tensor, names: tuple[str, ...]) -> Tensor:
    """The inverse of `to_unit`."""
    low, high = torch.tensor([RANGES[name] for name in names], device=values.device).unbind(1)
    return 0.5 * (values * (high - low) + low + high)


def shrink(images: Tensor) -> Tensor:
    """Pictures uint8 [N, 3, S, S] to the networks' [N, 3, 64, 64] in [-1, 1]."""
    pixels = images.float() / 127.5 - 1
    if images.shape[-1] == SIZE:
        return pixels
    return F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)


@torch.no_grad()
def measure(images: np.ndarray | Tensor, batch: int = 32) -> Measurement:
    """Measure square pictures uint8 [N, H, W, 3] or [N, 3, H, W] of any size. Raises XNeMoError for anything else."""
    pictures = channels_first(images)
    network = reader()
    places, reads = [], []
    for first in range(0, len(pictures), batch):
        place, read = network(shrink(pictures[first : first + batch]))
        places.append(place)
        reads.append(read)
    values = dict(zip(PLACED, from_unit(torch.cat(places), PLACED).unbind(1), strict=True))
    values |= dict(zip(READ, from_unit(torch.cat(reads), READ).unbind(1), strict=True))
    values["scale"] = values.pop("log_scale").exp()
    return Measurement(**{name: value.double().numpy() for name, value in values.items()})


def accuracy() -> dict[str, dict[str, float]]:
    """R² per parameter on people never trained on, for `clean` and `degraded` pictures, from the file's metadata."""
    from safetensors import safe_open

    with safe_open(WEIGHTS, "pt") as file:
        facts: dict[str, dict[str, float]] = json.loads(file.metadata()["r2"])
    return facts


@cache
def reader() -> Reader:
    """The trained networks."""
    from safetensors.torch import load_file

    network = Reader()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return network.eval()


def channels_first(images: np.ndarray | Tensor) -> Tensor:
    """Square uint8 pictures as [N, 3, H, W] on the CPU; XNeMoError for anything else."""
    pictures = torch.as_tensor(images)
    if pictures.ndim == 4 and pictures.shape[-1] == 3:
        pictures = pictures.permute(0, 3, 1, 2)
    square = pictures.ndim == 4 and pictures.shape[1] == 3 and pictures.shape[2] == pictures.shape[3]
    if not square or pictures.dtype != torch.uint8 or not len(pictures):
        got = f"{pictures.dtype} {list(pictures.shape)}"
        raise XNeMoError(f"measure needs square uint8 pictures [N, H, W, 3] or [N, 3, H, W], not {got}")
    return pictures.cpu()
