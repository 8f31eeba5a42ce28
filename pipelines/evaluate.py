"""`xnemo evaluate`: a protocol run on Ray, rows and report written, everything recorded in MLflow (docs/metrics.md)."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines import report
from pipelines.evaluation import ablation, drawn, drawn_figures, pairs, tables, transfer, video_report, videos
from pipelines.evaluation.drawn import UNSEEN
from pipelines.evaluation.keys import fingerprint
from pipelines.evaluation.rows import publish
from xnemo.metrics.weights import NotComputed
from xnemo_platform.config import Config, flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import settings
from xnemo_platform.tracking import ARTIFACTS, Drain, Outbox, Tracker

__all__ = ["UNSEEN", "EvaluateConfig", "evaluate"]


class EvaluateConfig(Config):
    """What to measure and how much of it."""

    model: str = ""
    """Model folder, or `models:/<name>@<alias>`; for ablation a comma-separated list of name=folder, the full first. A
    name given several times is one variant trained with several seeds."""
    output: str
    """Folder for rows, report and videos."""
    protocol: Literal["synthetic", "self", "cross", "temporal", "ablation"] = "synthetic"
    data: str | None = None
    """self, cross, temporal, ablation: a manifest of pairs, a folder (of videos; cross: with portraits/ and driving/),
    or a data set made by ingest. ablation without it compares drawn pairs."""
    split: str | None = None
    """Of a data set: train, val or test. None: val and test together, or all where nothing is held out."""
    results: str | None = None
    """Folder with <pair id>.mp4 that another model made: these are measured, nothing is animated."""
    weights: dict[str, str] = Field(default_factory=dict)
    """Weight files of metrics by name (xnemo.metrics.weights.FILES): a path, or owner/repository/file."""
    limit: int | None = Field(default=None, ge=1)
    """The first pairs only."""
    frames_limit: int | None = Field(default=None, ge=2)
    """self, cross, temporal: the first frames of every video only."""
    clips: int = Field(default=8, ge=1)
    """synthetic: drawn driving clips."""
    pairs: int = Field(default=16, ge=0)
    """synthetic: drawn still pairs for transfer and leakage; the recipe asks for 512. 0: none."""
    controls: bool = True
    """ablation: each model's whole report with its controls too, at five times the cost; false compares models only."""
    people: int = Field(default=1536, ge=128)
    """synthetic: drawn people whose pictures the probes on f_mot read."""
    frames: int = Field(default=40, ge=8)
    clip_size: int = 256
    steps: int | None = None
    """The model's own where they are not given."""
    guidance_scale: float | None = None
    """The model's own where it is not given."""
    head_motion: Literal["relative", "still"] = "relative"
    seed: int = 0
    device: str = "cpu"
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of one animating worker."""
    workers: int = Field(default=2, ge=1)
    experiment: str = "evaluate"
    """MLflow experiment."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.controls and (self.protocol != "ablation" or self.data):
            raise ValueError(
                "controls=false is for protocol ablation on drawn pairs: other figures mean little without them, and "
                "pairs of videos have none"
            )
        return self


def evaluate(config: EvaluateConfig, model_folder: Path | None) -> dict[str, Any]:
    """Run the protocol on the workers of a running Ray, report, record in MLflow; returns the summary.

    synthetic: per parameter `r`, `r_low`, `r_high` and the controls `ceiling` and `chance`; the others: per metric
    mean, low, high, count. What was animated and measured under the same settings before is not done again. Raises
    PlatformError where nothing at all could be measured.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    places = settings()
    tracker = Tracker(uri=places.tracking_uri, experiment=config.experiment, artifact_root=places.artifact_root)
    runs = ablation.run_all(config, evaluate) if config.protocol == "ablation" else []
    models: list[Path | None] = [run.model for run in runs]
    key = fingerprint(config, *(models or [model_folder]))
    with (
        Drain(
            output, f"{config.protocol}-{key}", tracker, flatten(config), {"model": str(model_folder or config.results)}
        ),
        Outbox(output) as box,
    ):
        if runs:
            summary, metrics = ablation.report(config, runs)
        else:
            measured = _drawn if config.protocol == "synthetic" else _videos
            summary, metrics = measured(config, model_folder, key)
        box.metrics(0, {name: value for name, value in metrics.items() if math.isfinite(value)})
    return summary


def _drawn(config: EvaluateConfig, model_folder: Path | None, key: str) -> tuple[dict[str, Any], dict[str, float]]:
    assert model_folder is not None
    every = drawn.rows(config, model_folder, key)
    rows = [row for row in every if "skipped" not in row]
    if not rows:
        raise PlatformError(f"none of the {len(every)} clips could be animated; the first: {every[0]['skipped']}")
    steps = f"{config.steps} steps" if config.steps else "Steps as the model has them"
    heading = (
        f"{config.clips} drawn portraits, each driven by a drawn clip of another identity, {config.frames} frames; "
        f"neither was in training. {steps}, guidance {config.guidance_scale or 'as the model has it'}, "
        f"head motion {config.head_motion}, model `{config.model}`."
    )
    heading += f" {len(every) - len(rows)} clips were skipped." * (len(every) > len(rows))
    felt = report.emotion(rows, config.seed)
    figures: dict[str, Any] = {
        "emo_sim": felt["result"]["mean"],
        "emotion": felt,
        "steadiness": report.steadiness(rows),
    }
    if config.pairs:
        made = transfer.pairs(config, model_folder, key)
        figures |= drawn_figures.figures(made, config.seed)
        publish(
            Path(config.output, ARTIFACTS),
            csv=drawn_figures.to_csv(made),
            pairs=drawn_figures.per_pair(made, config.seed),
        )
    summary = report.aggregate(rows, seed=config.seed)
    report.write(Path(config.output, ARTIFACTS), rows, summary, heading, figures, config.seed)
    metrics = {f"{name}_{kind}": value for name, each in summary.items() for kind, value in each.items()}
    metrics["emo_sim_drawn"] = figures["emo_sim"]
    if config.pairs:
        metrics |= {name: figures[name] for name in ("alpha", "beta", "identity_beta")}
        metrics |= {f"drawn_{name}": each["mean"] for name, each in figures["methods"]["model"].items()}
    return summary, metrics


def _videos(config: EvaluateConfig, model_folder: Path | None, key: str) -> tuple[dict[str, Any], dict[str, float]]:
    from xnemo.metrics import faces

    found = pairs.load(config.data or "", config.protocol, config.seed, config.limit, config.split, Path(config.output))
    with contextlib.suppress(NotComputed):  # but a damaged file is told before any work
        faces.load_networks(config.weights, tables.metrics_of(config.protocol))
    rows = videos.rows(found, config, model_folder, key)
    if not any(row["status"] == "ok" for row in rows):
        publish(Path(config.output, ARTIFACTS), rows=rows)
        raise PlatformError(f"none of the {len(rows)} pairs could be measured; the first: {rows[0]['reason']}")
    summary, figures = video_report.write(Path(config.output, ARTIFACTS), config, found, rows)
    failed = summary["pairs"]["all"] - summary["pairs"]["measured"]
    return summary, {name: value.mean for name, value in figures.items()} | {"failed_pairs": failed}
