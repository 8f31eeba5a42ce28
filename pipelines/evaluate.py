"""Does the portrait do what the driver does? Measured on identities no training saw.

Protocol "synthetic": drawn portraits × drawn driving clips, both of unseen identities. The renderer knows the
driver's true motion, so the motion measured in the result can be held against it. Per clip and parameter the
figure is Pearson's r over the frames; the aggregate pools the frames of all clips after removing each clip's
mean, with a 95 % bootstrap interval over clips. Two controls bracket it: the same measurement on the driving
clip itself (the ceiling of the measuring network) and on the result against another clip's motion (chance).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines import report
from pipelines.models import load
from pipelines.report import PARAMETERS
from xnemo.errors import XNeMoError
from xnemo_platform.config import Config, flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import settings
from xnemo_platform.tracking import ARTIFACTS, Drain, Outbox, Tracker

UNSEEN = 10_000_000  # identity seeds from here on are never rendered for training


class EvaluateConfig(Config):
    """What to measure and how much of it."""

    model: str
    """Model folder, or `models:/<name>@<alias>`."""
    output: str
    """Folder for rows, report and videos."""
    clips: int = Field(default=8, ge=1)
    frames: int = Field(default=40, ge=8)
    clip_size: int = 256
    steps: int = 10
    guidance_scale: float | None = None
    """The model's own where it is not given."""
    head_motion: Literal["relative", "still"] = "relative"
    seed: int = 0
    workers: int = Field(default=2, ge=1)
    experiment: str = "evaluate"
    """MLflow experiment."""


def evaluate(config: EvaluateConfig, model_folder: Path) -> dict[str, dict[str, float]]:
    """Animate `config.clips` unseen pairs on the workers of a running Ray, measure, report, record in MLflow.

    Returns per parameter `r`, `r_low`, `r_high` and the controls `ceiling` and `chance`. A clip that was animated
    under the same settings before is not animated again.
    """
    places, output = settings(), Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(uri=places.tracking_uri, experiment=config.experiment, artifact_root=places.artifact_root)
    key = _fingerprint(config, model_folder)
    heading = (
        f"{config.clips} drawn portraits, each driven by a drawn clip of another identity, {config.frames} frames; "
        f"neither was in training. {config.steps} steps, guidance {config.guidance_scale or 'as the model has it'}, "
        f"head motion {config.head_motion}, model `{config.model}`."
    )
    with (
        Drain(output, f"evaluate-{key}", tracker, flatten(config), {"model": str(model_folder)}),
        Outbox(output) as box,
    ):
        every = _rows(config, model_folder, key)
        rows = [row for row in every if "skipped" not in row]
        if not rows:
            raise PlatformError(f"none of the {len(every)} clips could be animated; the first: {every[0]['skipped']}")
        heading += f" {len(every) - len(rows)} clips were skipped because their face was lost." * (
            len(every) > len(rows)
        )
        summary = report.aggregate(rows, seed=config.seed)
        report.write(output / ARTIFACTS, rows, summary, heading)
        box.metrics(0, {f"{name}_{kind}": value for name, each in summary.items() for kind, value in each.items()})
    return summary


def _rows(config: EvaluateConfig, model_folder: Path, key: str) -> list[dict[str, Any]]:
    """One row per clip: those on disk, and the others from the workers, each written as it comes."""
    import ray

    output = Path(config.output)
    done = {index: row for index in range(config.clips) if (row := _read_row(output, index, key))}
    waiting = [index for index in range(config.clips) if index not in done]
    actor = ray.remote(num_cpus=0.5)(_Animator)
    workers = [actor.remote(str(model_folder), config, key) for _ in range(min(config.workers, len(waiting)))]
    pending = {worker.clip.remote(waiting.pop(0)): worker for worker in workers}
    began, before = time.monotonic(), len(done)
    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        worker = pending.pop(ready)
        row = ray.get(ready)
        done[row["clip"]] = row
        if waiting:
            pending[worker.clip.remote(waiting.pop(0))] = worker
        left = (time.monotonic() - began) / (len(done) - before) * (config.clips - len(done))
        print(f"clips {len(done)}/{config.clips}  ETA {left:.0f} s", flush=True)
    return [done[index] for index in range(config.clips)]


class _Animator:
    """One worker: loads the model once, then animates and measures clip after clip."""

    def __init__(self, model_folder: str, config: EvaluateConfig, key: str) -> None:
        import torch

        torch.set_num_threads(1)
        self.model, self.config, self.key = load(model_folder), config, key

    def clip(self, index: int) -> dict[str, Any]:
        from xnemo.synthetic import clips, measure

        config, output = self.config, Path(self.config.output)
        seed = UNSEEN + 1000 * config.seed + 2 * index
        portrait = output / f"portrait-{index:03}.png"
        driving = output / f"driving-{index:03}.mp4"
        clips.portrait(portrait, seed, config.clip_size)
        clips.write_clip(driving, seed + 1, seed + 1, config.frames / 25, config.clip_size)
        try:
            row = _animate_and_measure(self.model, portrait, driving, index, config, measure.measure)
        except XNeMoError as error:  # a driver whose face is lost, say: it is counted, and the others go on
            row = {"clip": index, "skipped": str(error)}
        row["key"] = self.key
        _write_row(output, index, row)
        return row


def _animate_and_measure(
    model: Any, portrait: Path, driving: Path, index: int, config: EvaluateConfig, measure: Callable[..., Any]
) -> dict[str, Any]:
    from xnemo.animation import animate
    from xnemo.clip import side_by_side
    from xnemo.media.images import read_image
    from xnemo.media.video import read_frames, write_video

    clip = animate(
        model,
        portrait,
        driving,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        seed=config.seed,
        head_motion=config.head_motion,
    )
    driver_frames = read_frames(driving)[: len(clip.frames)]
    video = driving.with_name(f"side-by-side-{index:03}.mp4")
    write_video(video, iter(side_by_side(read_image(portrait), driver_frames, clip.frames)), fps=clip.fps)
    truth = _true_motion(driving.with_suffix(".json"), len(clip.frames))
    return {
        "clip": index,
        "driver": truth,
        "driver_measured": _tracks(measure(driver_frames)),
        "result": _tracks(measure(clip.frames)),
        "video": video.name,
    }


def _tracks(measurement: Any) -> dict[str, list[float]]:
    return {name: [float(value) for value in getattr(measurement, name)] for name in PARAMETERS}


def _true_motion(sidecar: Path, frames: int) -> dict[str, list[float]]:
    """The renderer's own parameters of a driving clip: the truth the result is held against."""
    data = json.loads(sidecar.read_text())
    return {name: [float(value) for value in data["tracks"][name][:frames]] for name in PARAMETERS}


def _fingerprint(config: EvaluateConfig, model_folder: Path) -> str:
    digests = model_folder / "digests.json"
    if not digests.exists():
        raise PlatformError(
            f"{model_folder}: no model here (digests.json is missing); give a folder made by training or export."
        )
    settings = config.model_dump(exclude={"output", "workers", "clips", "model", "experiment"})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + digests.read_bytes()).hexdigest()[:16]


def _read_row(output: Path, index: int, key: str) -> dict[str, Any] | None:
    path = output / f"row-{index:03}.json"
    if not path.exists():
        return None
    row = json.loads(path.read_text())
    return row if row.get("key") == key else None


def _write_row(output: Path, index: int, row: dict[str, Any]) -> None:
    temporary = output / f".row-{index:03}.json"
    temporary.write_text(json.dumps(row))
    temporary.replace(output / f"row-{index:03}.json")
