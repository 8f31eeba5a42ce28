"""Marks that say a video is synthetic, and the detector of each: label, watermark, note in the file.

The watermark is spread over mid-low DCT coefficients of a fixed 128 × 128 grid, so it survives H.264 and
resizing. The part of the picture that happens to look like the mark is cancelled first ("improved spread
spectrum", Malvar and Florêncio 2003), so every frame carries the mark at the same strength.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

LABEL = "SYNTHETIC"
NOTE_KEY = "comment"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # C2PA's word for it
THRESHOLD = 5.0
"""Standard deviations above chance at which a watermark counts as found: 3 in 10 million unmarked videos."""
STRENGTH = 1.2
"""Root mean square of the watermark, in grey levels of 255."""
SMALLEST = 256
"""Frames smaller than this do not carry the watermark through H.264; enlarge them first."""

_GRID, _BLOCK = 128, 8
_COUNT = _GRID // _BLOCK
_U, _V = np.array([(u, v) for u in range(4) for v in range(4) if 2 <= u + v <= 5]).T
_BITS = _COUNT * _COUNT * len(_U)
_k = np.arange(_BLOCK)
_DCT = np.sqrt(2 / _BLOCK) * np.cos(np.pi * (2 * _k[None] + 1) * _k[:, None] / (2 * _BLOCK))
_DCT[0] /= np.sqrt(2)


@dataclass(frozen=True)
class Marks:
    """What `inspect` found in a video file."""

    label: bool
    watermark: float
    """Standard deviations above chance; at least THRESHOLD means marked."""
    note: dict[str, Any] | None

    @property
    def synthetic(self) -> bool:
        return self.label or self.watermark >= THRESHOLD or bool(self.note and self.note.get("synthetic"))


def watermark(frame: np.ndarray) -> np.ndarray:
    """The frame (uint8 RGB [H,W,3]) with the invisible mark; about 1.2 grey levels, 46 dB."""
    pattern, gain = _pattern(*frame.shape[:2])
    present = float(_coefficients(frame) @ _mark())
    amount = np.clip(STRENGTH - present / gain, 0.0, 2.5 * STRENGTH)
    return np.clip(np.rint(frame + amount * pattern[..., None]), 0, 255).astype(np.uint8)


def watermark_score(frames: Iterable[np.ndarray]) -> float:
    """How far the mark in these frames (one size) stands above what random marks would give, in σ."""
    mean = np.mean([_coefficients(frame) for frame in frames], axis=0)
    limit = 4 * np.median(np.abs(mean)) + 1e-9
    mean = np.clip(mean, -limit, limit)  # one sharp edge must not decide
    return float(_mark() @ mean / (np.std(_signs(7, 256) @ mean) + 1e-9))


def label(frame: np.ndarray) -> np.ndarray:
    """The frame with a small visible label in its lower right corner."""
    alpha, text, (top, left) = _label_art(*frame.shape[:2])
    out = frame.copy()
    corner = out[top : top + len(alpha), left : left + alpha.shape[1]]
    corner[:] = np.rint(corner * (1 - alpha[..., None]) + (text * alpha)[..., None])
    return out


def has_label(frames: Iterable[np.ndarray]) -> bool:
    """Whether `label` was applied to these frames (of one size)."""
    mean = np.mean([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames], axis=0)
    alpha, text, (top, left) = _label_art(*mean.shape)
    found = mean[top : top + len(alpha), left : left + alpha.shape[1]]
    solid = alpha > 0
    if min(found[solid].std(), text[solid].std()) < 1:
        return False
    return bool(np.corrcoef(found[solid], text[solid])[0, 1] > 0.7)


def mark(frames: Iterable[np.ndarray], *, visible: bool = False) -> Iterator[np.ndarray]:
    """Watermark each frame, and label it if `visible`. Streams."""
    for frame in frames:
        yield watermark(label(frame) if visible else frame)


def note(model: str, **facts: Any) -> dict[str, str]:
    """Container metadata for `write_video(metadata=…)`: synthetic, by which model, and further facts."""
    body = {"synthetic": True, "generator": "X-NeMo", "model": model, "digitalSourceType": SOURCE_TYPE, **facts}
    return {NOTE_KEY: json.dumps(body, ensure_ascii=False)}


def read_note(path: str | Path) -> dict[str, Any] | None:
    """The note in a video file, a gif, a picture or a folder of PNG files, or None."""
    from xnemo.media.images import is_picture

    path = Path(path)
    if path.is_dir():
        return next((read_note(file) for file in sorted(path.glob("*.png"))), None)
    try:
        body = json.loads(_picture_note(path) if is_picture(path) else _container_note(path))
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return body if isinstance(body, dict) and "synthetic" in body else None


def _container_note(path: Path) -> str:
    from xnemo.media.limits import LIMITS
    from xnemo.media.probe import open_container

    with open_container(path, LIMITS) as container:
        texts = {key.lower(): value for key, value in container.metadata.items()}  # Matroska writes it in capitals
    return str(texts[NOTE_KEY])


def _picture_note(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        if NOTE_KEY in image.info:
            return str(image.info[NOTE_KEY])
        return str(json.loads(image.getexif()[0x010E])[NOTE_KEY])


def inspect(path: str | Path, *, frames: int = 32) -> Marks:
    """Look for all three marks in the first `frames` frames of a video file, gif, picture or folder of PNG files."""
    from xnemo.media.images import is_picture, read_image
    from xnemo.media.video import stream_frames

    path = Path(path)
    if path.is_dir():
        sample = [read_image(file) for file in sorted(path.glob("*.png"))[:frames]]
    elif is_picture(path):
        sample = [read_image(path)]
    else:
        batches = stream_frames(path, max_frames=frames)
        sample = list(islice((frame for batch in batches for frame in batch), frames))
    return Marks(label=has_label(sample), watermark=watermark_score(sample), note=read_note(path))


@cache
def _signs(seed: int, count: int = 1) -> np.ndarray:
    """Random ±1 [count, bits]; a fixed generator, so that marks of any version are found."""
    bits = np.random.Generator(np.random.PCG64(seed)).random((count, _BITS)) < 0.5
    return np.where(bits, -1.0, 1.0)


def _mark() -> np.ndarray:
    return _signs(2025)[0]


def _coefficients(frame: np.ndarray) -> np.ndarray:
    """The frame's brightness in the coefficients that carry the mark [bits]."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)
    shrink = min(grey.shape) >= _GRID
    grid = cv2.resize(grey, (_GRID, _GRID), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    blocks = grid.reshape(_COUNT, _BLOCK, _COUNT, _BLOCK).transpose(0, 2, 1, 3)
    return (_DCT @ blocks @ _DCT.T)[..., _U, _V].reshape(-1)


@cache
def _pattern(height: int, width: int) -> tuple[np.ndarray, float]:
    """The mark as a picture [H,W] of unit strength, and how strongly the detector answers to it."""
    blocks = np.zeros((_COUNT, _COUNT, _BLOCK, _BLOCK))
    blocks[..., _U, _V] = _mark().reshape(_COUNT, _COUNT, -1)
    grid = (_DCT.T @ blocks @ _DCT).transpose(0, 2, 1, 3).reshape(_GRID, _GRID)
    picture = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    picture /= np.sqrt((picture**2).mean())
    probe = np.clip(np.rint(128 + 8 * picture), 0, 255).astype(np.uint8)
    gain = float(_coefficients(np.repeat(probe[..., None], 3, axis=2)) @ _mark()) / 8
    return picture, gain


@cache
def _label_art(height: int, width: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Opacity [h,w] and grey levels [h,w] of the label, and the pixel (top, left) where it goes."""
    scale = max(0.3, min(height, width) / 512 * 0.55)
    font, pad = cv2.FONT_HERSHEY_SIMPLEX, max(2, round(8 * scale))
    (w, h), below = cv2.getTextSize(LABEL, font, scale, 1)
    box = (min(h + below + pad, height), min(w + 2 * pad, width))
    text = np.full(box, 20, np.uint8)
    cv2.putText(text, LABEL, (pad, h + pad // 2), font, scale, 245, 1, cv2.LINE_AA)
    alpha = np.where(text > 20, 0.95, 0.55)
    return alpha, text.astype(np.float64), (max(0, height - box[0] - pad), max(0, width - box[1] - pad))
