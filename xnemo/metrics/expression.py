"""Expression and head pose: AED and APD (paper section 4.2), from the face mesh that the detector uses.

APD: mean |difference| of pitch, yaw and roll in degrees. AED: mean L1 over 51 blendshapes in [0, 1]. AED-mesh, of our
own, needs no further weights: how differently the mesh points move, in centimetres of a canonical face. Lower is
better for all three, 0 is perfect. They are not MediaPipe Tasks' own answer: docs/metrics.md says where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from xnemo.metrics import weights

# MediaPipe's canonical face (Apache-2.0): point, its mirror image (or itself), weight, x, y, z in centimetres; x to
# the picture's right, y up, z to the viewer. The mirror has -x. These are the points its pose is fitted to.
CANONICAL = (
    (4, 4, 0.0709099, 0.0, -0.463170, 7.586580), (6, 6, 0.0321001, 0.0, 2.473255, 5.788627),
    (10, 10, 0.0084466, 0.0, 8.261778, 4.481535), (33, 263, 0.0587242, -4.445859, 2.663991, 3.173422),
    (54, 284, 0.0076671, -6.279331, 6.615427, 1.425850), (67, 297, 0.0090781, -3.523964, 8.005976, 3.729163),
    (117, 346, 0.0097919, -5.258659, 0.945811, 2.974312), (119, 348, 0.0145654, -3.300681, 0.861641, 3.872784),
    (121, 350, 0.0185914, -1.820731, 1.467954, 4.224124), (127, 356, 0.0051980, -7.743095, 2.364999, -2.005167),
    (129, 358, 0.1206252, -1.785794, -0.978284, 4.850470), (132, 361, 0.0055600, -7.270895, -2.890917, -2.252455),
    (133, 362, 0.0532862, -1.856432, 2.585245, 3.757904), (136, 365, 0.0668905, -5.085276, -7.178590, 0.714711),
    (143, 372, 0.0148165, -6.407571, 2.236021, 1.560843), (147, 376, 0.0142628, -6.234883, -1.944430, 1.663542),
    (198, 420, 0.0254622, -1.246815, 0.230297, 5.681036), (205, 425, 0.0472523, -3.832928, -1.537326, 4.137731),
)  # fmt: skip
SUBSET = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249,
    251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314,
    317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382,
    384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, *range(468, 478),
)  # fmt: skip
"""The 146 of 478 points that the blendshape network reads (MediaPipe's face_blendshapes_graph)."""
EYES = ((33, 133), (362, 263))  # outer and inner corner as seen from the left; the second is mirrored for the network
IRIS_SIDE, IRIS_REACH = 64, 2.3


def _basis() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [(*row[:1], *row[2:]) for row in CANONICAL]
    rows += [(mirror, weight, -x, y, z) for point, mirror, weight, x, y, z in CANONICAL if mirror != point]
    table = np.array(rows)
    return table[:, 0].astype(int), table[:, 1] / table[:, 1].sum(), table[:, 2:]


POINTS, WEIGHTS, POSITIONS = _basis()


def upright(mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The head's rotation [3, 3] and the mesh [468, 3] laid back onto the canonical head, in centimetres.

    mesh: pixels, x right, y down, z away. Weighted least squares over 33 points that expression moves little
    (Kabsch), weak perspective.
    """
    seen = mesh * np.array([1.0, -1.0, -1.0])
    a, b = POSITIONS - WEIGHTS @ POSITIONS, seen[POINTS] - WEIGHTS @ seen[POINTS]
    u, size, vt = np.linalg.svd(b.T @ (WEIGHTS[:, None] * a))
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ mirror @ vt
    scale = (size * np.diag(mirror)).sum() / (WEIGHTS @ (a**2).sum(1))
    laid = (seen - WEIGHTS @ seen[POINTS]) @ rotation / max(scale, 1e-9) + WEIGHTS @ POSITIONS
    return rotation, laid


def angles(rotation: np.ndarray) -> np.ndarray:
    """(pitch, yaw, roll) in degrees of R = R_y(yaw) R_x(-pitch) R_z(-roll): up, to the picture's right, clockwise."""
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = -np.arctan2(rotation[1, 0], rotation[1, 1])
    return np.degrees([pitch, yaw, roll])


def apd(result: np.ndarray, driver: np.ndarray) -> np.ndarray:
    """Per frame [F]: mean |difference| in degrees of angles [F, 3], the shorter way round."""
    turn = (result - driver + 180) % 360 - 180
    return np.abs(turn).mean(1)


def aed(result: np.ndarray, driver: np.ndarray) -> np.ndarray:
    """Per frame [F]: mean |difference| of 51 blendshapes [F, 51]."""
    return np.abs(result - driver).mean(1)


def aed_mesh(result: np.ndarray, driver: np.ndarray) -> np.ndarray:
    """Per frame [F]: mean distance in cm between how points of two upright meshes [F, 468, 3] leave their medians.

    Each video's median shape is taken off first: it holds the person's face, and the expression he rests in.
    """
    away = (result - np.median(result, 0)) - (driver - np.median(driver, 0))
    return np.linalg.norm(away, axis=2).mean(1)


class Blendshapes(nn.Module):
    """MediaPipe Blendshape V2: points [N, 146, 2] in pixels -> 52 coefficients [N, 52] in [0, 1], `_neutral` first.

    An MLP-Mixer over 96 mixed points and one token of its own; the tensor names are those of the public PyTorch port.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(146, 96, 1), nn.Conv2d(2, 64, 1)
        self.extra_token = nn.Parameter(torch.zeros(1, 64, 1, 1))
        self.mlpmixer_blocks = nn.Sequential(*(_Mixer() for _ in range(4)))
        self.output_mlp = nn.Conv2d(64, 52, 1)

    def forward(self, points: Tensor) -> Tensor:
        x = points - points.mean(1, keepdim=True)
        x = 0.5 * x / x.norm(dim=2, keepdim=True).mean(1, keepdim=True)
        x = self.conv2(self.conv1(x[:, :, None]).permute(0, 3, 2, 1))  # [N, 64, 1, 96]
        x = torch.cat([self.extra_token.expand(len(x), -1, -1, -1), x], 3).permute(0, 3, 2, 1)
        x = self.mlpmixer_blocks(x)[:, :1].permute(0, 3, 2, 1)
        return self.output_mlp(x).sigmoid().flatten(1)


class _Mixer(nn.Module):
    """Tokens x [N, 97, 1, 64] mixed among each other, then within."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp_token_mixing, self.mlp_channel_mixing = _mlp(97, 384), _mlp(64, 256)
        self.norm1, self.norm2 = (nn.LayerNorm(64, eps=1.0132789611816406e-6, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_token_mixing(self.norm1(x))
        return x + self.mlp_channel_mixing(self.norm2(x).permute(0, 3, 2, 1)).permute(0, 3, 2, 1)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, hidden, 1), nn.ReLU(), nn.Dropout(0.0), nn.Conv2d(hidden, width, 1))


class IrisNet:
    """Ten iris points [10, 2] in pixels of an image, given its face mesh (points 468 to 477 of MediaPipe)."""

    def __init__(self, path: Path) -> None:
        self.net = cv2.dnn.readNetFromTFLite(str(path))

    def __call__(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        return np.concatenate([self._eye(image, mesh[list(eye), :2], bool(n)) for n, eye in enumerate(EYES)])

    def _eye(self, image: np.ndarray, corners: np.ndarray, mirrored: bool) -> np.ndarray:
        """Five points of one iris: a square crop of 2.3 times the corners' distance, turned upright."""
        along = corners[1] - corners[0]
        scale = IRIS_REACH * max(float(np.hypot(*along)), 1.0) / IRIS_SIDE
        angle = np.arctan2(along[1], along[0])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if mirrored:
            turn = turn @ np.diag([-1.0, 1.0])
        to_image = np.column_stack([turn, corners.mean(0) - turn @ np.full(2, IRIS_SIDE / 2)])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(image, to_image, (IRIS_SIDE, IRIS_SIDE), flags=flags)
        self.net.setInput((crop / np.float32(255)).astype(np.float32).transpose(2, 0, 1)[None])
        points = self.net.forward(("output_iris",))[0].reshape(5, 3)[:, :2].astype(np.float64)
        return points @ turn.T + to_image[:, 2]


class BlendshapeReader:
    """51 blendshapes of a face, from its picture and mesh."""

    def __init__(self, network: Blendshapes, iris: IrisNet) -> None:
        self.network, self.iris = network, iris

    @torch.no_grad()
    def read(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] and mesh [468, 3] in pixels -> float64 [51], without `_neutral`."""
        points = np.concatenate([mesh[:, :2], self.iris(image, mesh)])[list(SUBSET)]
        return self.network(torch.from_numpy(points).float()[None])[0, 1:].double().numpy()


def load_blendshapes(given: Mapping[str, str] | None = None) -> BlendshapeReader:
    """Both networks with published weights. Raises `weights.NotComputed` where a file is absent."""
    names = ("blendshapes", "iris")
    for name in names:
        weights.find(name, given)  # an absent file is told before any is opened
    path, iris = (weights.checked(name, given) for name in names)
    network = Blendshapes()
    weights.fill(network, weights.tensors(path), str(path))
    return BlendshapeReader(network, IrisNet(iris))
