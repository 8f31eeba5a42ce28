"""Synthetic portraits and driving clips as ordinary files: PNG, H.264 mp4, and a sidecar that tells the truth."""

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.identity import IDENTITY, random_identity
from xnemo.synthetic.motion import EMOTIONS, FPS, sequence
from xnemo.synthetic.render import face_boxes, render

BATCH = 8  # frames drawn at a time while a clip is written


def portrait(path: str | Path, seed: int, size: int) -> Path:
    """Write a PNG of a person looking straight ahead with a neutral face."""
    from xnemo.media.images import write_image

    picture = render(random_identity(seed)[None], torch.zeros(1, len(MOTION)), torch.zeros(1, 3), size)[0]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    write_image(partial, picture.permute(1, 2, 0).numpy())
    partial.replace(path)
    return path


def write_clip(
    path: str | Path,
    identity_seed: int,
    motion_seed: int,
    seconds: float,
    size: int,
    emotion: str | None = None,
    fps: int = FPS,
    *,
    intensity: int | None = None,
    audio: bool = False,
    room: float = 1.0,
) -> Path:
    """Write a clip [size, size] as mp4 and, beside it, `<name>.json` with the true parameters (see `truth`).

    Motion is always simulated at 25 frames/s and resampled to `fps`. audio adds a mono tone that follows the jaw.
    room > 1 shows that much more of the scene: a head of usual size in `size / room` pixels.
    The mp4 appears last and whole: where it exists, its sidecar does too. Raises XNeMoError for a wrong emotion,
    intensity, length or size.
    """
    from xnemo.media.video import write_video

    if seconds * fps < 1:
        raise XNeMoError(f"{path}: {seconds} s at {fps} frames/s is no frame at all; give more seconds")
    if size % 2:
        raise XNeMoError(f"{path}: size {size} is odd; H.264 needs an even size")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not room >= 1:
        raise XNeMoError(f"{path}: room {room} would cut the head; give 1 or more")
    motion, placement = _resampled(motion_seed, round(seconds * fps), fps, emotion, intensity)
    placement = placement / torch.tensor([room, room, 1.0]) - torch.tensor([0.0, 0.0, math.log(room)])
    identity = random_identity(identity_seed)[None]
    facts: dict[str, object] = {"identity_seed": identity_seed, "motion_seed": motion_seed, "size": size, "fps": fps}
    facts |= {"emotion": emotion, "intensity": intensity if emotion is None else intensity or 3}
    _write_json(path.with_suffix(".json"), facts | truth(identity, motion, placement, size))
    tone = path.with_name(f".{os.getpid()}-{path.stem}.m4a")
    try:
        if audio:
            _write_tone(tone, motion[:, MOTION.index("jaw")].numpy(), fps)
        write_video(path, _frames(identity, motion, placement, size), fps, audio_from=tone if audio else None)
    finally:
        tone.unlink(missing_ok=True)
    return path


def truth(identity: Tensor, motion: Tensor, placement: Tensor, size: int) -> dict[str, object]:
    """What was drawn: `identity` by name, `tracks` by name (as in measure.Measurement: degrees, frame units) and
    `boxes` (left, top, right, bottom) in pixels."""
    tracks = {name: motion[:, i].tolist() for i, name in enumerate(MOTION)}
    tracks |= {"x": placement[:, 0].tolist(), "y": placement[:, 1].tolist(), "scale": placement[:, 2].exp().tolist()}
    return {
        "identity": dict(zip(IDENTITY, identity[0].tolist(), strict=True)),
        "tracks": tracks,
        "boxes": face_boxes(identity, motion, placement, size).tolist(),
    }


def write_dataset(
    folder: str | Path,
    identities: int,
    seconds: float,
    size: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    room: float = 1.0,
) -> list[Path]:
    """Write one clip per identity as folder/<identity>/<emotion>-<intensity>.mp4, in parallel processes.

    Emotions and intensities take turns. Clips that are there already are kept, so a stopped run can be called again.
    progress is told (done, total) after each new clip. Returns the paths, in the order of the identities.
    """
    if identities < 1:
        raise XNeMoError(f"identities is {identities}: a data set needs at least one")
    names = list(EMOTIONS)
    jobs = []
    for i in range(identities):
        emotion, intensity = names[i % len(names)], 1 + i // len(names) % 3
        path = Path(folder) / f"id{seed + i:06d}" / f"{emotion}-{intensity}.mp4"
        jobs.append((path, seed + i, seconds, size, emotion, intensity, room))
    missing = [job for job in jobs if not job[0].exists()]
    count = min(workers or os.cpu_count() or 1, len(missing))
    with ExitStack() as stack:
        drawn: Iterator[None] = map(_dataset_clip, missing)
        if count > 1:  # spawned, for a forked torch can hang; one thread each
            pool = ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,))
            drawn = stack.enter_context(pool).map(_dataset_clip, missing)
        for done, _ in enumerate(drawn, 1):
            if progress:
                progress(done, len(missing))
    return [job[0] for job in jobs]


def _dataset_clip(job: tuple[Path, int, float, int, str, int, float]) -> None:
    path, seed, seconds, size, emotion, intensity, room = job
    write_clip(path, seed, seed, seconds, size, emotion, intensity=intensity, room=room)


def _resampled(seed: int, frames: int, fps: int, emotion: str | None, intensity: int | None) -> tuple[Tensor, Tensor]:
    """The sequence at another frame rate, by linear interpolation in time."""
    if fps == FPS:
        return sequence(seed, frames, emotion, intensity)
    at = torch.arange(frames) * (FPS / fps)
    source = sequence(seed, int(at[-1]) + 2, emotion, intensity)
    low = at.long()
    motion, placement = (torch.lerp(track[low], track[low + 1], (at - low)[:, None]) for track in source)
    return motion, placement


def _frames(identity: Tensor, motion: Tensor, placement: Tensor, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(motion), BATCH):
        part = slice(first, first + BATCH)
        yield from render(identity, motion[part], placement[part], size).permute(0, 2, 3, 1).contiguous().numpy()


def _write_tone(path: Path, jaw: np.ndarray, fps: int, rate: int = 16_000) -> None:
    """A mono tone, louder and higher the wider the jaw, as AAC."""
    import av

    opening = np.interp(np.arange(round(len(jaw) / fps * rate)) / rate, np.arange(len(jaw)) / fps, jaw)
    phase = 2 * np.pi * np.cumsum(110 + 110 * opening) / rate
    wave = (0.3 * opening * np.sin(phase)).astype(np.float32)[None]
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _write_json(path: Path, value: dict[str, object]) -> None:
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    with partial.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
