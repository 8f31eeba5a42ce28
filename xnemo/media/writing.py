"""Frames to files, by the name's ending: mp4 (H.264, AAC), webm (VP9, Opus), gif, a folder of PNG files, one picture.

Frames are used as they come and never held; the sound is laid between them as they are written, so that a player can
begin before the end has arrived. A file appears under its name only when it is whole.
"""

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from xnemo.errors import XNeMoError
from xnemo.media.sound import SoundTrack

CRF = 18  # the released script's
_SOUND_CODEC = {"mp4": "aac", "webm": "libopus", "gif": None}
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ".mp4, .webm or .gif, name a folder for PNG files, or end it in .png or .jpg for a single frame"


def format_of(path: str | Path) -> str:
    """ "mp4", "webm", "gif", "png" (a folder of them) or "picture". Raises XNeMoError for another ending."""
    path = Path(path)
    if path.suffix.lower() in (".mp4", ".webm", ".gif"):
        return path.suffix.lower()[1:]
    if path.suffix == "" or path.is_dir():
        return "png"
    if path.suffix.lower() in PICTURES:
        return "picture"
    raise XNeMoError(f"{path}: nothing can be written as {path.suffix}: end the name in {FORMATS}")


def check_crf(crf: int) -> None:
    """Raise XNeMoError for a quality that the encoders do not know."""
    if not 0 <= crf <= 51:
        raise XNeMoError(f"crf is {crf}: give 0 (best) to 51 (worst)")


def check_output(path: str | Path) -> None:
    """Raise XNeMoError if no video can be written under this name."""
    path = Path(path)
    check_writable(path)
    kind = format_of(path)
    if kind != "png" and path.is_dir():
        raise XNeMoError(f"{path} is a folder: give the name of a file in it")
    if kind == "png" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise XNeMoError(f"{path} is there already: a PNG sequence needs a new or an empty folder")


def check_writable(path: str | Path) -> None:
    """Raise XNeMoError if nothing can be written under this name; the folder is made if it does not exist."""
    path = Path(path)
    if not path.name:
        raise XNeMoError(f"{str(path)!r} is no name for a result: give one, such as out.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{path.name}.{os.getpid()}.part")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise XNeMoError(f"{path} cannot be written ({error.strerror}): give another place") from None


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    audio_from: str | Path | None = None,
    crf: int = CRF,
    metadata: Mapping[str, str] | None = None,
    audio_start: float = 0.0,
) -> Path:
    """Write frames (an iterable of uint8 RGB [H, W, 3], used as they come) in the format of the name's ending.

    audio_from: a file whose sound from `audio_start` seconds on is taken along, cut to the picture's length (not in
    a gif or a PNG folder). crf: quality of mp4 and webm, 0 (best) to 51. An odd width or height of an mp4 or webm is
    padded by its last column or row, since yuv420p needs even sides. Raises XNeMoError without frames, for frames of
    different sizes, and where nothing can be written.
    """
    path, iterator = Path(path), iter(frames)
    kind, head = format_of(path), next(iterator, None)
    if head is None:
        raise XNeMoError(f"{path} would hold no frames: nothing was written")
    checked = _alike(chain([head], iterator), head.shape)
    with _whole(path) as partial:
        if kind == "png":
            _write_pngs(partial, checked, fps, metadata or {})
        elif kind == "picture":
            _write_picture(partial, checked, path, metadata or {})
        else:
            _write_container(partial, kind, checked, head.shape, fps, crf, metadata or {}, audio_from, audio_start)
    return path


def _forget_dead(path: Path) -> None:
    """Remove what killed processes had begun to write under this name."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        pid = partial.name.split(".")[-2]
        if pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write under; moved to `path` in the end, removed where that fails."""
    import av

    _forget_dead(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        if partial.is_file():
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, av.error.FFmpegError) as error:
        raise XNeMoError(f"{path} cannot be written ({error.strerror or error}): nothing was left there") from error
    finally:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def _alike(frames: Iterator[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        if frame.shape != shape or frame.dtype != np.uint8:
            raise XNeMoError(
                f"frame {number} is {frame.dtype} {frame.shape}, the first is uint8 {shape}: "
                "all frames of a video need one size"
            )
        yield frame


def _write_container(
    partial: Path,
    kind: str,
    frames: Iterator[np.ndarray],
    shape: tuple[int, ...],
    fps: float,
    crf: int,
    metadata: Mapping[str, str],
    audio_from: str | Path | None,
    audio_start: float,
) -> None:
    import av

    options = {"movflags": "+faststart+use_metadata_tags"} if kind == "mp4" else {}
    rate, codec, count = Fraction(fps).limit_denominator(1001), _SOUND_CODEC[kind], 0
    with av.open(str(partial), "w", format=kind, options=options) as out:
        out.metadata.update(metadata)
        picture = _picture_stream(out, kind, shape, rate, crf)
        sound = SoundTrack.of(out, audio_from, audio_start, codec) if audio_from is not None and codec else None
        for count, frame in enumerate(_palettes(frames, rate) if kind == "gif" else map(_as_video, frames), 1):
            out.mux(picture.encode(frame))
            if sound is not None and count % 25 == 0:
                sound.until(count / float(rate))
        out.mux(picture.encode(None))
        if sound is not None:
            sound.until(count / float(rate))
            sound.close()
    if kind == "gif" and metadata:
        _insert_comment(partial, metadata.get("comment", ""))


def _picture_stream(out: Any, kind: str, shape: tuple[int, ...], rate: Fraction, crf: int) -> Any:
    codec, options = {
        "mp4": ("libx264", {"crf": str(crf)}),
        "webm": ("libvpx-vp9", {"crf": str(crf), "b": "0", "cpu-used": "4", "row-mt": "1"}),
        "gif": ("gif", {}),
    }[kind]
    stream = out.add_stream(codec, rate=rate, options=options)
    even = kind != "gif"
    stream.height, stream.width = (side + side % 2 if even else side for side in shape[:2])
    stream.pix_fmt = "yuv420p" if even else "pal8"
    return stream


def _as_video(frame: np.ndarray) -> Any:  # an av frame
    import av

    padded = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), "edge")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")


def _palettes(frames: Iterator[np.ndarray], rate: Fraction) -> Iterator[Any]:
    """The frames in 256 colours each, chosen frame by frame, so that none has to wait for the last one."""
    import av

    graph = None
    for number, array in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        frame.pts, frame.time_base = number, 1 / rate
        if graph is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=1 / rate)
            split, make = graph.add("split"), graph.add("palettegen", "stats_mode=single")
            use, sink = graph.add("paletteuse", "new=1:dither=sierra2_4a"), graph.add("buffersink")
            source.link_to(split)
            split.link_to(use, 0, 0)
            split.link_to(make, 1, 0)
            make.link_to(use, 0, 1)
            use.link_to(sink)
            graph.configure()
        source.push(frame)
        yield from _pulled(sink)
    if graph is not None:
        source.push(None)
        yield from _pulled(sink)


def _pulled(sink: Any) -> Iterator[Any]:
    import av

    while True:
        try:
            yield sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _insert_comment(gif: Path, text: str) -> None:
    """Put a comment block behind the header of a gif, where readers look for it."""
    data = text.encode()
    blocks = b"".join(bytes([len(part)]) + part for part in (data[i : i + 255] for i in range(0, len(data), 255)))
    with_comment = gif.with_name(f"{gif.name}.c")
    try:
        with gif.open("rb") as old, with_comment.open("wb") as new:
            head = old.read(13)  # the last bits of its eleventh byte tell the size of the colour table that follows
            table = 3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0
            new.write(head + old.read(table) + b"\x21\xfe" + blocks + b"\x00")
            shutil.copyfileobj(old, new)
        with_comment.replace(gif)
    finally:
        with_comment.unlink(missing_ok=True)


def _write_pngs(folder: Path, frames: Iterator[np.ndarray], fps: float, metadata: Mapping[str, str]) -> None:
    """000000.png and so on, each with the note; `sequence.json` says the rate."""
    from PIL import Image

    folder.mkdir()
    count = 0
    for count, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"{count - 1:06}.png", pnginfo=_png_note(metadata), compress_level=3)
    (folder / "sequence.json").write_text(json.dumps({"fps": fps, "frames": count}) + "\n")


def _write_picture(partial: Path, frames: Iterator[np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    from PIL import Image

    picture = Image.fromarray(next(frames))
    if next(frames, None) is not None:
        raise XNeMoError(f"{path} can hold one frame only: end the name in .mp4, .webm or .gif, or name a folder")
    exif = Image.Exif()
    exif[0x010E] = json.dumps(dict(metadata))  # ImageDescription
    kind = {".png": "PNG", ".webp": "WEBP"}.get(path.suffix.lower(), "JPEG")
    note = {"pnginfo": _png_note(metadata)} if kind == "PNG" else {"exif": exif} if metadata else {}
    picture.save(partial, kind, quality=95, **note)


def _png_note(metadata: Mapping[str, str]) -> Any:
    from PIL import PngImagePlugin

    note = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        note.add_itxt(key, value)
    return note
