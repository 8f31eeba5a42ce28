"""What a video file holds, without decoding it; and a check of every frame, when damage must be noticed.

Opened are mp4/mov, webm/mkv, avi, mpeg, ts, wmv, flv, ogg and gif, each by the demuxer that its first bytes name.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xnemo.media.limits import LIMITS, Limits, MediaError

# The demuxer is forced by the file's first bytes. Play lists (HLS, ffconcat) can name other files and
# addresses, so no demuxer that follows references is ever reachable.
_DEMUXERS = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"GIF8", "gif"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (188, b"\x47", "mpegts"),
)
_DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp8", "vp9", "mjpeg"}


@dataclass(frozen=True)
class VideoInfo:
    """Header facts. width, height: as presented, after rotation. frames: presented, counted by demuxing.

    times: presentation time of each frame, seconds from the first one. origin: that one's own time stamp, seconds;
    None where the frames carry none. decord: whether decord reads it right.
    """

    width: int
    height: int
    fps: float
    frames: int
    duration: float
    rotation: int
    has_audio: bool
    codec: str
    decord: bool
    times: np.ndarray = field(repr=False, compare=False)
    origin: float | None = None


def probe(path: str | Path, limits: Limits = LIMITS) -> VideoInfo:
    """Read the header and the packet list, without decoding. Raises MediaError for a file outside `limits`,
    not a video, cut short, or of a container that is not allowed."""
    import av

    path = Path(path)
    with open_container(path, limits) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise MediaError("no_video", f"{path.name} has no picture track: give a video file")
        codec = stream.codec_context
        if codec is None:  # its kind was damaged beyond recognition
            raise MediaError("no_video", f"{path.name} has a picture track of no known kind: encode it again")
        if codec.width * codec.height > limits.pixels or codec.width * codec.height == 0:
            raise MediaError(
                "too_large",
                f"{path.name} is {codec.width}x{codec.height}; at most "
                f"{limits.pixels} pixels per frame are read: scale it down first",
            )
        if stream.frames > limits.frames:
            raise MediaError("too_long", f"{path.name} has {stream.frames} frames, more than {limits.frames}")
        try:
            times, timed, listed = _presentation_times(path, container, stream, limits)
        except av.error.FFmpegError as error:
            raise MediaError("unreadable", f"{path.name} cannot be read: {error}") from error
        try:
            rotation = _rotation(container, stream)
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", f"{path.name} is damaged at its first frame: {error}") from error
        return _info(path, container, stream, rotation, times, timed, listed, limits)


def open_container(path: Path, limits: Limits) -> Any:  # an av container
    """Open for reading with the demuxer that the first bytes name, no other file or address reachable."""
    import av

    av.logging.set_level(None)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(189)
    except OSError as error:
        raise MediaError("unreadable", f"{path} cannot be read: {error.strerror}") from error
    if size > limits.bytes:
        raise MediaError("too_large", f"{path.name} is {size >> 20} MiB, more than {limits.bytes >> 20}")
    if size == 0:
        raise MediaError("format", f"{path.name} is empty (0 bytes): copy it again")
    demuxer = next((name for at, magic, name in _DEMUXERS if head[at : at + len(magic)] == magic), None)
    if demuxer == "mpegts" and head[:1] != b"\x47":  # a packet is 188 bytes, and each begins so
        demuxer = None
    if demuxer is None:
        readable = "mp4, mov, webm, mkv, avi, mpeg, ts, wmv, flv, ogg, gif"
        raise MediaError("format", f"{path.name} is no video that is read here ({readable}): convert it first")
    if size < (promised := _promised(head, demuxer)):
        raise MediaError("truncated", f"{path.name} promises {promised} bytes and holds {size}: it is cut short")
    try:
        return av.open(str(path), format=demuxer, options={"protocol_whitelist": "file"})
    except av.error.FFmpegError as error:
        raise MediaError(
            "unreadable", f"{path.name} cannot be opened: it is damaged or cut short ({error.strerror})"
        ) from error


def _promised(head: bytes, demuxer: str) -> int:
    """How long the file is by its own first bytes, as far as these tell: avi and matroska (mp4: see below)."""
    if demuxer == "avi":
        return 8 + int.from_bytes(head[4:8], "little")
    at = 0
    for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67") if demuxer == "matroska" else ():  # header, segment
        if head[at : at + 4] != name or not (first := int.from_bytes(head[at + 4 : at + 5])):
            return 0
        width = 9 - first.bit_length()  # the leading zeros of a size tell how many bytes it has
        size = int.from_bytes(head[at + 4 : at + 4 + width]) & (1 << 7 * width) - 1
        if size == (1 << 7 * width) - 1:  # not known when the file was begun: recorded live
            return 0
        at += 4 + width + size
    return at


def _presentation_times(
    path: Path,
    container: Any,
    stream: Any,
    limits: Limits,
) -> tuple[np.ndarray, bool, bool]:
    """(sorted times in seconds of the presented frames, whether they are the file's own, whether these frames are all
    that it lists). Packets an edit list hides are marked by the demuxer and are not presented."""
    stamps, total = [], 0
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_corrupt:  # the end, or cut in two by the end of the file
            continue
        total += 1
        if total > limits.frames:
            raise MediaError("too_long", f"{path.name} has more than {limits.frames} frames: cut it first")
        if not packet.is_discard:
            stamps.append(packet.pts if packet.pts is not None else packet.dts)
    # mp4 lists its packets in the header; an edit list takes some off that list, but not off stream.frames
    declared = len(stream.index_entries) if container.format.name.startswith("mov") else 0
    if total < declared - 1:
        raise MediaError("truncated", f"{path.name} promises {declared} frames and holds {total}: it is cut short")
    if not stamps:
        raise MediaError("no_frames", f"{path.name} holds no frames")
    listed = total == len(stamps) and declared in (0, stream.frames)
    if any(stamp is None for stamp in stamps):  # raw streams in avi: count at the nominal rate
        return np.arange(len(stamps)) / float(stream.average_rate or 25), False, listed
    return np.sort(np.asarray(stamps, np.float64)) * float(stream.time_base), True, listed


def _info(
    path: Path,
    container: Any,
    stream: Any,
    rotation: int,
    times: np.ndarray,
    timed: bool,
    listed: bool,
    limits: Limits,
) -> VideoInfo:
    origin = float(times[0]) if timed else None
    times = times - times[0]
    span = float(times[-1])
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / float(stream.average_rate or 25)
    if step <= 0 and span <= 0:
        raise MediaError("no_time", f"{path.name} has no time stamps: encode it again")
    fps = (len(times) - 1) / span if span > 0 else 1 / step
    duration = span + (step if step > 0 else 1 / fps)
    codec = stream.codec_context
    pixels = codec.width * codec.height * len(times)
    if duration > limits.seconds or pixels > limits.total_pixels:
        raise MediaError(
            "too_long",
            f"{path.name} has {len(times)} frames in {duration:.0f} s; at most "
            f"{limits.seconds:.0f} s and {limits.total_pixels} pixels in all are read",
        )
    turned = rotation in (90, 270)
    width, height = (codec.height, codec.width) if turned else (codec.width, codec.height)
    return VideoInfo(
        width,
        height,
        fps,
        len(times),
        duration,
        rotation,
        bool(container.streams.audio),
        codec.name,
        listed and rotation == 0 and codec.name in _DECORD_CODECS,
        times,
        origin,
    )


def _rotation(container: Any, stream: Any) -> int:
    """Degrees (0, 90, 180, 270) by which the decoded picture must be turned counter-clockwise."""
    tag = stream.metadata.get("rotate")
    if tag is not None and tag.lstrip("-").isdigit():
        return -int(tag) % 360 // 90 * 90
    # The display matrix travels with the first frame; decoding one frame is the only way PyAV shows it.
    container.seek(0)
    frame = next(container.decode(stream), None)
    return 0 if frame is None else round(frame.rotation / 90) * 90 % 360


def check(path: str | Path, start: float = 0.0, end: float | None = None, limits: Limits = LIMITS) -> None:
    """Decode the frames of [start, end) seconds with PyAV and keep none. Raises MediaError (`corrupt`) at the
    first damage: decord and most players paint over damaged places without a word."""
    import av

    path, at = Path(path), start
    with open_container(path, limits) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        origin = float((stream.start_time or 0) * stream.time_base)
        if start > 0:  # goes to the key frame before
            container.seek(round((start + origin) / stream.time_base), stream=stream)
        try:
            for frame in container.decode(stream):
                at = (frame.time or 0.0) - origin
                if end is not None and at >= end:
                    return
                if frame.is_corrupt and at >= start:
                    raise MediaError("corrupt", f"{path.name} is damaged at {at:.2f} s")
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", f"{path.name} is damaged after {at:.2f} s: {error}") from error
