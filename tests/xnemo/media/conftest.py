"""Small videos made on the spot. Frame k of each shows k as a bar code of 8 blocks, readable after coding."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

WIDTH, HEIGHT = 128, 96


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [H, W, 3]: the upper half shows the bits of `number` from left to right, the lower left is red."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            image[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 255
    image[height // 2 :, : width // 2] = (220, 30, 30)
    return image


def number_of(image: np.ndarray) -> int:
    """The number a picture shows."""
    height, width = image.shape[:2]
    row = image[height // 8 : height // 2 - height // 8].mean(axis=(0, 2))
    return sum((row[bit * width // 8 + 4 : (bit + 1) * width // 8 - 4].mean() > 127) << bit for bit in range(8))


def write(
    path: Path,
    times: list[float],
    *,
    codec: str = "libx264",
    rotation: int = 0,
    gop: int = 12,
    container: str | None = None,
    sound: bool = False,
) -> Path:
    """A video whose frame k is shown at times[k] seconds."""
    base = Fraction(1, 12_800)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base, stream.time_base = base, base
        stream.codec_context.gop_size = gop
        if rotation:
            stream.set_display_rotation(rotation)
        voice = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice is not None:
            wave = np.sin(np.arange(round(16_000 * (times[-1] + 0.04))) * 0.2).astype(np.float32)[None] / 4
            block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            block.sample_rate, block.pts = 16_000, 0
            out.mux(voice.encode(block))
            out.mux(voice.encode(None))
    return path


def with_edit_list(source: Path, path: Path, hidden: int) -> Path:
    """Copy the packets of `source`, but say that presentation begins after the first `hidden` frames."""
    with av.open(str(source)) as before, av.open(str(path), "w") as out:
        stream = before.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = round(hidden / 25 / stream.time_base)
        for packet in before.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames at 25 frames per second, H.264, with sound."""
    return write(tmp_path_factory.mktemp("media") / "clip.mp4", [k / 25 for k in range(50)], sound=True)


@pytest.fixture
def video(tmp_path: Path) -> Callable[..., Path]:
    """Write a video of a given name: video("x.mp4", times, codec=..., rotation=...)."""

    def make(name: str, times: list[float], **options: object) -> Path:
        return write(tmp_path / name, times, **options)  # type: ignore[arg-type]

    return make
