"""A motion on disk: one `.safetensors` with f_mot [T,D], f_rts [T,3], the frame rate and the model it belongs to.

Codes of one motion encoder mean nothing to another, so the file names its model by digest and loading checks it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xnemo.errors import XNeMoError

FORMAT = "xnemo-motion/1"
MAX_BYTES = 1 << 30  # 8 hours of 512 features at 25 fps; more is not a motion file
MAX_FPS = 240.0


@dataclass(frozen=True)
class Motion:
    """A sequence of head motion.

    f_mot: float32 [T,D] before fusion. f_rts: float32 [T,3] as (Δy, Δx, s), s > 0. fps: frames per second.
    model: digest of the weights whose motion encoder made it ("" if unknown).
    """

    f_mot: np.ndarray
    f_rts: np.ndarray
    fps: float
    model: str = ""

    def __post_init__(self) -> None:
        for name in ("f_mot", "f_rts"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        _check(self)

    def __len__(self) -> int:
        return len(self.f_mot)

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self) / self.fps

    def part(self, start: int, end: int) -> Motion:
        """Frames start … end - 1."""
        return replace(self, f_mot=self.f_mot[start:end], f_rts=self.f_rts[start:end])

    def span(self, start: float, end: float | None, fps: float | None = None, frames: int | None = None) -> Motion:
        """The seconds from start to end, at most `frames` frames, at another frame rate if `fps` is given (in straight
        lines between the frames). Raises XNeMoError for a span without frames."""
        stop = min(self.seconds if end is None else end, self.seconds)
        rate = fps or self.fps
        count = min(int(np.floor((stop - start) * rate + 1e-3)), frames or 1 << 40)
        if count < 1:
            raise XNeMoError(f"the motion lasts {self.seconds:.2f} s and has no frames from {start} s to {stop} s")
        at = (start + np.arange(count) / rate) * self.fps
        if rate == self.fps:
            return self.part(round(start * self.fps), round(start * self.fps) + count)
        known = np.arange(len(self))
        f_mot, f_rts = (
            np.stack([np.interp(at, known, column) for column in values.T], axis=1)
            for values in (self.f_mot, self.f_rts)
        )
        return replace(self, f_mot=f_mot, f_rts=f_rts, fps=rate)


def still_rts(frames: int) -> np.ndarray:
    """f_rts of a head that stays where the portrait has it: (0, 0, 1) per frame, [frames,3]."""
    return np.tile(np.array([0.0, 0.0, 1.0], dtype=np.float32), (frames, 1))


def check_size(frames: float, features: int) -> None:
    """Raise XNeMoError for a motion that no file may hold, before it is made; `frames` may be any number, NaN too."""
    if not frames > 0:
        raise XNeMoError(f"a motion needs at least one frame, not {frames:g}")
    if not 4 * frames * (features + 3) <= MAX_BYTES:
        longest = MAX_BYTES // (4 * (features + 3))
        raise XNeMoError(f"a motion of {frames:g} frames is too long: ask for at most {longest} frames")


def check_alike(motions: Sequence[Motion], mixed: str = "mixed") -> None:
    """Raise XNeMoError unless all are of one width, and of one model as far as that is known."""
    widths = list(dict.fromkeys(motion.f_mot.shape[1] for motion in motions))
    models = list(dict.fromkeys(motion.model for motion in motions if motion.model))
    if len(widths) > 1:
        raise XNeMoError(
            f"motions of widths {widths[0]} and {widths[1]} cannot be {mixed}: extract both with one model"
        )
    if len(models) > 1:
        raise XNeMoError(
            f"motions of models {models[0][:12]} and {models[1][:12]} cannot be {mixed}: extract both with one model"
        )


def save_motion(motion: Motion, path: str | Path) -> Path:
    """Write the file whole or not at all; returns its path."""
    return write_whole(to_bytes(motion), Path(path))


def write_whole(data: bytes, path: Path) -> Path:
    """Write under a temporary name, then rename; folders are made. Returns the path."""
    if path.is_dir():
        raise XNeMoError(f"{path} is a folder: name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def to_bytes(motion: Motion) -> bytes:
    """The file's content; the same motion gives the same bytes."""
    from safetensors.numpy import save

    meta = {"motion": json.dumps({"format": FORMAT, "fps": motion.fps, "model": motion.model}, sort_keys=True)}
    return save({"f_mot": motion.f_mot, "f_rts": motion.f_rts}, metadata=meta)


def load_motion(source: str | Path | bytes, *, model: str | None = None, features: int | None = None) -> Motion:
    """Read a motion file or its bytes; `model` (digest) and `features` (D), where given, must match.

    Raises XNeMoError for anything else than a sound motion of that model.
    """
    name = "motion" if isinstance(source, bytes) else str(source)
    motion = _parse(_read(source, name), name)
    if model and motion.model and motion.model != model:
        raise XNeMoError(
            f"{name}: made with model {motion.model[:12]}, not with {model[:12]}: "
            "extract the motion again with the model in use"
        )
    if features is not None and motion.f_mot.shape[1] != features:
        raise XNeMoError(
            f"{name}: f_mot has width {motion.f_mot.shape[1]}, the model expects {features}: "
            "extract the motion again with the model in use"
        )
    return motion


def _read(source: str | Path | bytes, name: str) -> bytes:
    if not isinstance(source, bytes):
        try:
            if os.path.getsize(source) > MAX_BYTES:
                raise XNeMoError(f"{name}: larger than {MAX_BYTES >> 20} MiB, not a motion file")
            source = Path(source).read_bytes()
        except OSError as error:
            raise XNeMoError(f"{name}: cannot be read ({error.strerror}): check the path") from None
    if len(source) > MAX_BYTES:
        raise XNeMoError(f"{name}: larger than {MAX_BYTES >> 20} MiB, not a motion file")
    return source


def _parse(data: bytes, name: str) -> Motion:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        meta = json.loads(header["__metadata__"]["motion"])
        tensors = load(data)
        fps, model = float(meta["fps"]), str(meta["model"])
        f_mot, f_rts = tensors["f_mot"], tensors["f_rts"]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise XNeMoError(f"{name}: not a motion file: make one with `xnemo motion extract`") from None
    if meta.get("format") != FORMAT:
        raise XNeMoError(f"{name}: format {meta.get('format')!r} is unknown, this version reads {FORMAT}")
    if f_mot.dtype.kind != "f" or f_rts.dtype.kind != "f":
        raise XNeMoError(f"{name}: f_mot and f_rts must be floating point, not {f_mot.dtype} and {f_rts.dtype}")
    try:
        return Motion(f_mot, f_rts, fps, model)
    except XNeMoError as error:
        raise XNeMoError(f"{name}: {error}") from None


def _check(motion: Motion) -> None:
    f_mot, f_rts = motion.f_mot, motion.f_rts
    if f_mot.ndim != 2 or f_mot.shape[0] == 0 or f_mot.shape[1] == 0:
        raise XNeMoError(f"f_mot must be [T,D] with at least one frame, not {f_mot.shape}")
    if f_rts.shape != (f_mot.shape[0], 3):
        raise XNeMoError(f"f_rts must be [{f_mot.shape[0]},3] as (dy, dx, s), not {f_rts.shape}")
    if not (np.isfinite(f_mot).all() and np.isfinite(f_rts).all()):
        raise XNeMoError("the motion holds NaN or infinite values: extract it again")
    if (f_rts[:, 2] <= 0).any():
        raise XNeMoError("f_rts must be ordered (dy, dx, s) with s > 0")
    if not 0 < motion.fps <= MAX_FPS:
        raise XNeMoError(f"fps must lie in (0, {MAX_FPS:g}], not {motion.fps:g}")
