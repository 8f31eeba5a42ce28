"""What an animation takes from its pictures: the face in each, its crops, and how the head moves. No networks but
the face detector (paper section 3.3; released code: crops of 2.0 and 1.1 times the face box)."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from xnemo import crops
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import Face, FaceDetector
from xnemo.media.faces import detector as default_detector
from xnemo.media.images import is_picture, read_image, resize
from xnemo.media.limits import LIMITS, Limits, MediaError
from xnemo.media.video import probe, read_frames, stream_frames
from xnemo.tokens.motion_file import still_rts

HeadMotion = Literal["relative", "still", "absolute"]
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): "faces" found, in frames ("motion" read, where only that is asked for); then,
interleaved, finished "frames", from 0 on, and "steps", calls of the denoiser."""

MAX_GAP_S = 0.5  # a face lost for longer is refused: what it did meanwhile would be invented
MAX_JUMP = 0.75  # of the box side, per frame: farther away is another face
READ_SIDE = 1280  # driving frames are read no larger: their faces are cut to 224 pixels or less
FOLLOWED = 25  # frames for which a face that was seen needs no second close look
STILL_FPS = 25.0  # of a picture as driver
PICTURE = replace(LIMITS, pixels=36_000_000)  # a portrait's: any camera's photograph, but no bomb
SIGMA_S = 0.2  # smoothing of the boxes in seconds: 5 frames at 25 fps (released code)


@dataclass(frozen=True)
class Portrait:
    """box [4]: the face in the picture's pixels. reference uint8 [S,S,3]: 2.0 × square around it. face uint8 [M,M,3]:
    its 1.1 × square, for the null motion. size: (width, height) of the picture."""

    box: np.ndarray
    reference: np.ndarray
    face: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class Driving:
    """A driving video whose face is known in every frame; the frames themselves are read when needed.

    boxes [F,4]: smoothed, in pixels of the frames as `frames` gives them. f_rts float32 [F,3] (Δy, Δx, s).
    """

    path: Path
    boxes: np.ndarray
    f_rts: np.ndarray
    fps: float
    start: float
    has_audio: bool
    limits: Limits

    def __len__(self) -> int:
        return len(self.boxes)

    def frames(self) -> Iterator[np.ndarray]:
        """Batches of the frames, uint8 [n,H,W,3]."""
        if is_picture(self.path):
            yield _still(self.path, self.limits)
            return
        yield from stream_frames(
            self.path, fps=self.fps, max_side=READ_SIDE, start=self.start, max_frames=len(self), limits=self.limits,
            steady=True,
        )  # fmt: skip

    def faces(self, size: int) -> Iterator[np.ndarray]:
        """Batches of the face crops for the motion encoder, uint8 [n,size,size,3]."""
        squares, done = crops.square(self.boxes, crops.MOTION_SCALE), 0
        for frames in self.frames():
            yield cut(frames, squares[done : done + len(frames)], size)
            done += len(frames)


def picture_of(source: str | Path | bytes | np.ndarray, limits: Limits = PICTURE) -> np.ndarray:
    """The portrait as uint8 RGB [H,W,3]: a picture, its bytes, or the first frame of a video file."""
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, bytes) or is_picture(source) or Path(source).stat().st_size == 0:
        return read_image(source, limits=limits)
    return read_frames(source, max_frames=1, limits=replace(limits, pixels=min(limits.pixels, LIMITS.pixels)))[0]


def find_faces(image: np.ndarray, detector: FaceDetector | None = None) -> list[Face]:
    """The faces of a picture as they are numbered everywhere: the largest is 0."""
    return sorted((detector or default_detector()).detect(image), key=_side, reverse=True)


def prepare_portrait(
    source: str | Path | bytes | np.ndarray,
    config: ModelConfig,
    detector: FaceDetector | None = None,
    face: int | None = None,
    limits: Limits = PICTURE,
) -> Portrait:
    """Find the face and cut its crops. Raises MediaError (`no_face`, `no_such_face`, …)."""
    image = picture_of(source, limits)
    faces = find_faces(image, detector)
    if not faces:
        raise MediaError("no_face", "no face was found in the portrait: give a picture that shows one from the front")
    if not 0 <= (face or 0) < len(faces):
        raise _no_such_face(face or 0, "the portrait", len(faces))
    return cut_portrait(image, np.asarray(faces[face or 0].box, dtype=np.float64), config)


def cut_portrait(image: np.ndarray, box: np.ndarray, config: ModelConfig) -> Portrait:
    """The crops of a picture uint8 [H,W,3] whose face [4] is known."""
    height, width = image.shape[:2]
    reference = cut(image[None], crops.square(box, crops.REFERENCE_SCALE)[None], config.image_size)[0]
    motion = cut(image[None], crops.square(box, crops.MOTION_SCALE)[None], config.motion_encoder.image_size)[0]
    return Portrait(box, reference, motion, (width, height))


def prepare_driving(
    path: str | Path,
    detector: FaceDetector | None = None,
    *,
    head_motion: HeadMotion = "relative",
    portrait: Portrait | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    fps: float | None = None,
    limits: Limits = LIMITS,
    progress: Progress | None = None,
    face: int = 0,
) -> Driving:
    """Read the video once and find its face in every frame. Raises MediaError (`no_face`, `face_lost`, …).

    A picture counts as a video of one frame. fps: resample to this rate (default: the video's own). portrait is needed
    for "absolute" only, and must then have the video's aspect ratio. face: which one, by size in the first frame that
    shows so many.
    """
    path, start, detector = Path(path), start or 0.0, detector or default_detector()
    if is_picture(path):
        return _prepare_still(path, detector, head_motion, portrait, fps, face, limits)
    info = probe(path, limits)
    check_span(start, end)
    rate = float(Fraction(fps or info.fps).limit_denominator(1001))  # 24.999… is 25
    total = min(math.ceil((min(end or info.duration, info.duration) - start) * rate), max_frames or 1 << 40)
    size, follower, lately, done = (0, 0), Follower(face, path.name), deque([False], maxlen=FOLLOWED), 0
    for frames in stream_frames(
        path, fps=rate, max_side=READ_SIDE, start=start, end=end, max_frames=max_frames, limits=limits, info=info,
        steady=True,
    ):  # fmt: skip
        size = (frames.shape[2], frames.shape[1])
        for frame in frames:  # once a face has passed the close look, following it needs no more of them
            faces = detector.detect(frame, quick=any(lately))
            if not follower.see(faces):
                follower.look_again(detector, frame)
            lately.append(bool(faces))
        done += len(frames)
        if progress:
            progress("faces", done, max(total, done))
    boxes = crops.smooth_boxes(bridge(follower.boxes(), rate, path.name), SIGMA_S * rate)
    return Driving(path, boxes, _f_rts(boxes, head_motion, portrait, size), rate, start, info.has_audio, limits)


def check_span(start: float, end: float | None) -> None:
    """Refuse seconds of a video that are no span."""
    if not (math.isfinite(start) and start >= 0) or not (end is None or (math.isfinite(end) and end > start)):
        until = "the video's end" if end is None else f"{end:g} s"
        raise XNeMoError(f"the span from {start:g} s to {until} is none: give 0 <= start < end")


def _prepare_still(
    path: Path,
    detector: FaceDetector,
    head_motion: HeadMotion,
    portrait: Portrait | None,
    fps: float | None,
    face: int,
    limits: Limits,
) -> Driving:
    picture = _still(path, limits)
    follower = Follower(face, path.name)
    follower.see(detector.detect(picture[0]))
    boxes = bridge(follower.boxes(), STILL_FPS, path.name)
    f_rts = _f_rts(boxes, head_motion, portrait, (picture.shape[2], picture.shape[1]))
    return Driving(path, boxes, f_rts, fps or STILL_FPS, 0.0, False, limits)


def _still(path: Path, limits: Limits) -> np.ndarray:
    """A picture as a batch [1,H,W,3] of one driving frame."""
    image = read_image(path, limits=PICTURE if limits is LIMITS else limits)
    scale = min(1.0, READ_SIDE / max(image.shape[:2]))
    return resize(image, round(image.shape[1] * scale), round(image.shape[0] * scale))[None]


class Follower:
    """One face through the frames of a video: the `face`-th by size of the first frame that shows so many, then always
    the nearest."""

    def __init__(self, face: int = 0, name: str = "the video") -> None:
        self.face, self.name, self.most = face, name, 0
        self.last: np.ndarray | None = None
        self._seen = array("d")  # not one small object a frame: they would keep the heap from shrinking between them

    def see(self, faces: Sequence[Face]) -> bool:
        """The faces of the next frame; whether the one that is followed is among them."""
        chosen = self._choose(faces)
        self.last = self.last if chosen is None else np.asarray(chosen.box, dtype=np.float64)
        self.most = max(self.most, len(faces))
        self._seen.extend((math.nan,) * 4 if chosen is None else chosen.box)
        return chosen is not None

    def look_again(self, detector: FaceDetector, frame: np.ndarray) -> None:
        """Search the frame just seen where the face was last: there it is found beside a larger one, too."""
        if self.last is not None:
            del self._seen[-4:]
            self.see(detector.around(frame, self.last))

    def boxes(self) -> np.ndarray:
        """[F,4], rows of NaN where it is lost. Raises MediaError (`no_such_face`) if no frame showed so many."""
        if self.last is None and self.most and not 0 <= self.face < self.most:
            raise _no_such_face(self.face, f"{self.name}, where it shows most,", self.most)
        return np.array(self._seen).reshape(-1, 4)

    def _choose(self, faces: Sequence[Face]) -> Face | None:
        if self.last is None:
            by_size = sorted(faces, key=_side, reverse=True)
            return by_size[self.face] if 0 <= self.face < len(faces) else None
        nearest = min(faces, key=partial(_distance, last=self.last), default=None)
        return None if nearest is None or _distance(nearest, self.last) > MAX_JUMP else nearest


def _no_such_face(face: int, where: str, count: int) -> MediaError:
    choice = f"0 (the largest) to {count - 1}" if count > 1 else "0"
    return MediaError("no_such_face", f"face {face} was asked for, but {where} shows {count}: give {choice}")


def bridge(boxes: np.ndarray, fps: float, name: str) -> np.ndarray:
    """Boxes [F,4] with the rows of NaN interpolated; raises MediaError where they last longer than MAX_GAP_S."""
    known = np.flatnonzero(~np.isnan(boxes[:, 0]))
    if len(known) == 0:
        raise MediaError("no_face", f"no face was found in {name}: give a video that shows one from the front")
    edges = np.concatenate([[-1], known, [len(boxes)]])
    widest = int(np.argmax(np.diff(edges)))
    lost = int(edges[widest + 1] - edges[widest] - 1)
    if lost > max(1.0, MAX_GAP_S * fps):
        since, until = (edges[widest] + 1) / fps, edges[widest + 1] / fps
        raise MediaError(
            "face_lost",
            f"{name} shows no face from {since:.1f} s to {until:.1f} s: cut that part off "
            f"(gaps up to {MAX_GAP_S:g} s are bridged)",
        )
    everywhere = np.arange(len(boxes))
    return np.stack([np.interp(everywhere, known, column[known]) for column in boxes.T], axis=1)


def cut(frames: np.ndarray, squares: np.ndarray, size: int) -> np.ndarray:
    """Squares [n,4] (pixels) out of frames uint8 [n,H,W,3], resized: uint8 [n,size,size,3]; black outside."""
    height, width = frames.shape[1:3]
    left, top = np.clip(np.floor(squares[:, :2].min(0)).astype(int) - 2, 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(squares[:, 2:].max(0)).astype(int) + 2, [left + 1, top + 1], [width, height])
    part = torch.from_numpy(np.array(frames[:, top:bottom, left:right])).permute(0, 3, 1, 2).float()
    moved = torch.from_numpy(squares - np.array([left, top, left, top]))
    shrink = float(np.median(squares[:, 2] - squares[:, 0])) / size
    out = crops.face_crop(part, moved, size, supersample=max(1, round(shrink)))
    return out.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _f_rts(boxes: np.ndarray, head_motion: HeadMotion, portrait: Portrait | None, size: tuple[int, int]) -> np.ndarray:
    if head_motion == "still":
        return still_rts(len(boxes))
    if head_motion == "relative":
        return crops.clamp_f_rts(crops.f_rts(boxes, boxes[:1])).astype(np.float32)
    if head_motion != "absolute":
        raise XNeMoError(f"head_motion is {head_motion!r}: give relative, still or absolute")
    if portrait is None or abs(portrait.size[0] / portrait.size[1] - size[0] / size[1]) > 0.02:
        raise XNeMoError('head_motion "absolute" needs a portrait that is a frame of the driving video: use "relative"')
    return crops.f_rts(boxes, portrait.box[None] * (size[0] / portrait.size[0])).astype(np.float32)


def _side(face: Face) -> float:
    left, top, right, bottom = face.box
    return max(right - left, bottom - top)


def _distance(face: Face, last: np.ndarray) -> float:
    """Of the centres, in sides of the last box."""
    box = np.asarray(face.box, dtype=np.float64)
    side = max(last[2] - last[0], last[3] - last[1])
    return float(np.hypot(*((box[:2] + box[2:]) / 2 - (last[:2] + last[2:]) / 2)) / side)
