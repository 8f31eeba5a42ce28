"""From a video to clips: decode, find faces, cut shots, follow each face, filter, crop (training recipe A1).

Runs in a sandboxed child, on one part of a video at a time; what it returns is plain data. Frames are decoded
once, at no more than `max_side`, and only JPEG bytes leave. What is left out is counted by reason.
"""

import functools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipelines import tracks
from pipelines.tracks import Track
from xnemo.media import faces, images, video
from xnemo.media.faces import Face
from xnemo.media.limits import Limits
from xnemo.media.stills import Stills, probe_stills, stream_stills

T = TypeVar("T")


class ClipConfig(BaseModel):
    """What makes a clip. Lengths in frames at `fps`, sizes in pixels; a track that fails is counted by reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: float = Field(default=25.0, gt=0)
    size: int = Field(default=512, ge=32, le=2048)
    """Frames are stored as size x size."""
    square: float = Field(default=2.0, ge=1.1, le=6.0)
    """Side of a clip's square, in medians of its box; more leaves room to cut again around a single frame's box."""
    jpeg_quality: int = Field(default=95, ge=50, le=100)
    max_side: int = Field(default=1280, ge=128)
    """Videos are shrunk to this longer side while they are read; bounds memory."""
    min_frames: int = Field(default=32, ge=1)
    max_frames: int = Field(default=125, ge=1)
    """Longer stretches are cut into clips of at most this length; a clip is the unit of random reading."""
    faces: Literal["one", "largest", "each"] = "one"
    """one: frames with several faces end a clip (recipe); largest: keep the largest; each: a clip per face."""
    min_face_px: float = Field(default=200.0, ge=0)
    """Longer side of the box, in source pixels."""
    min_source_fps: float = Field(default=20.0, ge=0)
    max_jump: float = Field(default=0.25, gt=0)
    """Move of the centre between frames, in box sides; more means the detector lost the face."""
    max_scale_step: float = Field(default=0.2, gt=0)
    """|log| of the box side ratio between frames."""
    max_gap: int = Field(default=2, ge=0)
    """Frames without a face that are bridged by interpolation."""
    min_detection_rate: float = Field(default=0.9, ge=0, le=1)
    min_sharpness: float = Field(default=0.0, ge=0)
    shot_cut: float = Field(default=0.08, gt=0)
    """Mean change of a 32 x 32 thumbnail, of full scale, that starts a new shot."""
    detector: Literal["auto", "blazeface", "sfd", "haar"] = "auto"
    check_damage: bool = True
    """Refuse videos with damage that the decoder would paint over."""
    landmarks: bool = True
    """Find 68 points in each frame, where the network's weights are placed; the column is null elsewhere."""
    audio: bool = False


@dataclass(frozen=True)
class Person:
    """Who is meant and how the pictures lie: see the fields of the same names of `Source`."""

    region: tuple[float, float, float, float] | None = None
    region_of: tuple[float, float] = (0.0, 0.0)
    stills: Stills | None = None

    def box(self, width: float, height: float) -> np.ndarray | None:
        """The region in pixels of a picture of that size, a quarter larger; None on a square one."""
        if self.region is None or width == height:
            return None
        of_width, of_height = self.region_of
        across = height / of_height if of_height else 1.0
        along = width / of_width if of_width else across
        left, top, right, bottom = np.array(self.region) * [along, across, along, across]
        grown = np.array([right - left, bottom - top]) / 8
        return np.array([left - grown[0], top - grown[1], right + grown[0], bottom + grown[1]])


def examine(path: str, limits: Limits, stills: Stills | None = None) -> dict[str, Any]:
    """Header of a video as plain data: the fields of VideoInfo. Raises MediaError."""
    return vars(probe_stills(path, stills, limits) if stills else video.probe(path, limits))


def extract(
    path: str,
    info: dict[str, Any],
    start: float,
    end: float,
    config: ClipConfig,
    limits: Limits,
    person: Person = Person(),  # frozen
) -> dict[str, Any]:
    """Clips of the frames in [start, end) seconds: {"clips": [...], "dropped": {reason: frames}, "frames": n}.

    A clip is a dict of the columns this module knows: span, boxes, crop_box, frames, quality, ... Raises
    MediaError for a damaged file.
    """
    cv2.setNumThreads(1)
    header = video.VideoInfo(**info)
    dropped: Counter[str] = Counter()
    clock = Clock()
    clips, done = [], 0
    sizes: dict[str, Any] = {"fps": config.fps, "max_side": config.max_side, "start": start, "end": end}
    if person.stills:
        batches = stream_stills(path, person.stills, header, limits=limits, **sizes)
    else:
        batches = video.stream_frames(path, limits=limits, info=header, refuse_damage=config.check_damage, **sizes)
    for frames in _windows(clock.each("decode", batches), (end - start) * config.fps, 2 * config.max_frames):
        height, width = frames[0].shape[:2]
        found = clock.each("detect", (_detector(config.detector).detect(frame, quick=True) for frame in frames))
        region = person.box(width, height)
        faces_of = [[face for face in faces if region is None or _within(face, region)] for faces in found]
        for clip in clock.each("crop", _clips_of(frames, faces_of, header.width / width, config, dropped)):
            begin = start + (done + clip["first"]) / config.fps
            clip["span"] = [begin, begin + len(clip["frames"]) / config.fps]
            clip["audio"] = _sound(path, header, clip["span"], config, limits)
            clips.append(clip)
        done += len(frames)
    return {"clips": clips, "dropped": dict(+dropped), "frames": done, "seconds": dict(clock.seconds)}


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Pass the items on; the time their making takes is the stage's."""
        rest = iter(items)
        while True:
            began = time.monotonic()
            item = next(rest, self)
            self.seconds[stage] += time.monotonic() - began  # type: ignore[assignment]  # fractions are counted too
            if item is self:
                return
            yield item  # type: ignore[misc]


def _windows(batches: Iterator[np.ndarray], total: float, longest: int) -> Iterator[list[np.ndarray]]:
    """The frames in even windows of at most `longest`: as many as are held in memory at once."""
    size = max(1, math.ceil(total / max(1, math.ceil(total / longest))))
    held: list[np.ndarray] = []
    for batch in batches:
        held.extend(batch)
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held:
        yield held


def _clips_of(
    frames: list[np.ndarray], found: list[list[Face]], scale: float, config: ClipConfig, dropped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Clips of consecutive frames. found: the faces of each; scale: source pixels per pixel of these frames."""
    finder = _detector(config.detector)
    for track in tracks.follow(found, shot_starts(frames, config.shot_cut), config, scale, dropped):
        reason = _reject(frames, track, finder, config)
        if reason:
            dropped[reason] += len(track.boxes)
        else:
            clip = _clip(frames, track, scale, config)
            yield {**clip, "detector": finder.name}


def _within(face: Face, region: np.ndarray) -> bool:
    centre = (np.array(face.box[:2]) + np.array(face.box[2:])) / 2
    return bool((centre >= region[:2]).all() and (centre <= region[2:]).all())


@functools.cache
def _detector(name: str) -> faces.FaceDetector:
    return faces.detector(name)


def shot_starts(frames: list[np.ndarray], threshold: float) -> set[int]:
    """Indices at which a new shot begins, the first frame among them.

    A cut is a change of the thumbnail beyond `threshold` that also stands out fourfold against the changes around
    it, so fast motion is no cut; and the picture before it does not come back at once, so a flash is none.
    """
    small = [_thumbnail(frame) for frame in frames]
    change = np.array([0.0] + [float(np.abs(b - a).mean()) for a, b in pairwise(small)])
    starts = {0}
    for at in np.flatnonzero(change > threshold):
        around = np.concatenate([change[max(1, at - 3) : at], change[at + 1 : at + 4]])
        stands_out = len(around) == 0 or change[at] > 4 * np.median(around)
        if stands_out and not _flash(small, int(at), change[at] / 2):
            starts.add(int(at))
    return starts


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """float32 [32, 32, 3] in [0, 1]: each value the mean of sixteen samples. Averaging every pixel instead costs as
    much as finding the faces, and finds the same cuts (docs/ingest.md)."""
    sampled = cv2.resize(frame, (128, 128), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(sampled, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _flash(small: list[np.ndarray], at: int, near: float) -> bool:
    """Whether what was seen before frame `at` is seen again up to three frames on, or what is seen at it was before."""
    again = [np.abs(later - small[at - 1]).mean() for later in small[at + 1 : at + 4]]
    earlier = [np.abs(before - small[at]).mean() for before in small[max(0, at - 4) : at - 1]]
    return bool(min(again + earlier, default=1.0) < near)


def _reject(frames: list[np.ndarray], track: Track, finder: faces.FaceDetector, config: ClipConfig) -> str | None:
    """The reason against a track that needs its pixels: too blurred, or no human face at a second look."""
    if track.detection_rate < config.min_detection_rate:
        return "face_lost"
    if config.min_sharpness and _sharpness(frames, track) < config.min_sharpness:
        return "blurred"
    looks = [0, len(track.boxes) // 2, len(track.boxes) - 1]
    seen = [
        any(tracks.iou(track.boxes[at], np.array(face.box)) > 0.3 for face in finder.detect(frames[track.first + at]))
        for at in looks
    ]
    return "not_a_face" if sum(seen) < 2 else None


def _sharpness(frames: list[np.ndarray], track: Track) -> float:
    values = []
    for at in np.linspace(0, len(track.boxes) - 1, min(5, len(track.boxes))).astype(int):
        face = cut(frames[track.first + at], track.boxes[at], 128)
        values.append(cv2.Laplacian(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
    return float(np.median(values))


def _clip(frames: list[np.ndarray], track: Track, scale: float, config: ClipConfig) -> dict[str, Any]:
    from xnemo.crops import clip_square

    # whole pixels, so that the crop is a copy and one resize
    left, top, right, _ = np.round(clip_square(track.boxes, config.square))
    side = max(1.0, right - left)
    window = np.array([left, top, left + side, top + side])
    boxes = (track.boxes - np.tile(window[:2], 2)) * (config.size / side)
    pictures = [
        images.encode_jpeg(cut(frames[track.first + at], window, config.size), config.jpeg_quality)
        for at in range(len(boxes))
    ]
    return {
        "first": track.first,
        "face": track.number,
        "crop_box": (window * scale).tolist(),
        "face_boxes": boxes.astype(np.float32),
        "landmarks": _landmarks(frames, track, window, config),
        "frames": pictures,
        "quality": {
            "detection_rate": track.detection_rate,
            "sharpness": _sharpness(frames, track),
            "min_face_px": float(tracks.sides(track.boxes).min() * scale),
            "max_jump": track.max_jump,
        },
    }


def _landmarks(frames: list[np.ndarray], track: Track, window: np.ndarray, config: ClipConfig) -> np.ndarray | None:
    """float32 [n, 136]: 68 points (x, y) in crop pixels; None where the network's weights are not placed."""
    find = _landmark_net() if config.landmarks else None
    if find is None:
        return None
    points = np.stack([find(frames[track.first + at], box) for at, box in enumerate(track.boxes)])
    return ((points - window[:2]) * (config.size / (window[2] - window[0]))).reshape(-1, 136).astype(np.float32)


@functools.cache
def _landmark_net() -> faces.Landmarks | None:
    return faces.landmarks68()


def cut(frame: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """The part of uint8 [H, W, 3] inside a box (rounded to whole pixels), black outside, as [size, size, 3]."""
    left, top, right, bottom = (round(float(value)) for value in window)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    inside = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if inside.shape[0] < bottom - top or inside.shape[1] < right - left:
        above, before = max(0, -top), max(0, -left)
        padded = np.zeros((bottom - top, right - left, 3), np.uint8)
        padded[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
        inside = padded
    return images.resize(inside, size, size)


def _sound(path: str, header: video.VideoInfo, span: list[float], config: ClipConfig, limits: Limits) -> bytes | None:
    if not (config.audio and header.has_audio):
        return None
    from xnemo.media import sound

    return sound.cut_sound(path, span[0], span[1], limits=limits)


def check_networks(config: ClipConfig) -> None:
    """Load the detector and the landmark network once, so that a missing or damaged model file stops a run before it
    begins. Raises XNeMoError."""
    _detector(config.detector)
    if config.landmarks:
        _landmark_net()
