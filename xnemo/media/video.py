"""Video files in: decode with decord, with PyAV where decord is wrong. (Out: `xnemo.media.writing`.)

Which decoder reads a file is settled by its header, never by trial: decord seeks and resizes by itself, but
0.6.0 knows no AV1, repeats frames at the end of files with edit lists, and resizes a rotated picture before
it is turned. Those files, and any whose frame counts disagree, go to PyAV; so does all that is read `steady`.

Frames are uint8 RGB, HWC, with the container's rotation applied. Times are the container's own time stamps,
in seconds from the first presented frame, so variable frame rates come out right.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xnemo.media.limits import LIMITS, Limits, MediaError
from xnemo.media.probe import VideoInfo, check, open_container, probe
from xnemo.media.writing import write_video

__all__ = ["VideoInfo", "check", "pick", "probe", "read_frames", "stream_frames", "write_video"]
_BATCH = 32
_BATCH_BYTES = 64 << 20  # of a batch of large pictures


def pick(
    times: np.ndarray, duration: float, fps: float | None, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Indices of the frames to show: at `fps`, for each tick start + k/fps the frame nearest in time; all of
    [start, end) without `fps`. Sorted; frames repeat where the source is slower."""
    end = duration if end is None else min(end, duration)
    if fps is None:
        return np.flatnonzero((times >= start - 1e-6) & (times < end - 1e-6))
    ticks = start + np.arange(max(0, int(np.floor((end - start) * fps + 1e-3)))) / fps
    after = np.clip(np.searchsorted(times, ticks), 1, len(times) - 1) if len(times) > 1 else ticks.astype(int) * 0
    before = np.maximum(after - 1, 0)
    return np.where(ticks - times[before] <= times[after] - ticks + 1e-9, before, after)


def stream_frames(
    path: str | Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    max_side: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    max_frames: int | None = None,
    limits: Limits = LIMITS,
    info: VideoInfo | None = None,
    refuse_damage: bool = False,
    steady: bool = False,
) -> Iterator[np.ndarray]:
    """Yield the frames in order as batches uint8 [<=32, H, W, 3], in bounded memory, each decoded once.

    fps: resample by time stamps. size: (width, height); max_side: shrink so that no side is longer. start,
    end: seconds. steady: never by decord, which decodes ahead of a slow reader, by hundreds of MB, and hangs on some
    damaged files; for processes that do more than decode. Raises MediaError where frames are missing or damaged
    (`truncated`, `corrupt`); with refuse_damage also where the decoder would paint over the damage, at the latest
    after the last frame.
    """
    info = info or probe(path, limits)
    width, height = size or shrunk(info, max_side)
    wanted = pick(info.times, info.duration, fps, start, end)[:max_frames]
    if len(wanted) == 0:
        raise MediaError(
            "no_frames", f"{Path(path).name} lasts {info.duration:.2f} s and has no frames from {start:g} s on"
        )
    unique, position = np.unique(wanted, return_inverse=True)
    read = _read_decord if info.decord and not steady else _read_pyav
    done, complaints = 0, _Complaints(refuse_damage)
    for first, frames in complaints.heard(read(Path(path), info, unique, width, height, limits, refuse_damage)):
        # `frames` are unique[first:first+n]; hand out every wanted position that falls into them
        stop = int(np.searchsorted(position, first + len(frames)))
        for at in range(done, stop, _BATCH):
            asked = position[at : min(at + _BATCH, stop)] - first
            straight = bool((np.diff(asked) == 1).all())  # else some are shown twice, and copied
            yield frames[asked[0] : asked[-1] + 1] if straight else frames[asked]
        done = stop
    if complaints.any:
        check(path, start, info.duration if end is None else end, limits)
    if done != len(wanted):
        raise MediaError("truncated", f"{Path(path).name}: {done} of {len(wanted)} frames could be decoded")


class _Complaints:
    """Whether FFmpeg wrote a complaint while frames were decoded.

    decord paints over damage and says nothing, but the FFmpeg inside it does, to standard error. A complaint may
    be about a frame that is not used, so it is a reason to look closer and no more. Changes the process's standard
    error while it listens: for child processes that decode and do nothing else.
    """

    def __init__(self, listen: bool):
        self.listen, self.any = listen, False

    def heard(self, batches: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Pass the batches on, listening while each is made."""
        if not self.listen:
            yield from batches
            return
        import decord

        while True:
            decord.logging.set_level(decord.logging.ERROR)
            own = os.dup(2)
            with tempfile.TemporaryFile() as said:
                os.dup2(said.fileno(), 2)
                try:
                    batch = next(batches, None)
                finally:
                    os.dup2(own, 2)
                    os.close(own)
                    decord.logging.set_level(decord.logging.QUIET)
                self.any = self.any or said.seek(0, os.SEEK_END) > 0
            if batch is None:
                return
            yield batch


def read_frames(
    path: str | Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    max_side: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    max_frames: int | None = None,
    limits: Limits = LIMITS,
) -> np.ndarray:
    """All frames at once, uint8 [F, H, W, 3]; arguments and errors as `stream_frames`."""
    return np.concatenate(
        list(
            stream_frames(
                path, fps=fps, size=size, max_side=max_side, start=start, end=end, max_frames=max_frames, limits=limits
            )
        )
    )


def shrunk(info: VideoInfo, max_side: int | None) -> tuple[int, int]:
    """(width, height) of a video with no side longer than `max_side`."""
    scale = min(1.0, (max_side or max(info.width, info.height)) / max(info.width, info.height))
    return max(1, round(info.width * scale)), max(1, round(info.height * scale))


def _read_decord(
    path: Path, info: VideoInfo, indices: np.ndarray, width: int, height: int, limits: Limits, refuse_damage: bool
) -> Iterator[tuple[int, np.ndarray]]:
    import decord

    try:
        resize = {} if (width, height) == (info.width, info.height) else {"width": width, "height": height}
        reader = decord.VideoReader(str(path), num_threads=1, **resize)
        if len(reader) == info.frames:
            for first in range(0, len(indices), _BATCH):
                batch = reader.get_batch(indices[first : first + _BATCH].tolist()).asnumpy()
                yield first, batch
            return
    except (RuntimeError, decord.DECORDError) as error:
        cause = str(error).strip().splitlines()[0][-200:]
        raise MediaError("corrupt", f"{path.name} is damaged: {cause}") from error
    yield from _read_pyav(path, info, indices, width, height, limits, refuse_damage)  # counts disagree: PyAV is right


def _read_pyav(
    path: Path, info: VideoInfo, indices: np.ndarray, width: int, height: int, limits: Limits, refuse_damage: bool
) -> Iterator[tuple[int, np.ndarray]]:
    import av

    turned = info.rotation in (90, 270)
    shape = {"width": height, "height": width} if turned else {"width": width, "height": height}
    most = max(1, min(_BATCH, _BATCH_BYTES // (3 * width * height)))
    batch, count, first = np.empty((0, height, width, 3), np.uint8), 0, 0
    number = int(indices[0])
    with open_container(path, limits) as container:
        stream = container.streams.video[0]
        if refuse_damage:
            stream.codec_context.options = {"err_detect": "explode"}
        try:
            for number, frame in _numbered(container, stream, info, int(indices[0])):
                if refuse_damage and frame.is_corrupt and number >= indices[0]:
                    raise MediaError("corrupt", f"{path.name} is damaged at frame {number}")
                if number != indices[first + count]:
                    continue
                if count == 0:
                    batch = np.empty((min(most, len(indices) - first), height, width, 3), np.uint8)
                picture = frame.reformat(**shape, format="rgb24", interpolation="AREA").to_ndarray()
                batch[count] = np.rot90(picture, info.rotation // 90)
                count += 1
                if number == indices[-1]:
                    break
                if count == len(batch):
                    yield first, batch
                    first, count = first + count, 0
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", f"{path.name} is damaged near frame {number}: {error}") from error
    if count:
        yield first, batch[:count]


def _numbered(container: Any, stream: Any, info: VideoInfo, begin: int) -> Iterator[tuple[int, Any]]:
    """(number, decoded frame) from the key frame before frame `begin` on, so that the last minute of a long video
    costs no more than the first; from the beginning where the frames carry no times or the file cannot seek."""
    import av

    if begin > 0 and info.origin is not None:
        wanted = info.times[begin] + info.origin
        with contextlib.suppress(av.error.FFmpegError):  # cannot seek, so this is still the beginning
            container.seek(int(wanted / stream.time_base), stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            number = -1 if frame.time is None else int(np.abs(info.times + info.origin - frame.time).argmin())
            if count == 0 and not 0 <= number <= begin:
                container.seek(0)
                break
            yield number, frame
        else:
            return
    yield from enumerate(container.decode(stream))
