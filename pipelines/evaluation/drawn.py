"""Protocol "synthetic", part one: drawn portraits × drawn driving clips, both of people no training saw.

The renderer knows the driver's true motion, so the motion measured in the result can be held against it. Per clip and
parameter the figure is Pearson's r over the frames (pipelines.report). Two controls bracket it: the same measurement
on the driving clip itself (the ceiling of the measuring network) and on the result against another clip's motion
(chance).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluation import crew
from pipelines.models import device, load
from pipelines.report import PARAMETERS
from xnemo_platform import storage

if TYPE_CHECKING:
    from torch import nn

    from xnemo.clip import Clip
    from xnemo.model import XNeMo

UNSEEN = 10_000_000  # identity seeds from here on are never rendered for training
EMOTION = ("jaw", "smile", "blink_left", "blink_right", "brow_left", "brow_right")
TRACKS = (*PARAMETERS, *(name for name in EMOTION if name not in PARAMETERS))


def rows(config: Any, model_folder: Path, key: str) -> list[dict[str, Any]]:
    """One row per clip: those on disk, and the others from the workers, each written as it comes."""
    output = Path(config.output)
    done = {index: row for index in range(config.clips) if (row := _known(output, index, key))}

    def keep(index: int, row: Any) -> None:
        if isinstance(row, Exception):
            row = {"clip": index, "skipped": str(row)}
        else:
            storage.publish_bytes(str(_row_file(output, index)), json.dumps(row | {"key": key}).encode())
        done[index] = row

    waiting = [index for index in range(config.clips) if index not in done]
    crew.work(ClipAnimator, (str(model_folder), config), waiting, config.workers, keep, "clips", config.gpus)
    return [done[index] for index in range(config.clips)]


class ClipAnimator:
    """One worker: loads the model once, then animates and measures clip after clip."""

    def __init__(self, model_folder: str, config: Any) -> None:
        import torch

        torch.set_num_threads(1)
        self.model, self.config = load(model_folder, device(config.device)), config

    def do(self, index: int) -> dict[str, Any]:
        """The row of one clip; one whose face is lost, say, is counted, and the others go on."""
        from xnemo.errors import XNeMoError
        from xnemo.synthetic import clips

        config, output = self.config, Path(self.config.output)
        seed = UNSEEN + 1000 * config.seed + 2 * index
        portrait = output / f"portrait-{index:03}.png"
        driving = output / f"driving-{index:03}.mp4"
        clips.portrait(portrait, seed, config.clip_size)
        clips.write_clip(driving, seed + 1, seed + 1, config.frames / 25, config.clip_size)
        try:
            return self.animate_and_measure(portrait, driving, index)
        except XNeMoError as error:
            return {"clip": index, "skipped": str(error)}

    def animate_and_measure(self, portrait: Path, driving: Path, index: int) -> dict[str, Any]:
        """The tracks of driver and result, with temporal modules and without, and a video that shows both."""
        from xnemo.clip import side_by_side
        from xnemo.media.images import read_image
        from xnemo.media.video import read_frames, write_video
        from xnemo.synthetic.measure import measure

        clip = single = self.animate(portrait, driving)
        if any(layer.weight.any() or layer.bias.any() for layer in temporal_layers(self.model)):
            with without_temporal(self.model):
                single = self.animate(portrait, driving)
        driver_frames = read_frames(driving)[: len(clip.frames)]
        video = driving.with_name(f"side-by-side-{index:03}.mp4")
        write_video(video, iter(side_by_side(read_image(portrait), driver_frames, clip.frames)), fps=clip.fps)
        return {
            "clip": index,
            "driver": _true_motion(driving.with_suffix(".json"), len(clip.frames)),
            "driver_measured": _tracks(measure(driver_frames)),
            "result": _tracks(measure(clip.frames)),
            "single": _tracks(measure(single.frames)),
            "video": video.name,
        }

    def animate(self, portrait: Path, driving: Path) -> Clip:
        """As the run's configuration samples."""
        from xnemo.animation import animate

        config = self.config
        return animate(
            self.model, portrait, driving, steps=config.steps, guidance_scale=config.guidance_scale, seed=config.seed,
            head_motion=config.head_motion,
        )  # fmt: skip


def temporal_layers(model: XNeMo) -> list[nn.Linear]:
    """The last layer of every temporal module: at zero, where training begins, the module adds nothing."""
    from xnemo.temporal import TemporalModule

    return [part.temporal_transformer.proj_out for part in model.modules() if isinstance(part, TemporalModule)]


@contextmanager
def without_temporal(model: XNeMo) -> Iterator[None]:
    """The model's temporal modules add nothing meanwhile."""
    layers = temporal_layers(model)
    kept = [(each.weight.data, each.bias.data) for each in layers]
    for each in layers:
        each.weight.data, each.bias.data = each.weight.data * 0, each.bias.data * 0
    try:
        yield
    finally:
        for each, (weight, bias) in zip(layers, kept, strict=True):
            each.weight.data, each.bias.data = weight, bias


def _tracks(measurement: Any) -> dict[str, list[float]]:
    return {name: [float(value) for value in getattr(measurement, name)] for name in TRACKS}


def _true_motion(sidecar: Path, frames: int) -> dict[str, list[float]]:
    """The renderer's own parameters of a driving clip: the truth the result is held against."""
    data = json.loads(sidecar.read_text())
    return {name: [float(value) for value in data["tracks"][name][:frames]] for name in TRACKS}


def _row_file(output: Path, index: int) -> Path:
    return output / f"row-{index:03}.json"


def _known(output: Path, index: int, key: str) -> dict[str, Any] | None:
    path = _row_file(output, index)
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return row if row.get("key") == key else None
