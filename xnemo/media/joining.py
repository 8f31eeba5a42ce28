"""Several videos to one, without encoding again: what was encoded in parts by several machines becomes one file."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from xnemo.errors import XNeMoError
from xnemo.media.sound import SoundTrack


def join_videos(
    path: str | Path,
    parts: Sequence[bytes],
    metadata: Mapping[str, str],
    audio_from: str | Path | None = None,
    audio_start: float = 0.0,
) -> Path:
    """Write mp4 files that `write_video` made at one frame rate and size, in their order, as one mp4.

    metadata: of the new file. audio_from: a file whose sound from `audio_start` seconds on is laid under the picture.
    Raises MediaError for damaged sound, XNeMoError where the file cannot be written.
    """
    import av

    path = Path(path)
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart+use_metadata_tags"}) as out:
            out.metadata.update(metadata)
            with av.open(io.BytesIO(parts[0])) as first:
                picture = out.add_stream_from_template(first.streams.video[0])
            sound = SoundTrack.of(out, audio_from, audio_start, "aac") if audio_from is not None else None
            seconds, last = 0.0, None
            for part in parts:
                seconds, last = _append(out, picture, part, seconds, last)
                if sound is not None:
                    sound.until(seconds)
            if sound is not None:
                sound.close()
    except (OSError, av.error.FFmpegError) as error:
        path.unlink(missing_ok=True)
        raise XNeMoError(f"{path.name} cannot be written ({error.strerror or error})") from error
    return path


def _append(out, picture, part: bytes, seconds: float, last: int | None) -> tuple[float, int | None]:  # type: ignore[no-untyped-def]
    """Copy the packets of a video behind what is written, which ends at `seconds`, its last decoding time being
    `last`; where these are now."""
    import av

    with av.open(io.BytesIO(part), "r") as source:
        stream, frames = source.streams.video[0], 0
        assert stream.time_base
        assert stream.average_rate
        shift = round(seconds / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts is None:  # the end
                continue
            dts = packet.dts + shift
            last = dts if last is None else max(dts, last + 1)  # a part of few frames is decoded with less delay
            packet.pts, packet.dts, packet.stream = packet.pts + shift, last, picture
            out.mux(packet)
            frames += 1
        return seconds + float(frames / stream.average_rate), last
