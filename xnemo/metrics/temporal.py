"""Temporal steadiness: flicker and warping error. Ours only; the paper publishes neither.

Both see pictures [H, W, 3] in [0, 1] one after the other and keep two of them at most.
"""

from __future__ import annotations

import cv2
import numpy as np


class Flicker:
    """Amplitude of what alternates from frame to frame: mean |x(t-1) - 2 x(t) + x(t+1)| / 4.

    0 for a still picture and for any change at constant rate; a where pixels jump between +a and -a; at most 1.
    """

    def __init__(self) -> None:
        self.before: list[np.ndarray] = []
        self.total, self.count = 0.0, 0

    def add(self, frame: np.ndarray) -> None:
        """The next frame, float [H, W, 3] in [0, 1]."""
        if len(self.before) == 2:
            self.total += float(np.abs(self.before[0] - 2 * self.before[1] + frame).mean()) / 4
            self.count += 1
        self.before = [*self.before[-1:], frame]

    def value(self) -> float:
        """The mean over time; nan with fewer than three frames."""
        return self.total / self.count if self.count else float("nan")


class WarpingError:
    """Lai et al. 2018: mean squared difference of a frame and the next one warped back onto it by optical flow.

    Only where forward and backward flow agree (no occlusion) and the warp stays inside. 0 is perfect. The flow is
    OpenCV's DIS (medium), not FlowNet2: figures compare among themselves, not with papers.
    """

    def __init__(self) -> None:
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.before: np.ndarray | None = None
        self.total, self.count = 0.0, 0

    def add(self, frame: np.ndarray) -> None:
        """The next frame, float [H, W, 3] in [0, 1]."""
        if self.before is not None:
            error = warping_error(self.before, frame, self.flow)
            if np.isfinite(error):
                self.total, self.count = self.total + error, self.count + 1
        self.before = frame

    def value(self) -> float:
        """The mean over pairs of frames; nan with fewer than two."""
        return self.total / self.count if self.count else float("nan")


def warping_error(first: np.ndarray, second: np.ndarray, flow: cv2.DISOpticalFlow) -> float:
    """Of one pair of frames; nan where no pixel is seen in both."""
    grey = [cv2.cvtColor((frame * 255).round().astype(np.uint8), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    forward, backward = flow.calc(grey[0], grey[1], None), flow.calc(grey[1], grey[0], None)
    height, width = grey[0].shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    to_x, to_y = x + forward[..., 0], y + forward[..., 1]
    back = cv2.remap(backward, to_x, to_y, cv2.INTER_LINEAR)
    round_trip = ((forward + back) ** 2).sum(2)
    length = (forward**2).sum(2) + (back**2).sum(2)
    seen = round_trip < 0.01 * length + 0.5  # Sundaram et al. 2010
    seen &= (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    warped = cv2.remap(second.astype(np.float32), to_x, to_y, cv2.INTER_LINEAR)
    return float(((warped - first) ** 2).mean(2)[seen].mean()) if seen.any() else float("nan")
