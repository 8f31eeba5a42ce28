"""A video that lies as pictures, in a folder or a zip file, at a known rate: read like any other video.

Pictures carry no time: the number in each name says when it was taken, so a gap in the numbers stays a gap in time.
Nothing is unpacked to disk, and no name inside a zip file is ever used as a path.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from xnemo.media.images import read_image
from xnemo.media.limits import LIMITS, Limits, MediaError
from xnemo.media.probe import VideoInfo

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_BATCH = 32
_BYTES_PER_PIXEL = 8  # a picture file longer than this is none


@dataclass(frozen=True)
class Stills:
    """Which pictures of a folder (or zip) make the video: a relative path with one `*`, and their frames per second."""

    pattern: str
    fps: float

    def among(self, names: Iterable[str]) -> list[str]:
        """The names that are meant, in order of their number."""
        return sorted((name for name in names if self._number(name) is not None), key=lambda n: (self._number(n), n))

    def of_zip(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        """The entries that are meant, in order."""
        entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
        return [entries[name] for name in self.among(entries)]

    def times(self, names: list[str]) -> np.ndarray:
        """Seconds of each picture from the first one."""
        numbers = np.array([self._number(name) for name in names], np.float64)
        if len(np.unique(numbers)) < len(numbers):  # names without numbers of their own: one after the other
            numbers = np.arange(len(names), dtype=np.float64)
        return (numbers - numbers[0]) / self.fps

    def _number(self, name: str) -> int | None:
        before, after = self.pattern.split("*")
        if not (name.startswith(before) and name.endswith(after) and len(name) >= len(self.pattern) - 1):
            return None
        part = name[len(before) : len(name) - len(after) or None]
        path = PurePosixPath(part if after else PurePosixPath(part).stem)
        if PurePosixPath(name).suffix.lower() not in ENDINGS or len(path.parts) != 1 or path.name.startswith("."):
            return None
        digits = re.search(r"(\d+)$", path.name)
        return int(digits[1]) if digits else 0


def probe_stills(path: str | Path, stills: Stills, limits: Limits = LIMITS) -> VideoInfo:
    """The facts of a video, from the names and the first picture. Raises MediaError: `no_frames`, `too_long`,
    `too_large`, and what reading a picture raises."""
    with _Pictures(Path(path), stills, limits) as pictures:
        if not pictures.names:
            raise MediaError("no_frames", f"{Path(path).name} holds no pictures {stills.pattern}")
        if len(pictures.names) > limits.frames:
            raise MediaError(
                "too_long", f"{Path(path).name} has {len(pictures.names)} pictures, more than {limits.frames}"
            )
        first = pictures.read(0)
    times = stills.times(pictures.names)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / stills.fps
    if times[-1] > limits.seconds or first.shape[0] * first.shape[1] * len(times) > limits.total_pixels:
        raise MediaError("too_long", f"{Path(path).name} has {len(times)} pictures in {times[-1]:.0f} s")
    height, width = first.shape[:2]
    rate = round(1 / step, 6) if step > 0 else stills.fps
    return VideoInfo(width, height, rate, len(times), float(times[-1]) + 1 / rate, 0, False, "stills", False, times)


def stream_stills(
    path: str | Path,
    stills: Stills,
    info: VideoInfo,
    *,
    fps: float,
    max_side: int | None,
    start: float,
    end: float,
    limits: Limits = LIMITS,
) -> Iterator[np.ndarray]:
    """Frames at `fps` as batches uint8 [<=32, H, W, 3], as `video.stream_frames` gives them. Raises MediaError:
    `no_frames`, `corrupt`, `size_changes`."""
    from xnemo.media.video import pick, shrunk

    wanted = pick(info.times, info.duration, fps, start, end)
    if len(wanted) == 0:
        raise MediaError("no_frames", f"{Path(path).name} has no frames between {start} s and {end} s")
    width, height = shrunk(info, max_side)
    batch: list[np.ndarray] = []
    last = -1
    with _Pictures(Path(path), stills, limits) as pictures:
        for index in wanted:
            if index != last:
                picture, last = pictures.read(int(index)), index
                if picture.shape[:2] != (info.height, info.width):
                    raise MediaError(
                        "size_changes", f"{pictures.names[index]} is of another size than the first picture"
                    )
                if (width, height) != (info.width, info.height):
                    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            batch.append(picture)
            if len(batch) == _BATCH:
                yield np.stack(batch)
                batch = []
    if batch:
        yield np.stack(batch)


class _Pictures:
    """The pictures of a folder or a zip file, by index."""

    def __init__(self, path: Path, stills: Stills, limits: Limits):
        self.path, self.limits, self.archive = path, limits, None
        if path.is_dir():
            self.names = stills.among(_below(path, stills.pattern.count("/")))
            return
        try:
            self.archive = zipfile.ZipFile(path)
            self.entries = stills.of_zip(self.archive)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise MediaError("format", f"{path.name} is no readable folder or zip file of pictures: {error}") from error
        self.names = [entry.filename for entry in self.entries]

    def __enter__(self) -> "_Pictures":
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def read(self, index: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]. Raises MediaError."""
        limit = self.limits.pixels * _BYTES_PER_PIXEL
        try:
            if self.archive is None:
                with (self.path / self.names[index]).open("rb") as file:
                    data = file.read(limit + 1)
            else:  # the announced size may lie, so it is counted
                with self.archive.open(self.entries[index]) as packed:
                    data = packed.read(limit + 1)
        except Exception as error:  # each packing has errors of its own
            raise MediaError("corrupt", f"{self.names[index]} cannot be read: {error}") from error
        if len(data) > limit:
            raise MediaError("too_large", f"{self.names[index]} unfolds to more than {limit} bytes")
        return read_image(data, limits=self.limits)


def _below(folder: Path, depth: int) -> Iterator[str]:
    """Relative paths of the files `depth` folders down; links to folders are not followed."""
    for entry in sorted(folder.iterdir()):
        if depth and entry.is_dir() and not entry.is_symlink():
            yield from (f"{entry.name}/{name}" for name in _below(entry, depth - 1))
        elif not depth and entry.is_file():
            yield entry.name
