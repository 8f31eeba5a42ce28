"""What touches uploaded bytes. These functions run in a child process with limits (`xnemo_platform.sandbox`), so they
take paths and give back numbers and arrays only; `ask` calls one and turns its failure into one sentence.

Imports are inside the functions: the child that only checks uploads must not load the networks' libraries.
"""

from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path
from typing import Any

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.limits import Limits
from xnemo_platform.sandbox import Sandbox

_STOPPED = {
    "timeout": "took too long to read: give a shorter or smaller file",
    "memory": "needs too much memory: give a smaller file",
    "killed": "could not be read: the file is damaged",
}


def ask(sandbox: Sandbox, what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of this module in the child. `what` names the file in the error. Raises XNeMoError for what the
    user can mend. A child that dies is given a second chance: it may have been killed from outside."""
    outcome = sandbox.call(function, *args)
    if outcome.kind == "killed":
        outcome = sandbox.call(function, *args)
    if outcome.kind == "ok":
        return outcome.value
    if outcome.kind == "error" and outcome.error in ("XNeMoError", "MediaError"):
        folders = [f"{arg.parent}/" for arg in args if isinstance(arg, Path)]  # where files lie is nobody's business
        raise XNeMoError(reduce(lambda text, folder: text.replace(folder, ""), folders, outcome.message))
    if outcome.kind == "error":
        raise RuntimeError(f"{function.__name__}: {outcome.error}: {outcome.message}")
    raise XNeMoError(f"the {what} {_STOPPED[outcome.kind]}")


def check(portrait: Path | None, driving: Path | None, limits: Limits) -> None:
    """Whether the files can be used, as far as headers tell and, for the portrait, a full decoding."""
    if portrait is not None:
        from xnemo.media.images import read_image

        read_image(portrait, limits=limits)
    if driving is not None:
        from xnemo.media.video import probe

        probe(driving, limits)


def has_sound(path: Path, limits: Limits) -> bool:
    """Whether the video has a sound track."""
    from xnemo.media.video import probe

    return bool(probe(path, limits).has_audio)


def portrait_crops(path: Path, config: ModelConfig, face: int | None, limits: Limits) -> dict[str, Any]:
    """The fields of `xnemo.prepare.Portrait`."""
    from xnemo.prepare import prepare_portrait

    return vars(prepare_portrait(path, config, _detector(), face, limits))


def driving_crops(
    path: Path, size: int, head_motion: Any, start: float, end: float | None, fps: float | None, limits: Limits
) -> dict[str, Any]:
    """faces uint8 [F,size,size,3], f_rts [F,3], fps, has_audio of a driving video."""
    import numpy as np

    from xnemo.prepare import prepare_driving

    driving = prepare_driving(path, _detector(), head_motion=head_motion, start=start, end=end, fps=fps, limits=limits)
    faces = np.concatenate(list(driving.faces(size)))
    return {"faces": faces, "f_rts": driving.f_rts, "fps": driving.fps, "has_audio": driving.has_audio}


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
