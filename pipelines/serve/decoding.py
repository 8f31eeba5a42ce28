"""What touches uploaded bytes. These functions run in a child process with limits (`xnemo_platform.sandbox`), so they
take paths, numbers and arrays, and give back such; `ask` calls one and turns its failure into one sentence.

Imports are inside the functions: the child that only checks uploads must not load the networks' libraries.
"""

from collections.abc import Callable, Iterator
from functools import cache, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.limits import Limits
from xnemo_platform.sandbox import Sandbox

_STOPPED = {
    "timeout": "took too long to read: give a shorter or smaller file",
    "memory": "needs too much memory: give a smaller file",
    "killed": "could not be read: the file is damaged",
}
_driving: Iterator[np.ndarray] = iter(())
"""In the child: the crops of the video that is being read, between two calls."""


class ChildDied(XNeMoError):
    """The child ended without an answer: killed by the file, or from outside."""


def ask(sandbox: Sandbox, what: str, function: Callable[..., Any], *args: Any, again: bool = True) -> Any:
    """Call a function of this module in the child. `what` names the file in the error. Raises XNeMoError for what the
    user can mend. A child that dies is given a second chance (`again`): it may have been killed from outside."""
    outcome = sandbox.call(function, *args)
    if outcome.kind == "killed" and again:
        outcome = sandbox.call(function, *args)
    if outcome.kind == "ok":
        return outcome.value
    if outcome.kind == "error" and outcome.error in ("XNeMoError", "MediaError"):
        folders = [f"{arg.parent}/" for arg in args if isinstance(arg, Path)]  # where files lie is nobody's business
        raise XNeMoError(reduce(lambda text, folder: text.replace(folder, ""), folders, outcome.message))
    if outcome.kind == "error":
        raise RuntimeError(f"{function.__name__}: {outcome.error}: {outcome.message}")
    raise (ChildDied if outcome.kind == "killed" else XNeMoError)(f"the {what} {_STOPPED[outcome.kind]}")


def check(portrait: Path | None, driving: Path | None, limits: Limits) -> None:
    """Whether the files can be used, as far as headers tell and, for the portrait, a full decoding."""
    if portrait is not None:
        from xnemo.media.images import read_image

        read_image(portrait, limits=limits)
    if driving is not None:
        from xnemo.media.video import probe

        probe(driving, limits)


def portrait_crops(path: Path, config: ModelConfig, face: int | None, limits: Limits) -> dict[str, Any]:
    """The fields of `xnemo.prepare.Portrait`."""
    from xnemo.prepare import prepare_portrait

    return vars(prepare_portrait(path, config, _detector(), face, limits))


def open_driving(
    path: Path, size: int, head_motion: Any, start: float, end: float | None, fps: float | None, limits: Limits
) -> dict[str, Any]:
    """f_rts [F,3] and fps of a driving video, whose face is found in every frame; `next_faces` gives its crops."""
    global _driving
    from xnemo.prepare import prepare_driving

    driving = prepare_driving(path, _detector(), head_motion=head_motion, start=start, end=end, fps=fps, limits=limits)
    _driving = driving.faces(size)
    return {"f_rts": driving.f_rts, "fps": driving.fps}


def next_faces() -> np.ndarray | None:
    """The next crops uint8 [n,size,size,3] of the video opened last; None after the last."""
    return next(_driving, None)


def encode(frames: np.ndarray, fps: float, label: bool) -> bytes:
    """Frames uint8 [n,H,W,3], marked as synthetic, as an mp4 of their own."""
    from xnemo.clip import save_frames

    with TemporaryDirectory(prefix="xnemo-") as folder:
        return save_frames(Path(folder, "part.mp4"), frames, fps, label=label).read_bytes()


def join(path: Path, parts: list[bytes], model: str, driving: Path | None, start: float) -> None:
    """Parts that `encode` made, as one mp4 at `path`, with the sound of the driving video from `start` seconds on."""
    from xnemo.media import provenance
    from xnemo.media.joining import join_videos

    join_videos(path, parts, provenance.note(model), driving, start)


def warm() -> None:
    """Load what the other functions need."""
    import xnemo.prepare

    assert xnemo.prepare
    _detector()


@cache
def _detector() -> Any:
    import torch

    from xnemo.media.faces import detector

    torch.set_num_threads(1)
    return detector()
