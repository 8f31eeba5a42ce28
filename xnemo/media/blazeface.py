"""BlazeFace (short range) and the 468-point face mesh, run by OpenCV's DNN module from their .tflite files.

Networks and their arithmetic: Bazarevsky et al. 2019 (BlazeFace), Kartynnik et al. 2019 (face mesh); the
released X-NeMo code uses the same detector through MediaPipe.
"""

from pathlib import Path

import cv2
import numpy as np

SIDE = 128  # input of the detector, pixels
MESH_SIDE = 192


class BlazeNet:
    """The detector: one image at a time. (A batch > 1 goes through OpenCV 4.14 and comes out wrong.)"""

    def __init__(self, path: Path):
        self.net = cv2.dnn.readNetFromTFLite(str(path))
        self.anchors = _anchors()

    def __call__(self, image: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray]:
        """uint8 RGB [H, W, 3] to (rows [n, 16]: box (l, t, r, b) then six points x, y in pixels of the image;
        scores [n]), overlapping answers merged. Points: right eye, left eye, nose, mouth, right, left ear."""
        height, width = image.shape[:2]
        side = max(height, width)
        inner = max(1, round(width * SIDE / side)), max(1, round(height * SIDE / side))
        small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
        offset = np.array([(SIDE - inner[0]) // 2, (SIDE - inner[1]) // 2])
        canvas = np.zeros((SIDE, SIDE, 3), np.float32)
        canvas[offset[1] : offset[1] + inner[1], offset[0] : offset[0] + inner[0]] = small / 127.5 - 1
        self.net.setInput(canvas.transpose(2, 0, 1)[None])
        logits, raw = self.net.forward(("classificators", "regressors"))
        scores = 1 / (1 + np.exp(-np.clip(logits.reshape(-1), -50, 50)))
        keep = scores >= min_score
        if not keep.any():
            return np.zeros((0, 16)), np.zeros(0)
        points = _decode(raw.reshape(-1, 16)[keep].astype(np.float64), self.anchors[keep])
        points = ((points.reshape(-1, 8, 2) - offset) * (np.array([width, height]) / inner)).reshape(-1, 16)
        return _merge(points, scores[keep].astype(np.float64))


def _anchors() -> np.ndarray:
    """Anchor centres [896, 2] in pixels: two on each cell of a 16 x 16 grid, six on each of 8 x 8."""
    grids = []
    for cells, per_cell in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * (SIDE / cells)
        grids.append(np.repeat(centres, per_cell, axis=0))
    return np.concatenate(grids)


def _decode(raw: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Raw regressions [n, 16] (centre, size, six points, relative to anchors) to corners and points."""
    centre, half = raw[:, :2] + anchors, raw[:, 2:4] / 2
    points = raw[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return np.concatenate([centre - half, centre + half, points.reshape(-1, 12)], axis=1)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with boxes [n, 4]."""
    corner = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:4], boxes[:, 2:4])
    inside = np.prod(np.maximum(corner[1] - corner[0], 0), axis=1)
    areas = np.prod(np.maximum(boxes[:, 2:4] - boxes[:, :2], 0), axis=1)
    return inside / np.maximum(areas + np.prod(box[2:4] - box[:2]) - inside, 1e-9)


def _merge(rows: np.ndarray, scores: np.ndarray, threshold: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Non-maximum suppression that averages what it suppresses, weighted by score (BlazeFace section 4.2)."""
    merged, best = [], []
    while len(rows):
        top = int(scores.argmax())
        same = overlap(rows[top, :4], rows) > threshold
        same[top] = True
        merged.append(np.average(rows[same], axis=0, weights=scores[same]))
        best.append(scores[top])
        rows, scores = rows[~same], scores[~same]
    return np.array(merged), np.array(best)


class MeshNet:
    """The mesh network: 468 points of one face and how sure it is that there is one."""

    def __init__(self, path: Path):
        self.net = cv2.dnn.readNetFromTFLite(str(path))

    def __call__(self, image: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, float]:
        """uint8 RGB [H, W, 3] and one detector row [16] to (points [468, 2] in pixels, presence in [0, 1])."""
        points, presence = self.in_depth(image, row)
        return points[:, :2], presence

    def in_depth(self, image: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, float]:
        """As the call, with depth: points [468, 3], z in pixels too, growing away from the viewer."""
        eyes = row[6:8] - row[4:6]
        angle = np.arctan2(eyes[1], eyes[0])
        scale = 1.5 * max(row[2] - row[0], row[3] - row[1]) / MESH_SIDE
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = (row[:2] + row[2:4]) / 2
        to_image = np.column_stack([turn, centre - turn @ np.full(2, MESH_SIDE / 2)])
        crop = cv2.warpAffine(image, to_image, (MESH_SIDE, MESH_SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        self.net.setInput((crop / np.float32(255)).astype(np.float32).transpose(2, 0, 1)[None])
        presence, mesh = self.net.forward(("conv2d_31", "conv2d_21"))
        points = mesh.reshape(468, 3).astype(np.float64)
        flat = points[:, :2] @ turn.T + to_image[:, 2]
        return np.column_stack([flat, points[:, 2] * scale]), float(1 / (1 + np.exp(-presence.reshape(-1)[0])))
