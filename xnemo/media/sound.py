"""The sound of a video: its samples between two times, and AAC out of them."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xnemo.media.limits import LIMITS, Limits, MediaError
from xnemo.media.probe import open_container


def read_sound(
    path: str | Path,
    start: float,
    end: float,
    *,
    rate: int | None = None,
    layout: str | None = None,
    limits: Limits = LIMITS,
) -> Iterator[np.ndarray]:
    """Yield blocks float32 [channels, samples] of the sound in [start, end), seconds from the first frame of
    the picture. rate, layout ("mono", "stereo"): as in the file if None. Nothing is yielded for a file
    without sound. Raises MediaError (`corrupt`) for damaged sound."""
    import av

    with open_container(Path(path), limits) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        rate = rate or stream.rate
        resampler = av.AudioResampler(format="fltp", layout=layout or stream.layout, rate=rate)
        picture = next(iter(container.streams.video), None)
        origin = float((picture.start_time or 0) * picture.time_base) if picture is not None else 0.0
        position: int | None = None  # samples from `start` to the next block
        try:
            for frame in container.decode(stream):
                if position is None:
                    position = round(((frame.time or 0.0) - origin - start) * rate)
                    channels = resampler.layout.nb_channels if resampler.layout else stream.channels
                    yield from _silence(channels, min(position, round((end - start) * rate)), rate)
                for block in resampler.resample(frame):
                    samples = block.to_ndarray()
                    keep = samples[:, max(0, -position) : max(0, round((end - start) * rate) - position)]
                    position += samples.shape[1]
                    if keep.shape[1]:
                        yield keep
                if position >= (end - start) * rate:
                    return
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", f"the sound of {Path(path).name} is damaged: {error}") from error


class SoundTrack:
    """The sound of a file from `start` seconds on, laid into an open container as its picture grows."""

    def __init__(self, out, stream, path: Path, start: float) -> None:  # type: ignore[no-untyped-def]
        self.out, self.stream, self.rate = out, stream, stream.rate
        layout = stream.codec_context.layout.name
        self.blocks = read_sound(path, start, float(1 << 20), rate=stream.rate, layout=layout)
        self.waiting = np.zeros((stream.codec_context.layout.nb_channels, 0), np.float32)
        self.taken = self.written = 0

    @classmethod
    def of(cls, out, path: str | Path, start: float, codec: str) -> "SoundTrack | None":  # type: ignore[no-untyped-def]
        """The track of `path` in an output container; None if the file has no sound."""
        with open_container(Path(path), LIMITS) as container:
            if not container.streams.audio:
                return None
            source = container.streams.audio[0]
            rate = 48_000 if codec == "libopus" else source.rate  # Opus knows no 44.1 kHz
            stream = out.add_stream(codec, rate=rate, layout="mono" if source.channels == 1 else "stereo")
        return cls(out, stream, Path(path), start)

    def until(self, seconds: float) -> None:
        """Write all whole packets of the sound before this time."""
        import av

        end, step = round(seconds * self.rate), self.stream.codec_context.frame_size or 1024
        while self.taken < end and (block := next(self.blocks, None)) is not None:
            self.waiting = np.concatenate([self.waiting, block], axis=1)
            self.taken += block.shape[1]
        ready = min(self.waiting.shape[1], end - self.written)
        for at in range(0, ready - step + 1, step):
            _mux_block(av, self.out, self.stream, self.waiting[:, at : at + step], self.written + at)
        whole = max(0, ready) // step * step
        self.waiting, self.written = self.waiting[:, whole:], self.written + whole
        self.rest = end - self.written

    def close(self) -> None:
        """Write what is left before the time last given."""
        import av

        if min(self.rest, self.waiting.shape[1]) > 0:
            _mux_block(av, self.out, self.stream, self.waiting[:, : self.rest], self.written)
        self.out.mux(self.stream.encode(None))


def mux_sound(out, stream, blocks: Iterator[np.ndarray]) -> None:  # type: ignore[no-untyped-def]
    """Encode blocks float32 [channels, samples] into a stream of an open output container."""
    import av

    context, done = stream.codec_context, 0
    pending = np.zeros((context.layout.nb_channels, 0), np.float32)
    step = context.frame_size or 1024
    for block in blocks:
        pending = np.concatenate([pending, block], axis=1)
        whole = pending.shape[1] // step * step
        for at in range(0, whole, step):
            _mux_block(av, out, stream, pending[:, at : at + step], done + at)
        done, pending = done + whole, pending[:, whole:]
    if pending.shape[1]:
        _mux_block(av, out, stream, pending, done)
    out.mux(stream.encode(None))


def _mux_block(av, out, stream, samples: np.ndarray, position: int) -> None:  # type: ignore[no-untyped-def]
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples), format="fltp", layout=stream.codec_context.layout.name
    )
    frame.sample_rate, frame.pts = stream.rate, position
    out.mux(stream.encode(frame))


def _silence(channels: int, samples: int, rate: int) -> Iterator[np.ndarray]:
    """What is heard before a sound that begins later than its picture, in blocks of up to a second."""
    for at in range(0, samples, rate):
        yield np.zeros((channels, min(rate, samples - at)), np.float32)


def cut_sound(
    path: str | Path, start: float, end: float, *, rate: int = 16_000, limits: Limits = LIMITS
) -> bytes | None:
    """The sound of [start, end) as an m4a file in memory, mono AAC at `rate`; None if the file is silent."""
    import av

    blocks = read_sound(path, start, end, rate=rate, layout="mono", limits=limits)
    first = next(blocks, None)
    if first is None:
        return None
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=rate, layout="mono")
        mux_sound(out, stream, _with(first, blocks))
    return buffer.getvalue()


def _with(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest
