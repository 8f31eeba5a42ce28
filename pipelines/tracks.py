"""Faces followed from frame to frame, and the stretches of them that are good enough for a clip."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from xnemo.media.blazeface import overlap
from xnemo.media.faces import Face

if TYPE_CHECKING:
    from pipelines.clips import ClipConfig


@dataclass(frozen=True, eq=False)
class Track:
    """One face in consecutive frames. boxes: [n, 4] pixels of the decoded frames; first: index of its first
    frame; number: which face of the shot; max_jump: in box sides."""

    first: int
    boxes: np.ndarray
    number: int
    detection_rate: float
    max_jump: float


@dataclass(eq=False)
class _Path:
    """A face being followed: its box by frame index, as detected."""

    boxes: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return max(self.boxes)

    @property
    def size(self) -> float:
        return float(np.median(sides(np.array(list(self.boxes.values()))))) * len(self.boxes)


def follow(
    found: Sequence[list[Face]], shots: set[int], config: "ClipConfig", scale: float, dropped: Counter[str]
) -> Iterator[Track]:
    """Tracks of `min_frames` to `max_frames` frames that pass the filters on boxes; `dropped` counts, by
    reason, the frames that are left out. `scale`: source pixels per decoded pixel."""
    borders = [*sorted(shots), len(found)]
    for begin, end in pairwise(borders):
        paths = _link(found, begin, end, config.max_gap)
        if config.faces == "largest" and paths:
            paths = [max(paths, key=lambda path: path.size)]
        covered: set[int] = set()
        for number, path in enumerate(paths):
            boxes, bad = _judge(path, found, config, scale)
            covered |= boxes.keys()
            yield from _stretches(path, boxes, bad, number, config, dropped)
        dropped["no_face"] += sum(not found[at] and at not in covered for at in range(begin, end))


def _link(found: Sequence[list[Face]], begin: int, end: int, max_gap: int) -> list[_Path]:
    """Join boxes of neighbouring frames (best overlap first) into paths, in order of appearance."""
    paths: list[_Path] = []
    for at in range(begin, end):
        boxes = [np.array(face.box) for face in found[at]]
        alive = [path for path in paths if at - path.last <= max_gap + 1]
        pairs = sorted(
            ((iou(path.boxes[path.last], box), p, b) for p, path in enumerate(alive) for b, box in enumerate(boxes)),
            reverse=True,
        )
        taken: set[int] = set()
        extended: set[int] = set()
        for value, p, b in pairs:
            if value > 0.2 and p not in extended and b not in taken:
                alive[p].boxes[at] = boxes[b]
                extended.add(p)
                taken.add(b)
        paths += [_Path({at: box}) for b, box in enumerate(boxes) if b not in taken]
    return paths


def _judge(
    path: _Path, found: Sequence[list[Face]], config: "ClipConfig", scale: float
) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """(boxes of all frames of a path, short gaps interpolated; the reason against each frame that has one)."""
    known = sorted(path.boxes)
    filled = np.arange(known[0], known[-1] + 1)
    values = np.array([path.boxes[at] for at in known])
    boxes = np.stack([np.interp(filled, known, values[:, side]) for side in range(4)], axis=1)
    side = sides(boxes)
    jump, step = jumps(boxes)
    bad: dict[int, str] = {}
    for index, at in enumerate(int(value) for value in filled):
        if config.faces == "one" and len(found[at]) > 1:
            bad[at] = "several_faces"
        elif side[index] * scale < config.min_face_px:
            bad[at] = "small_face"
        elif jump[index] > config.max_jump or step[index] > config.max_scale_step:
            bad[at] = "jump"
    return dict(zip(filled.tolist(), boxes, strict=True)), bad


def _stretches(
    path: _Path,
    boxes: dict[int, np.ndarray],
    bad: dict[int, str],
    number: int,
    config: "ClipConfig",
    dropped: Counter[str],
) -> Iterator[Track]:
    """Runs of good frames, cut evenly to at most `max_frames`. The first frame after a jump is good again."""
    run: list[int] = []
    for at in [*boxes, max(boxes) + 2]:
        broken = bool(run) and (at != run[-1] + 1 or at in bad)
        if broken:
            yield from _cut_run(path, boxes, run, number, config, dropped)
            run = []
        if at in bad and bad[at] != "jump":
            dropped[bad[at]] += 1
        elif at in boxes:
            run.append(at)


def _cut_run(
    path: _Path, boxes: dict[int, np.ndarray], run: list[int], number: int, config: "ClipConfig", dropped: Counter[str]
) -> Iterator[Track]:
    parts = -(-len(run) // config.max_frames)
    for part in np.array_split(run, parts):
        if len(part) < config.min_frames:
            dropped["short"] += len(part)
            continue
        stack = np.array([boxes[int(at)] for at in part])
        own = sum(int(at) in path.boxes for at in part)
        yield Track(int(part[0]), stack, number, own / len(part), float(jumps(stack)[0].max()))


def jumps(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(move of the centre in box sides, |log| of the side ratio) of boxes [n, 4] against the one before; 0 first."""
    side = sides(boxes)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    move = np.linalg.norm(np.diff(centre, axis=0), axis=1) / side[:-1]
    step = np.abs(np.diff(np.log(side)))
    return np.concatenate([[0.0], move]), np.concatenate([[0.0], step])


def sides(boxes: np.ndarray) -> np.ndarray:
    """Longer side of boxes [n, 4]."""
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), 1e-6)


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes [4]."""
    return float(overlap(box, other[None])[0])
