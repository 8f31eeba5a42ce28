"""Cross-reenactment: Table 1's right half for one video, added up batch by batch (paper section 4.2).

Frames without a face in the result or in the driver are skipped in APD, AED and EMO-SIM, and counted. What is kept of a
long video is its valence and arousal (pooled with the other videos' later) and a bounded number of meshes.
"""

from __future__ import annotations

import numpy as np

from xnemo.metrics import emotion, expression, identity
from xnemo.metrics.faces import Faces

SHAPES = 1024
"""Frames whose mesh is kept for AED-mesh: of longer videos every second, fourth, … one."""


class CrossFigures:
    """Sums over the frames of one video. `add` parts in order, then ask for `figures`.

    person: the portrait's embedding [512], or None without ArcFace. id_sim: to the portrait. id_leak: to the driver of
    the same frame; id_between: portrait to driver, what the leak has to be read against.
    """

    def __init__(self, person: np.ndarray | None = None) -> None:
        self.person = person
        self.frames, self.both, self.stride = 0, 0, 1
        self.sums: dict[str, float] = {}
        self.shapes: list[tuple[np.ndarray, np.ndarray]] = []
        self.emotions: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, result: Faces, driver: Faces) -> None:
        """What was seen in the same frames of both; of unequal parts the shorter counts."""
        count = min(len(result), len(driver))
        result, driver = result.first(count), driver.first(count)
        self.frames += count
        self._sum("detected_result", result.found)
        self._sum("detected_driver", driver.found)
        if self.person is not None and result.embedding is not None and driver.embedding is not None:
            self._sum("id_sim", identity.id_sim(result.embedding, self.person))
            self._sum("id_leak", identity.cosines(result.embedding, driver.embedding))
            self._sum("id_between", identity.id_sim(driver.embedding, self.person))
        both = result.found & driver.found
        self._sum("apd", expression.apd(result.angles[both], driver.angles[both]))
        if result.blendshapes is not None and driver.blendshapes is not None:
            self._sum("aed", expression.aed(result.blendshapes[both], driver.blendshapes[both]))
        if result.emotion is not None and driver.emotion is not None:
            self.emotions.append((result.emotion[both], driver.emotion[both]))
        self._keep_shapes(result.shape[both], driver.shape[both])

    def figures(self) -> dict[str, float]:
        """Means over frames, and how many were skipped; a figure that no frame had is left out."""
        if not self.frames:
            return {"skipped_frames": 0.0}
        per_face = {"apd", "aed"}
        counts = {name: self.both if name in per_face else self.frames for name in self.sums}
        found = {name: total / counts[name] for name, total in self.sums.items() if counts[name]}
        found["skipped_frames"] = float(self.frames - self.both)
        if self.shapes:
            found["aed_mesh"] = float(expression.aed_mesh(*map(np.stack, zip(*self.shapes, strict=True))).mean())
        result, driver = self.emotion_tracks()
        if len(driver) and emotion.lively(driver):
            found["emo_sim"] = emotion.emo_sim(result, driver)
        return found

    def emotion_tracks(self) -> tuple[np.ndarray, np.ndarray]:
        """Valence and arousal [F, 2] of result and driver, of the frames where both have a face."""
        made, driven = ([np.empty((0, 2)), *(pair[side] for pair in self.emotions)] for side in range(2))
        return np.concatenate(made), np.concatenate(driven)

    def _sum(self, name: str, values: np.ndarray) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())

    def _keep_shapes(self, result: np.ndarray, driver: np.ndarray) -> None:
        for pair in zip(result, driver, strict=True):
            if self.both % self.stride == 0:
                self.shapes.append(pair)
            self.both += 1
            if len(self.shapes) > SHAPES:
                self.shapes, self.stride = self.shapes[::2], 2 * self.stride
