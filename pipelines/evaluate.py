"""`xnemo evaluate`: a protocol run on Ray, rows and report written, everything recorded in MLflow (docs/metrics.md)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines import report
from pipelines.evaluation import ablation, drawn, page, pairs, tables, transfer, videos
from pipelines.evaluation.drawn import UNSEEN
from pipelines.evaluation.rows import publish
from xnemo_platform.config import Config, flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import settings
from xnemo_platform.tracking import ARTIFACTS, Drain, Outbox, Tracker

__all__ = ["UNSEEN", "EvaluateConfig", "evaluate"]
RANKED_BY = {"self": "l1", "cross": "apd", "temporal": "warping_error"}


class EvaluateConfig(Config):
    """What to measure and how much of it."""

    model: str = ""
    """Model folder, or `models:/<name>@<alias>`; for ablation a comma-separated list of name=folder, the full first."""
    output: str
    """Folder for rows, report and videos."""
    protocol: Literal["synthetic", "self", "cross", "temporal", "ablation"] = "synthetic"
    data: str | None = None
    """self, cross, temporal: a manifest of pairs, or a folder (of videos; cross: with portraits/ and driving/)."""
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
    frames: int = Field(default=40, ge=8)
    clip_size: int = 256
    steps: int = 10
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


def evaluate(config: EvaluateConfig, model_folder: Path | None) -> dict[str, Any]:
    """Run the protocol on the workers of a running Ray, report, record in MLflow; returns the summary.

    synthetic: per parameter `r`, `r_low`, `r_high` and the controls `ceiling` and `chance`; the others: per metric
    mean, low, high, count. What was animated and measured under the same settings before is not done again. Raises
    PlatformError where nothing at all could be measured.
    """
    if config.protocol == "ablation":
        return ablation.run(config, evaluate)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    places = settings()
    tracker = Tracker(uri=places.tracking_uri, experiment=config.experiment, artifact_root=places.artifact_root)
    key = _fingerprint(config, model_folder)
    run = _drawn if config.protocol == "synthetic" else _videos
    with (
        Drain(
            output, f"{config.protocol}-{key}", tracker, flatten(config), {"model": str(model_folder or config.results)}
        ),
        Outbox(output) as box,
    ):
        summary, metrics = run(config, model_folder, key)
        box.metrics(0, {name: value for name, value in metrics.items() if math.isfinite(value)})
    return summary


def _drawn(config: EvaluateConfig, model_folder: Path | None, key: str) -> tuple[dict[str, Any], dict[str, float]]:
    assert model_folder is not None
    every = drawn.rows(config, model_folder, key)
    rows = [row for row in every if "skipped" not in row]
    if not rows:
        raise PlatformError(f"none of the {len(every)} clips could be animated; the first: {every[0]['skipped']}")
    heading = (
        f"{config.clips} drawn portraits, each driven by a drawn clip of another identity, {config.frames} frames; "
        f"neither was in training. {config.steps} steps, guidance {config.guidance_scale or 'as the model has it'}, "
        f"head motion {config.head_motion}, model `{config.model}`."
    )
    heading += f" {len(every) - len(rows)} clips were skipped." * (len(every) > len(rows))
    figures: dict[str, Any] = {"emo_sim": report.emotion(rows)}
    if config.pairs:
        made = transfer.pairs(config, model_folder, key)
        figures |= transfer.figures(made, config.seed)
        publish(Path(config.output, ARTIFACTS), csv=transfer.to_csv(made), pairs=transfer.per_pair(made))
    summary = report.aggregate(rows, seed=config.seed)
    report.write(Path(config.output, ARTIFACTS), rows, summary, heading, figures)
    metrics = {f"{name}_{kind}": value for name, each in summary.items() for kind, value in each.items()}
    metrics["emo_sim_drawn"] = figures["emo_sim"]
    if config.pairs:
        metrics |= {name: figures[name] for name in ("alpha", "beta", "identity_beta")}
        metrics |= {f"drawn_{name}": each["mean"] for name, each in figures["methods"]["model"].items()}
    return summary, metrics


def _videos(config: EvaluateConfig, model_folder: Path | None, key: str) -> tuple[dict[str, Any], dict[str, float]]:
    found = pairs.load(config.data or "", config.protocol, config.seed, config.limit)
    rows = videos.rows(found, config, model_folder, key)
    folder = Path(config.output, ARTIFACTS)
    publish(folder, rows=rows)
    ok = [row for row in rows if row["status"] == "ok"]
    if not ok:
        raise PlatformError(f"none of the {len(rows)} pairs could be measured; the first: {rows[0]['reason']}")
    figures = tables.summarise(rows, config.protocol, config.seed)
    missing = _missing(config)
    name = Path(config.results or config.model).name or config.model
    sections = [tables.table_1(figures, config.protocol, missing, name)] if config.protocol != "temporal" else []
    sections += [tables.extra(figures, config.protocol, missing), tables.failures(rows)]
    heading = (
        f"{len(found)} pairs of `{config.data}`; "
        + (f"results of `{config.results}`" if config.results else f"model `{config.model}`, {config.steps} steps")
        + ". Definitions: docs/metrics.md."
    )
    metric = RANKED_BY[config.protocol]
    shown = [_shown(config, folder, found, name_, row, metric) for name_, row in page.choose(ok, metric, False)]
    titles = tables.metrics_of(config.protocol)
    plot = page.strip(
        "Every video", {title: [row.get(name_, math.nan) for row in ok] for name_, title in titles.items()}
    )
    page.write(folder, f"Evaluation: {config.protocol}", heading, sections, shown, [plot])
    summary: dict[str, Any] = {name_: asdict(value) for name_, value in figures.items() if value.count}
    summary["not_computed"] = missing
    summary["pairs"] = {"all": len(rows), "measured": len(ok)}
    publish(folder, summary=summary)
    return summary, {name_: value.mean for name_, value in figures.items()} | {"failed_pairs": len(rows) - len(ok)}


def _shown(
    config: EvaluateConfig, folder: Path, found: list[pairs.Pair], place: str, row: Mapping[str, Any], metric: str
) -> tuple[str, Path]:
    """One of the chosen videos: portrait, driver, result side by side."""
    from xnemo.clip import side_by_side
    from xnemo.media.images import read_image
    from xnemo.media.video import write_video

    pair = next(pair for pair in found if pair.id == row["id"])
    portrait = read_image(pair.portrait) if pair.portrait else videos.first_frame(pair.driving)
    limit = config.frames_limit
    driver = videos.frames(pair.driving, limit, videos.DRIVER_SIDE)
    beside = side_by_side(portrait, driver, videos.frames(videos.result_file(config, pair), limit))
    path = write_video(folder / f"{place}-{pair.id}.mp4", beside, videos.FPS, crf=26)
    return f"{place}: {pair.id}, {metric} {row[metric]:.4f}", path


def _missing(config: EvaluateConfig) -> dict[str, str]:
    """Metrics of this protocol whose weights are absent, each with its sentence."""
    from xnemo.metrics import weights

    needs = {"lpips": ("alexnet", "lpips_alexnet"), "lpips_vgg": ("vgg16", "lpips_vgg16"), "id_sim": ("arcface",),
             "id_leak": ("arcface",), "id_between": ("arcface",), "aed": ("blendshapes", "iris"),
             "emo_sim": ("emonet",)}  # fmt: skip
    found: dict[str, str] = {}
    for metric in set(needs) & set(tables.metrics_of(config.protocol)):
        for name in needs[metric]:
            try:
                weights.find(name, config.weights)
            except weights.NotComputed as absent:
                found.setdefault(metric, str(absent))
    return found


def _fingerprint(config: EvaluateConfig, model_folder: Path | None) -> str:
    """Of everything that changes a row: settings, the model's digests, the placed weight files, the manifest."""
    told = config.model_dump(
        exclude={"output", "workers", "clips", "model", "experiment", "pairs", "limit", "data", "device", "gpus"}
    )
    parts = [json.dumps(told, sort_keys=True).encode()]
    if model_folder is not None:
        digests = model_folder / "digests.json"
        if not digests.exists():
            raise PlatformError(
                f"{model_folder}: no model here (digests.json is missing); give a folder made by training or export."
            )
        parts.append(digests.read_bytes())
    if config.protocol in RANKED_BY:
        parts.append(json.dumps(sorted(_missing(config))).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
