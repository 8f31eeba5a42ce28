"""Does the portrait do what the driver does? Measured on identities no training saw.

Protocol "synthetic": drawn portraits × drawn driving clips, both of unseen identities. The renderer knows the
driver's true motion, so the motion measured in the result can be held against it. Per clip and parameter the
figure is Pearson's r over the frames; the aggregate pools the frames of all clips after removing each clip's
mean, with a 95 % bootstrap interval over clips. Two controls bracket it: the same measurement on the driving
clip itself (the ceiling of the measuring network) and on the result against another clip's motion (chance).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from xnemo_platform.errors import PlatformError

PARAMETERS = ("roll", "x", "y", "scale", "yaw", "pitch", "jaw")
UNSEEN = 10_000_000  # identity seeds from here on are never rendered for training
BOOTSTRAP = 1000

Array = NDArray[np.float64]


class EvaluateConfig(BaseModel):
    """What to measure and how much of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Model folder, or `models:/<name>@<alias>`."""
    output: str
    """Folder for rows, report and videos."""
    clips: int = Field(default=8, ge=1)
    frames: int = Field(default=40, ge=8)
    clip_size: int = 256
    steps: int = 10
    guidance_scale: float = 1.0
    head_motion: str = "relative"
    seed: int = 0
    workers: int = Field(default=2, ge=1)
    videos: int = 3
    """Side-by-side videos kept: the best, the median and the worst clip, as far as this number goes."""


def evaluate(
    config: EvaluateConfig, model_folder: Path, on_clip: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Animate `config.clips` unseen pairs on Ray workers, measure, write `rows.parquet` and `report.md`.

    Returns the aggregate: for every parameter `r`, `r_low`, `r_high`, and the controls `ceiling` and `chance`.
    A clip whose row is already in the output folder under the same settings is not animated again.
    """
    import ray

    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    key = _fingerprint(config, model_folder)
    done = {index: row for index in range(config.clips) if (row := _read_row(output, index, key))}
    waiting = [index for index in range(config.clips) if index not in done]
    actor = ray.remote(num_cpus=0.5)(_Animator)
    workers = [actor.remote(str(model_folder), config, key) for _ in range(min(config.workers, len(waiting)))]
    pending = {worker.clip.remote(waiting.pop(0)): worker for worker in workers}
    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        worker = pending.pop(ready)
        row = ray.get(ready)
        done[row["clip"]] = row
        if waiting:
            pending[worker.clip.remote(waiting.pop(0))] = worker
        if on_clip:
            on_clip(len(done))
    rows = [done[index] for index in range(config.clips)]
    summary = aggregate(rows, seed=config.seed)
    _write_report(output, config, rows, summary)
    return summary


def aggregate(rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Pool clips into one figure per parameter. Order of the rows does not matter."""
    rows = sorted(rows, key=lambda row: row["clip"])
    return {name: _aggregate_one(name, rows, seed) for name in PARAMETERS}


def pooled_r(driven: Sequence[Array], measured: Sequence[Array]) -> float:
    """Pearson's r over the frames of all clips, each clip's mean removed first; 0 where nothing moves."""
    return float(_correlation(_products(driven, measured).sum(0)))


def _products(driven: Sequence[Array], measured: Sequence[Array]) -> Array:
    """[clips, 3]: per clip a·b, a·a and b·b of the centred tracks. Pooling is a sum over clips, so that a
    bootstrap over clips needs nothing else."""
    a = [np.asarray(track, float) - np.mean(track) for track in driven]
    b = [np.asarray(track, float) - np.mean(track) for track in measured]
    return np.array([[x @ y, x @ x, y @ y] for x, y in zip(a, b, strict=True)])


def _correlation(sums: Array) -> Array:
    """[..., 3] sums of products to [...] correlations."""
    spread = np.sqrt(sums[..., 1] * sums[..., 2])
    return np.divide(sums[..., 0], spread, out=np.zeros_like(spread), where=spread > 1e-12)


def _aggregate_one(name: str, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
    driven = [np.asarray(row["driver"][name]) for row in rows]
    result = [np.asarray(row["result"][name]) for row in rows]
    of_driver = [np.asarray(row["driver_measured"][name]) for row in rows]
    products = _products(driven, result)
    draws = np.random.default_rng(seed).integers(0, len(rows), (BOOTSTRAP, len(rows)))
    low, high = np.quantile(_correlation(products[draws].sum(1)), [0.025, 0.975])
    return {
        "r": pooled_r(driven, result),
        "r_low": float(low),
        "r_high": float(high),
        "ceiling": pooled_r(driven, of_driver),
        "chance": pooled_r(driven, result[1:] + result[:1]) if len(rows) > 1 else float("nan"),
    }


class _Animator:
    """One worker: loads the model once, then animates and measures clip after clip."""

    def __init__(self, model_folder: str, config: EvaluateConfig, key: str) -> None:
        import torch

        import xnemo

        torch.set_num_threads(1)
        self.model, self.config, self.key = xnemo.load(model_folder), config, key

    def clip(self, index: int) -> dict[str, Any]:
        from xnemo.synthetic import clips, measure

        config, output = self.config, Path(self.config.output)
        seed = UNSEEN + 1000 * config.seed + 2 * index
        portrait = output / f"portrait-{index:03}.png"
        driving = output / f"driving-{index:03}.mp4"
        clips.portrait(portrait, seed, config.clip_size)
        clips.write_clip(driving, seed + 1, seed + 1, config.frames / 25, config.clip_size)
        row = _animate_and_measure(self.model, portrait, driving, index, config, measure.measure)
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
    driver_frames = np.stack(list(read_frames(driving)))[: len(clip.frames)]
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
    import hashlib

    digests = model_folder / "digests.json"
    if not digests.exists():
        raise PlatformError(
            f"{model_folder}: no model here (digests.json is missing); give a folder made by training or export."
        )
    settings = config.model_dump(exclude={"output", "workers", "clips", "videos", "model"})
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


def _write_report(
    output: Path, config: EvaluateConfig, rows: Sequence[dict[str, Any]], summary: dict[str, dict[str, float]]
) -> None:
    """`rows.parquet` (one row per clip and parameter) and `report.md`; `summary.json` last, as the sign of an end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [
        {"clip": row["clip"], "parameter": name, "video": row["video"]}
        | {"r": pooled_r([np.asarray(row["driver"][name])], [np.asarray(row["result"][name])])}
        | {kind: row[kind][name] for kind in ("driver", "driver_measured", "result")}
        for row in rows
        for name in PARAMETERS
    ]
    pq.write_table(pa.Table.from_pylist(flat), output / "rows.parquet")
    (output / "report.md").write_text(report(config, rows, summary))
    (output / "summary.json").write_text(json.dumps(summary, indent=2))


def report(config: EvaluateConfig, rows: Sequence[dict[str, Any]], summary: dict[str, dict[str, float]]) -> str:
    """The page a person reads."""
    lines = [
        "# Motion transfer on unseen identities",
        "",
        f"{len(rows)} drawn portraits, each driven by a drawn clip of another identity; neither was in training. "
        f"{config.steps} steps, guidance {config.guidance_scale}, head motion {config.head_motion}.",
        "",
        "| parameter | r (95 % interval) | ceiling: measured on the driver | chance: another clip's motion |",
        "|---|---|---|---|",
    ]
    for name, figures in summary.items():
        interval = f"{figures['r']:.2f} ({figures['r_low']:.2f} to {figures['r_high']:.2f})"
        lines.append(f"| {name} | {interval} | {figures['ceiling']:.2f} | {figures['chance']:.2f} |")
    lines += [
        "",
        "r is Pearson's correlation over frames between the driver's true motion and the motion measured in ",
    ]
    lines[-1] += "the result, each clip's mean removed. Videos (portrait, driver, result):"
    lines += ["", *(f"- clip {row['clip']}: `{row['video']}`" for row in chosen(rows, config.videos)), ""]
    return "\n".join(lines)


def chosen(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Best, median and worst clip by mean r, so that a report cannot show its best alone."""

    def mean_r(row: dict[str, Any]) -> float:
        each = [pooled_r([np.asarray(row["driver"][n])], [np.asarray(row["result"][n])]) for n in PARAMETERS]
        return float(np.mean(each))

    ranked = sorted(rows, key=mean_r, reverse=True)
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [ranked[place] for place in places]
