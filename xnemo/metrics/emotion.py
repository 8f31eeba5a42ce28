"""Emotion: agreement of valence and arousal between result and driver (EMO-SIM; paper section 4.2).

EmoNet (Toisoul et al. 2021, 8 expressions) reads valence and arousal, each about [-1, 1], from a 256 x 256 face
crop; the agreement over frames is Lin's concordance (CCC) and Pearson's correlation (PCC).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.metrics import weights
from xnemo.motion_encoder import ConvBlock, Hourglass

SIDE = 256
CROP = 1.1  # of the face box: EmoNet's own crops are tight boxes of the SFD detector
LIVELY = 0.02  # standard deviation from which a clip's own correlation means something


def ccc(a: np.ndarray, b: np.ndarray) -> float:
    """Lin's concordance 2 cov / (var a + var b + (mean a - mean b)²), population moments: 1 only where a equals b.

    Two constant equal series agree (1); a constant and another series do not (0).
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return 1.0 if spread < 1e-15 else float(2 * np.mean((a - a.mean()) * (b - b.mean())) / spread)


def pcc(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; nan where a series does not move, for then there is none."""
    a, b = np.asarray(a, float) - np.mean(a), np.asarray(b, float) - np.mean(b)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-12 else float("nan")


def emo_sim(result: np.ndarray, driver: np.ndarray) -> float:
    """Mean of CCC and PCC of valence and of arousal, of series [F, 2] each; higher is better, 1 is perfect."""
    return float(np.mean([kind(result[:, i], driver[:, i]) for i in range(2) for kind in (ccc, pcc)]))


def pooled(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """EMO-SIM over all frames of all videos together (the primary figure): pairs of result and driver [F, 2]."""
    return emo_sim(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))


def pooled_draws(pairs: Sequence[tuple[np.ndarray, np.ndarray]], counts: np.ndarray) -> np.ndarray:
    """`pooled` [D] for each row of counts [D, videos] (`intervals.resamples`): how often a video is in the sample.

    A sum of moments per video is enough for both correlations, so that no frame is looked at twice.
    """
    sums = counts @ np.stack([_moments(a, b).ravel() for a, b in pairs])
    n, a, b, aa, bb, ab = np.moveaxis(sums.reshape(len(counts), 6, 2), 1, 0)
    mean_a, mean_b = a / n, b / n
    var_a, var_b, cov = aa / n - mean_a**2, bb / n - mean_b**2, ab / n - mean_a * mean_b
    with np.errstate(invalid="ignore", divide="ignore"):
        concordance = 2 * cov / (var_a + var_b + (mean_a - mean_b) ** 2)
        correlation = cov / np.sqrt(var_a * var_b)
    return np.stack([concordance, correlation]).mean((0, 2))


def _moments(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[6, 2]: per series the number of frames and the sums of a, b, a², b² and a b."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return np.stack([np.full(2, len(a), float), a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)])


def lively(driver: np.ndarray) -> bool:
    """Whether a driver [F, 2] moves enough for a figure of its own."""
    return bool(len(driver) > 1 and (driver.std(0) > LIVELY).all())


class _Hourglass(Hourglass):
    """EmoNet enlarges by repeating pixels."""

    def _level(self, level: int, x: Tensor) -> Tensor:
        b1, b2, b3 = (self.get_submodule(f"{branch}_{level}") for branch in ("b1", "b2", "b3"))
        low = b2(F.max_pool2d(x, 2))
        low = b3(self._level(level - 1, low) if level > 1 else self.b2_plus_1(low))
        return b1(x) + F.interpolate(low, scale_factor=2, mode="nearest")


class EmoNet(nn.Module):
    """Faces [N, 3, 256, 256] RGB in [0, 1] -> valence and arousal [N, 2]; layout of the published `emonet_8.pth`.

    A face-alignment network of two hourglasses; its last landmark maps, summed, weigh its features before four
    convolution blocks and two linear layers.
    """

    def __init__(self, expressions: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64)
        self.conv2, self.conv3, self.conv4 = ConvBlock(64, 128), ConvBlock(128, 128), ConvBlock(128, 256)
        for i in range(2):
            setattr(self, f"m{i}", _Hourglass(256, 4, 0.0))
            setattr(self, f"top_m_{i}", ConvBlock(256, 256))
            setattr(self, f"conv_last{i}", nn.Conv2d(256, 256, 1))
            setattr(self, f"bn_end{i}", nn.BatchNorm2d(256))
            setattr(self, f"l{i}", nn.Conv2d(256, 68, 1))
        self.bl0, self.al0 = nn.Conv2d(256, 256, 1), nn.Conv2d(68, 256, 1)
        self.conv1x1_input_emo_2 = nn.Conv2d(3 * 256, 256, 1)
        self.emo_net_2 = nn.Sequential(*(part for _ in range(4) for part in (ConvBlock(256, 256), nn.MaxPool2d(2))))
        self.emo_fc_2 = nn.Sequential(
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, expressions + 2)
        )

    def forward(self, faces: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv2(F.relu(self.bn1(self.conv1(faces)))), 2)
        x = self.conv4(self.conv3(x))
        into, features = x, []
        for i in range(2):
            m, top, last, norm, maps_of = (
                self.get_submodule(f"{part}{i}") for part in ("m", "top_m_", "conv_last", "bn_end", "l")
            )
            y = F.relu(norm(last(top(m(into)))))
            maps = maps_of(y)
            if i == 0:
                y = self.bl0(y)
                into = into + y + self.al0(maps)
            features.append(y)
        attended = torch.cat(features, 1) * maps.sum(1, keepdim=True)
        y = self.emo_net_2(self.conv1x1_input_emo_2(torch.cat([x, attended], 1)))
        return self.emo_fc_2(F.avg_pool2d(y, 4).flatten(1))[:, -2:]

    @torch.no_grad()
    def read(self, faces: np.ndarray) -> np.ndarray:
        """Valence and arousal float64 [N, 2] of face crops uint8 [N, 256, 256, 3]."""
        pixels = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float() / 255
        return self(pixels.to(self.bl0.weight)).double().cpu().numpy()


def load_emonet(given: Mapping[str, str] | None = None) -> EmoNet:
    """The network with published weights. Raises `weights.NotComputed` where the file is absent."""
    path = weights.checked("emonet", given)
    found = weights.tensors(path)
    last = found.get("emo_fc_2.3.weight")
    network = EmoNet(8 if last is None else len(last) - 2)
    weights.fill(network, found, str(path))
    return network
