"""The result of an animation: frames, their rate, and the sound that goes with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from xnemo.media import provenance
from xnemo.media.images import resize
from xnemo.media.writing import CRF, write_video


@dataclass(frozen=True)
class Clip:
    """frames: uint8 RGB [F,H,W,3]. fps: frames per second. audio: a media file whose sound belongs to the frames
    from its time `audio_start` (seconds) on, or None. model: what made it, for the note in the file."""

    frames: np.ndarray
    fps: float
    audio: Path | None = None
    audio_start: float = 0.0
    model: str = ""

    def save(self, path: str | Path, provenance: bool = True, *, label: bool = False, crf: int = CRF) -> Path:
        """Write an mp4, webm, gif or PNG folder; see `save_frames`."""
        return save_frames(
            path,
            self.frames,
            self.fps,
            audio=self.audio,
            audio_start=self.audio_start,
            model=self.model,
            marks=provenance,
            label=label,
            crf=crf,
        )


def save_frames(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    *,
    audio: Path | None = None,
    audio_start: float = 0.0,
    model: str = "",
    marks: bool = True,
    label: bool = False,
    crf: int = CRF,
) -> Path:
    """Write frames uint8 RGB [H,W,3], as they come, in the format that the name's ending says.

    Frames under 256 pixels are enlarged to it: players show them badly, and compression would wash the marks
    out. marks: watermark and note in the file. label: also a visible label. crf: quality, lower is better.
    """
    enlarged = map(_enlarge, frames)
    marked = provenance.mark(enlarged, visible=label) if marks else enlarged
    metadata = provenance.note(model) if marks else {}
    return write_video(path, marked, fps, audio_from=audio, crf=crf, metadata=metadata, audio_start=audio_start)


def side_by_side(
    portrait: np.ndarray,
    driving: Iterable[np.ndarray] | None,
    result: Iterable[np.ndarray],
) -> Iterator[np.ndarray]:
    """Frames [H,W',3]: portrait | driving | result, brought to the result's height (at least 256). Streams.

    portrait uint8 RGB [h,w,3]; driving (None: left out) and result: frames uint8 RGB; the longer of them is cut.
    """
    left: np.ndarray | None = None
    for driver, frame in zip(repeat(None) if driving is None else driving, result, strict=False):
        frame = _enlarge(frame)
        left = _to_height(portrait, len(frame)) if left is None else left
        middle = [] if driver is None else [_to_height(driver, len(frame))]
        yield np.concatenate([left, *middle, frame], axis=1)


def _enlarge(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = provenance.SMALLEST / min(height, width)
    return frame if scale <= 1 else resize(frame, round(width * scale), round(height * scale))


def _to_height(frame: np.ndarray, height: int) -> np.ndarray:
    return frame if len(frame) == height else resize(frame, round(frame.shape[1] * height / len(frame)), height)
