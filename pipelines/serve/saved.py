"""What of an animation is finished, kept beside its job: the motion, and the denoised windows as they come.

Files in one folder per job and model, all of them derived: `motion.safetensors`; `0003.safetensors`, the latents at
the beginning of step 3; `0003-00002.safetensors`, predictions of step 3 from its third window on. Who takes the job
over reads the furthest latents, then the windows without a gap, and goes on from there: the sums are made again in
the same order, so the result is the same. A file that is damaged or missing only means that more is done again.
"""

import logging
import re
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as to_bytes
from torch import Tensor

from pipelines.serve.scheduler import Request
from xnemo.schedule import Schedule
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

NAME = re.compile(r"(?P<step>\d{4})(-(?P<window>\d{5}))?\.safetensors")
LATENTS = -1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Portion:
    """What was finished since the last saving. latents [1,C,F,h,w] at the beginning of `step` if they are new;
    predictions [1,C,f,h,w] of its windows from `first` on."""

    step: int
    latents: Tensor | None
    first: int
    predictions: list[Tensor]


def take(request: Request) -> Portion | None:
    """What `request` has finished since the last call; None if nothing. To be called between two steps."""
    fresh_step = request.step != request.saved_step
    first = 0 if fresh_step else request.saved_windows
    portion = Portion(request.step, request.latents if fresh_step else None, first, request.received[first:])
    request.saved_step, request.saved_windows = request.step, len(request.received)
    return portion if portion.latents is not None or portion.predictions else None


def write(folder: str, portion: Portion) -> None:
    """Store a portion below the URI `folder`. Raises PlatformError."""
    if portion.latents is not None:
        storage.publish_bytes(storage.join(folder, f"{portion.step:04d}.safetensors"), _bytes(portion.latents))
        for step, _, older in _names(folder):
            if step < portion.step:
                storage.remove(storage.join(folder, older))
    if portion.predictions:
        name = f"{portion.step:04d}-{portion.first:05d}.safetensors"
        storage.publish_bytes(storage.join(folder, name), _bytes(torch.cat(portion.predictions)))


def restore(folder: str, request: Request, schedule: Schedule) -> None:
    """Bring a fresh request to where the files below `folder` end."""
    names = _names(folder)
    for step, window, name in sorted(names, reverse=True):
        if window == LATENTS and 0 < step <= len(request.times):
            latents = _read(folder, name)
            if latents is not None and latents.shape == request.latents.shape:
                request.resume(step, latents.to(request.latents))
                break
    for step, window, name in sorted(names):
        if step == request.step and window == len(request.received):
            predictions = _read(folder, name)
            if predictions is None or not request.replay(predictions, schedule):
                break
    request.saved_step, request.saved_windows = request.step, len(request.received)


def _names(folder: str) -> list[tuple[int, int, str]]:
    """(step, first window or LATENTS, name) of the files."""
    found = [match for name in storage.list_files(folder) if (match := NAME.fullmatch(name))]
    return [(int(match["step"]), int(match["window"] or LATENTS), match[0]) for match in found]


def _bytes(tensor: Tensor) -> bytes:
    return to_bytes({"x": tensor.detach().cpu().contiguous()})


def _read(folder: str, name: str) -> Tensor | None:
    try:
        tensor = parse(storage.read_bytes(storage.join(folder, name)))["x"]
    except (PlatformError, SafetensorError, KeyError) as error:
        log.warning("%s of an unfinished job cannot be used (%s)", name, type(error).__name__)
        return None
    return tensor if bool(tensor.isfinite().all()) else None
