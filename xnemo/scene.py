"""Who is animated by whom: everything that pictures tell before a network runs.

Several faces of one portrait may each have a driver; the portrait may be a video whose face is replaced frame by
frame. The first driver gives the frame rate and the sound; the shortest of all gives the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xnemo import crops
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import FaceDetector
from xnemo.media.images import is_picture, resize
from xnemo.media.video import probe, stream_frames
from xnemo.options import Options
from xnemo.paste import paste
from xnemo.prepare import (
    READ_SIDE,
    Driving,
    HeadMotion,
    Portrait,
    Progress,
    cut_portrait,
    picture_of,
    prepare_driving,
    prepare_portrait,
)
from xnemo.tokens.motion_file import Motion, still_rts

PASTED_SIDE, PASTED_PIXELS = 4096, 4096 * 2304  # a larger picture is shrunk for a face in it: no player decodes more
Source = str | Path | Motion
"""What drives a face: a video, a picture, or a motion taken before."""


@dataclass(frozen=True)
class Actor:
    """One face of the portrait and its driver: a followed video, or a motion. squares [F or 1,4]: where the result
    belongs in the whole picture. looks: of a video portrait, begins to give its look at frames asked for in order."""

    face: int
    portrait: Portrait
    driving: Driving | Motion
    squares: np.ndarray
    looks: Callable[[], Callable[[int], Portrait]] | None = None


@dataclass(frozen=True)
class Scene:
    """picture uint8 [H,W,3]: the whole portrait, of a video its first frame, shrunk where it is very large. audio:
    heard from audio_start (s) on."""

    picture: np.ndarray
    video: Path | None
    actors: tuple[Actor, ...]
    frames: int
    fps: float
    audio: Path | None
    audio_start: float
    pasted: bool

    def composed(self, results: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
        """The frames to show: the one result itself, or all of them in their places in the whole picture."""
        if not self.pasted:
            yield from results[0]
            return
        for at, (backdrop, *faces) in enumerate(zip(self._backdrop(), *results, strict=True)):
            for actor, face in zip(self.actors, faces, strict=True):
                square = actor.squares[min(at, len(actor.squares) - 1)]
                backdrop = paste(backdrop, face, square, oval=self.video is not None or len(self.actors) > 1)
            yield backdrop

    def _backdrop(self) -> Iterator[np.ndarray]:
        if self.video is None:
            yield from (self.picture for _ in range(self.frames))
            return
        for batch in stream_frames(self.video, fps=self.fps, max_frames=self.frames, steady=True):
            yield from batch


def look(
    config: ModelConfig,
    portrait: str | Path | bytes | np.ndarray,
    driving: Source | Mapping[int, Source],
    options: Options,
    detector: FaceDetector,
    progress: Progress | None = None,
    kept: Callable[[int, Path], Driving | None] = lambda face, path: None,
) -> Scene:
    """Find all faces and their motion through space. Raises XNeMoError for whatever cannot be used.

    driving: one source for `options.face`, or one for each face. kept: what an unfinished run knows of a face's driver.
    """
    drivers = dict(driving) if isinstance(driving, Mapping) else {options.face: driving}
    if not drivers:
        raise XNeMoError("no driver was given: name a video, a picture or a motion file")
    picture = picture_of(portrait)
    height, width = picture.shape[:2]
    shrink = min(1.0, PASTED_SIDE / max(height, width), math.sqrt(PASTED_PIXELS / (height * width)))
    video = Path(portrait) if isinstance(portrait, str | Path) and not is_picture(portrait) else None
    head: HeadMotion = options.head_motion or ("still" if video else "relative")
    fps, actors = options.fps, []
    for face, source in drivers.items():
        who = prepare_portrait(picture, config, detector, face)
        known = None if isinstance(source, Motion) else kept(face, Path(source))
        moves = known or _motion(source, who, options, head, fps, detector, progress)
        fps = fps or moves.fps
        actors.append(Actor(face, who, moves, crops.square(who.box, crops.REFERENCE_SCALE)[None] * shrink))
    frames = min(len(actor.driving) for actor in actors)
    if video:
        actors = [_followed(config, actor, video, fps or 25.0, frames, detector, progress) for actor in actors]
        frames = min(frames, *(len(actor.squares) for actor in actors))
    if shrink < 1:
        picture = resize(picture, round(width * shrink), round(height * shrink))
    audio, audio_start = _sound(drivers, options)
    pasted = options.paste_back or len(actors) > 1 or video is not None
    return Scene(picture, video, tuple(actors), frames, fps or 25.0, audio, audio_start, pasted)


def _motion(
    source: Source,
    who: Portrait,
    options: Options,
    head: HeadMotion,
    fps: float | None,
    detector: FaceDetector,
    progress: Progress | None,
) -> Driving | Motion:
    if isinstance(source, Motion):
        if head == "still":
            source = Motion(source.f_mot, still_rts(len(source)), source.fps, source.model)
        return source.span(options.start, options.end, fps, options.max_frames)
    return prepare_driving(
        source, detector, head_motion=head, portrait=who, start=options.start, end=options.end,
        max_frames=options.max_frames, fps=fps, progress=progress, face=options.driving_face,
    )  # fmt: skip


def _followed(
    config: ModelConfig,
    actor: Actor,
    video: Path,
    fps: float,
    frames: int,
    detector: FaceDetector,
    progress: Progress | None,
) -> Actor:
    """The actor with the places and looks of its face in a portrait that is a video."""
    seen = prepare_driving(
        video, detector, head_motion="still", fps=fps, max_frames=frames, progress=progress, face=actor.face
    )
    info = probe(video)
    squares = crops.square(seen.boxes, crops.REFERENCE_SCALE) * max(1.0, max(info.width, info.height) / READ_SIDE)
    return replace(actor, squares=squares, looks=lambda: _looks(config, seen))


def _looks(config: ModelConfig, seen: Driving) -> Callable[[int], Portrait]:
    numbered = enumerate(frame for batch in seen.frames() for frame in batch)

    def at(wanted: int) -> Portrait:
        return next(cut_portrait(frame, seen.boxes[n], config) for n, frame in numbered if n == wanted)

    return at


def _sound(drivers: Mapping[int, Source], options: Options) -> tuple[Path | None, float]:
    for source in drivers.values():
        if not isinstance(source, Motion) and not is_picture(source) and probe(source).has_audio:
            return Path(source), options.start
    return None, 0.0
