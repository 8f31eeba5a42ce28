"""A contact sheet of a data set: what the pipeline cut, with boxes and ids, to be looked at before training."""

from pathlib import Path

import cv2
import numpy as np

from pipelines.shards import Clip, ClipReader
from xnemo.media import images
from xnemo_platform.errors import PlatformError

_CAPTION = 16
_GREEN, _WHITE = (80, 255, 80), (235, 235, 235)


def sheet(uri: str, *, split: str | None = None, clips: int = 16, frames: int = 8, size: int = 128) -> np.ndarray:
    """uint8 RGB picture: one line per clip, spread evenly over the data set, `frames` of it side by side.

    Raises PlatformError if there is no clip.
    """
    reader = ClipReader(uri, split)
    if len(reader) == 0:
        raise PlatformError(f"{uri} holds no clip{f' of split {split}' if split else ''}: ingest some first")
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(clips, len(reader))).round().astype(int))
    return np.concatenate([_line(reader[int(at)], frames, size) for at in chosen])


def write_sheet(
    uri: str, path: str | Path, *, split: str | None = None, clips: int = 16, frames: int = 8, size: int = 128
) -> Path:
    """Write `sheet` as PNG and return its path."""
    images.write_image(path, sheet(uri, split=split, clips=clips, frames=frames, size=size))
    return Path(path)


def _line(clip: Clip, frames: int, size: int) -> np.ndarray:
    cells = []
    for at in np.linspace(0, len(clip.frames) - 1, frames).round().astype(int):
        cell = images.decode_jpeg(clip.frames[at], size).copy()
        left, top, right, bottom = (clip.boxes[at] * (size / clip.facts["size"])).round().astype(int)
        cv2.rectangle(cell, (int(left), int(top)), (int(right), int(bottom)), _GREEN, 1)
        cv2.putText(cell, str(at), (3, size - 4), cv2.FONT_HERSHEY_PLAIN, 0.8, _WHITE, 1, cv2.LINE_AA)
        cells.append(cell)
    facts, quality = clip.facts, clip.facts["quality"]
    text = (
        f"{facts['clip_id']}  {facts['identity']}  {facts['split']}  {facts['n_frames']} frames  "
        f"{facts['emotion'] or ''}  face {quality['min_face_px']:.0f} px  sharp {quality['sharpness']:.0f}"
    )
    caption = np.zeros((_CAPTION, size * frames, 3), np.uint8)
    cv2.putText(caption, text, (3, _CAPTION - 4), cv2.FONT_HERSHEY_PLAIN, 0.8, _WHITE, 1, cv2.LINE_AA)
    return np.concatenate([caption, np.concatenate(cells, axis=1)])
