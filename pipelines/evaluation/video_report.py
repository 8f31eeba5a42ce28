"""The report of a run on video files: tables, plot, and the best, median and worst video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.evaluation import page, tables, videos
from pipelines.evaluation.pairs import Pair
from pipelines.evaluation.rows import publish
from xnemo.metrics import weights
from xnemo.metrics.intervals import Interval

RANKED_BY = {"self": "l1", "cross": "apd", "temporal": "warping_error"}  # lower is better for each
SHOWN_FRAMES = 250  # of a video in the report: ten seconds


def write(
    folder: Path, config: Any, found: Sequence[Pair], rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Interval]]:
    """`videos.parquet`, report, videos and `summary.json` of rows in the order of the pairs `found`.

    Returns the summary and the figures.
    """
    publish(folder, rows=rows)
    protocol, metrics = config.protocol, tables.metrics_of(config.protocol)
    ok = [row for row in rows if row["status"] == "ok"]
    figures = tables.summarise(rows, protocol, config.seed)
    missing, used = weights.absent(metrics, config.weights), weights.used(metrics, config.weights)
    name = Path(config.results or config.model).name or config.model
    metric = RANKED_BY[protocol]
    sections = [tables.table_1(figures, protocol, missing, name)] if protocol != "temporal" else []
    sections += [tables.table_2({name: figures}, missing)] if protocol == "cross" else []
    sections += [tables.extra(figures, protocol, missing), *tables.not_computed(missing, protocol)]
    sections += [tables.failures(rows), tables.every_pair(page.ranked(ok, metric), protocol)]
    shown = [_shown(config, folder, found, place, row) for place, row in page.choose(ok, metric, False)]
    plot = page.strip("Every video", {metrics[n]: [row.get(n, math.nan) for row in ok] for n in metrics})
    page.write(folder, f"Evaluation: {protocol}", _heading(config, found), [*sections, *tables.weights_used(used)],
               shown, [plot])  # fmt: skip
    summary: dict[str, Any] = {metric: asdict(value) for metric, value in figures.items() if value.count}
    summary |= {"not_computed": missing, "weights": used, "pairs": {"all": len(rows), "measured": len(ok)}}
    publish(folder, summary=summary)
    return summary, figures


def _heading(config: Any, found: Sequence[Pair]) -> str:
    told = f"{len(found)} pairs of `{Path(config.data).name}`; "
    if config.results:
        told += f"results of `{config.results}`"
    else:
        guidance = "the model's own" if config.guidance_scale is None else config.guidance_scale
        steps = config.steps or "the model's own"
        told += f"model `{config.model}`, {steps} steps, guidance {guidance}, seed {config.seed}"
        told += f", head motion {config.head_motion}" * (config.protocol != "self")
    told += f", the first {config.frames_limit} frames of each" * bool(config.frames_limit)
    return told + ". Definitions: docs/metrics.md."


def _shown(config: Any, folder: Path, found: Sequence[Pair], place: str, row: Mapping[str, Any]) -> tuple[str, Path]:
    """One of the chosen videos: portrait, driver, result side by side."""
    from xnemo.clip import side_by_side
    from xnemo.media.images import read_image
    from xnemo.media.video import write_video

    pair = next(pair for pair in found if pair.id == row["id"])
    portrait = read_image(pair.portrait) if pair.portrait else videos.first_frame(pair.driving)
    limit = min(config.frames_limit or SHOWN_FRAMES, SHOWN_FRAMES)
    driver = videos.frames(pair.driving, limit, videos.DRIVER_SIDE)
    made = videos.frames(videos.result_file(config, pair), limit, videos.DRIVER_SIDE)
    path = write_video(folder / f"{place}-{pair.id}.mp4", side_by_side(portrait, driver, made), videos.FPS, crf=26)
    metric = RANKED_BY[config.protocol]
    title, value = tables.metrics_of(config.protocol)[metric].rstrip(" ↑↓"), row.get(metric, math.nan)
    figure = f"{title} {value:.4g}" if math.isfinite(value) else f"no {title}: no face found"
    return f"**{place}** (portrait, driver, result): {pair.id}, {figure}", path
