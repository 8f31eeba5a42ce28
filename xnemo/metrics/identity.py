"""Identity: cosine of ArcFace embeddings (ID-SIM, also called CSIM; paper section 4.2).

Towards the portrait it says whether the person is kept (higher is better); the same figure towards the driver is the
identity leak (lower is better), to be read beside the likeness of portrait and driver themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from xnemo.errors import XNeMoError
from xnemo.metrics import weights

SIDE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace wants the left and right eye (as seen), the tip of the nose and the corners of the mouth, in pixels."""
FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))
"""The same five points from the 468 of the face mesh: an eye is the middle of its corners."""


def five_points(mesh: np.ndarray) -> np.ndarray:
    """Points [5, 2] of TEMPLATE's order from a face mesh [468, >=2] in pixels."""
    return np.stack([mesh[list(group), :2].mean(0) for group in FIVE])


def align(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face uint8 [112, 112, 3] out of an image uint8 [H, W, 3]: the least-squares similarity of five points."""
    to_template = similarity(points, TEMPLATE)
    return cv2.warpAffine(image, to_template, (SIDE, SIDE), flags=cv2.INTER_LINEAR)


def centre(image: np.ndarray) -> np.ndarray:
    """A fixed central crop uint8 [112, 112, 3], for a frame whose face was not found: the middle half, resized."""
    height, width = image.shape[:2]
    side = min(height, width) // 2
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(image[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[2, 3] of the scale, turn and shift that bring points [n, 2] nearest to target [n, 2] (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    spread = (a**2).sum()
    if spread < 1e-9:
        raise XNeMoError("the face points coincide: no face can be cut there")
    along, across = (a * b).sum() / spread, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    turn = np.array([[along, -across], [across, along]])
    return np.column_stack([turn, target.mean(0) - turn @ source.mean(0)])


def id_sim(embeddings: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Cosines [N] of embeddings [N, D] with one reference [D]: 1 the same face, about 0 two strangers."""
    return cosines(embeddings, reference[None])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row [N] of two arrays [N, D], or of one with the other's only row."""
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(length, 1e-12)


class Block(nn.Module):
    """Improved residual block (arXiv 2004.04989): the norm comes first, PReLU inside."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(out), nn.PReLU(out)
        self.conv2, self.bn3 = nn.Conv2d(out, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        short = [nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)] if stride > 1 else []
        self.downsample = nn.Sequential(*short)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv1(self.bn1(x)))
        return self.bn3(self.conv2(self.prelu(inner))) + self.downsample(x)


class ArcFace(nn.Module):
    """IResNet of InsightFace's arcface_torch, any depth: aligned faces [N, 3, 112, 112] RGB in [-1, 1] -> [N, 512]."""

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 13, 30, 3)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        channels = 64
        for number, (count, out) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
            first = Block(channels, out, 2)
            setattr(self, f"layer{number}", nn.Sequential(first, *(Block(out, out, 1) for _ in range(count - 1))))
            channels = out
        self.bn2 = nn.BatchNorm2d(512)
        self.fc, self.features = nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(faces)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))

    @torch.no_grad()
    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Embeddings float64 [N, 512] of aligned faces uint8 [N, 112, 112, 3]."""
        pixels = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self(pixels.to(self.fc.weight)).double().cpu().numpy()


def load_arcface(given: Mapping[str, str] | None = None) -> ArcFace:
    """The network with published weights (its depth is told by the file). Raises `weights.NotComputed` if absent."""
    path = weights.checked("arcface", given)
    found = weights.tensors(path)
    blocks = [len({n.split(".")[1] for n in found if n.startswith(f"layer{number}.")}) for number in range(1, 5)]
    if 0 in blocks:
        raise XNeMoError(f"{path} is no IResNet backbone: it lacks layer{blocks.index(0) + 1}")
    network = ArcFace((blocks[0], blocks[1], blocks[2], blocks[3]))
    weights.fill(network, found, str(path))
    return network
