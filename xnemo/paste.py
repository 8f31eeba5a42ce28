"""Putting an animated face back into its picture, without a seam."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

FEATHER = 0.12  # of the square's side: the width over which the result fades into the picture
OVAL = 0.86  # of the square's side: the longer axis of the oval in which a video's face is replaced


def paste(picture: np.ndarray, result: np.ndarray, square: np.ndarray, oval: bool = False) -> np.ndarray:
    """A copy of the picture uint8 [H,W,3] with the result uint8 [S,S,3] in its square [4] (pixels, may leave it).

    oval: only the head's surroundings are replaced, for pictures whose background moves on (a video portrait).
    Every pixel outside the square is the picture's own.
    """
    height, width = picture.shape[:2]
    left, top = (max(0, int(np.floor(v))) for v in square[:2])
    right, bottom = min(width, int(np.ceil(square[2]))), min(height, int(np.ceil(square[3])))
    out = picture.copy()
    if right <= left or bottom <= top:
        return out
    scale = float(square[2] - square[0]) / len(result)
    if scale < 1:  # shrink by averaging first: the warp below only interpolates
        side = max(1, round(len(result) * scale))
        result = cv2.resize(result, (side, side), interpolation=cv2.INTER_AREA)
        scale = float(square[2] - square[0]) / side
    to_picture = np.array(  # pixel centres lie at +0.5 on both sides
        [[scale, 0, square[0] - left + 0.5 * scale - 0.5], [0, scale, square[1] - top + 0.5 * scale - 0.5]]
    )
    size = (right - left, bottom - top)
    face = cv2.warpAffine(result, to_picture, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(_mask(len(result), oval), to_picture, size, flags=cv2.INTER_LINEAR)[..., None]
    own = out[top:bottom, left:right]
    own[:] = np.rint(own + mask * (face.astype(np.float32) - own)).astype(np.uint8)
    return out


@cache
def _mask(side: int, oval: bool) -> np.ndarray:
    """How much of the result is seen [side,side], 0 at the edge of the square, smooth."""
    line = np.abs((np.arange(side) + 0.5) * 2 / side - 1)  # 1 at the edge, 0 in the middle
    if oval:
        distance = np.hypot(line[None] / 0.9, line[:, None]) / OVAL
    else:
        corner = np.maximum(np.stack(np.broadcast_arrays(line[None], line[:, None])) - (1 - 2 * FEATHER), 0)
        distance = 1 - 2 * FEATHER + np.hypot(*corner)  # a square with round corners
    ramp = np.clip((1 - distance) / (2 * FEATHER), 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
