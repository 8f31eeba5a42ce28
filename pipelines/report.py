"""Figures and page of an evaluation: correlations over frames, pooled over clips, with intervals and controls."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.tables import Table

TITLE = "Motion transfer on unseen identities"
PARAMETERS = ("roll", "x", "y", "scale", "yaw", "pitch", "jaw")
BOOTSTRAP = 1000

Array = NDArray[np.float64]


def aggregate(rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Pool clips into one figure per parameter. Order of the rows does not matter."""
    rows = sorted(rows, key=lambda row: row["clip"])
    return {name: _figures(name, rows, seed) for name in PARAMETERS}


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


def _figures(name: str, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
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


def emotion(rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, dict[str, float]]:
    """EMO-SIM* of drawn clips: agreement of the parameters' valence and arousal, frames of all clips together, with a
    95 % interval over clips; the ceiling is what is measured on the driver, chance another clip's driver."""
    from xnemo.metrics.emotion import pooled_draws
    from xnemo.metrics.intervals import of_draws, resamples
    from xnemo.metrics.transfer import emotion as valence_arousal

    rows = sorted(rows, key=lambda row: row["clip"])
    felt = {kind: [valence_arousal(row[kind]) for row in rows] for kind in ("driver", "driver_measured", "result")}
    shortest = min(len(track) for track in felt["driver"])
    others = [track[:shortest] for track in felt["driver"][1:] + felt["driver"][:1]]
    counts = resamples(len(rows), BOOTSTRAP, seed)
    pairs = {
        "result": zip(felt["result"], felt["driver"], strict=True),
        "ceiling": zip(felt["driver_measured"], felt["driver"], strict=True),
        "chance": zip((track[:shortest] for track in felt["result"]), others, strict=True),
    }
    return {kind: vars(of_draws(pooled_draws(list(each), counts), len(rows))) for kind, each in pairs.items()}


def steadiness(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean |second difference| over the frames of all clips, per parameter: of the result, of the result made without
    temporal modules ("single"), and of what is measured on the driver."""
    kinds = ("result", "single", "driver_measured")
    return {
        name: {kind: float(np.mean([np.abs(np.diff(row[kind][name], 2)).mean() for row in rows])) for kind in kinds}
        for name in PARAMETERS
    }


def write(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    summary: dict[str, dict[str, float]],
    heading: str,
    figures: dict[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """`rows.parquet` (a row per clip and parameter), `videos.parquet` (a row per clip), the chosen videos,
    `report.md` and `report.html`, `transfer.json` (`figures`), and `summary.json` last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.evaluation import page as pages
    from pipelines.evaluation.rows import publish

    folder.mkdir(parents=True, exist_ok=True)
    flat = [
        {"clip": row["clip"], "parameter": name, "video": row["video"], "r": _own_r(row, name)}
        | {kind: row[kind][name] for kind in ("driver", "driver_measured", "result")}
        for row in rows
        for name in PARAMETERS
    ]
    pq.write_table(pa.Table.from_pylist(flat), folder / "rows.parquet")
    for row in chosen(rows):
        shutil.copyfile(folder.parent / row["video"], folder / row["video"])
    per_clip: list[dict[str, Any]] = [
        {"id": f"clip-{seed}.{row['clip']:03}"} | {f"r_{n}": _own_r(row, n) for n in PARAMETERS} for row in rows
    ]
    publish(folder, rows=per_clip)
    names = ("best", "median", "worst") if len(rows) > 2 else ("best", "worst")
    shown = [
        (f"**{name}** (portrait, driver, result): clip {row['clip']}, mean r {_mean_r(row):.2f}", folder / row["video"])
        for name, row in zip(names, chosen(rows), strict=False)
    ]
    plot = pages.strip("r of every clip", {name: [row[f"r_{name}"] for row in per_clip] for name in PARAMETERS})
    sections = tables_of(summary, figures or {})
    pages.write(folder, TITLE, heading, sections, shown, [plot])
    publish(folder, transfer=figures or None, summary=summary)


def tables_of(summary: dict[str, dict[str, float]], figures: dict[str, Any]) -> list[Table]:
    """The correlation table, and what the drawn pairs told."""
    from pipelines.evaluation import drawn_tables

    rows = tuple(
        (name, f"{f['r']:.2f} ({f['r_low']:.2f} to {f['r_high']:.2f})", f"{f['ceiling']:.2f}", f"{f['chance']:.2f}")
        for name, f in summary.items()
    )
    head = ("parameter", "r (95 % interval)", "ceiling: measured on the driver", "chance: another clip's motion")
    note = (
        "r is Pearson's correlation over frames between the driver's true motion and the motion measured in the "
        "result, each clip's mean removed."
    )
    if "emotion" in figures:
        e = figures["emotion"]
        felt = e["result"]
        note += (
            f" EMO-SIM* of the clips: {felt['mean']:.3f} ({felt['low']:.3f} to {felt['high']:.3f}), ceiling "
            f"{e['ceiling']['mean']:.3f}, chance {e['chance']['mean']:.3f}."
        )
    tables = [Table("Motion of the clips", head, rows, note)]
    tables += [drawn_tables.steadiness(figures["steadiness"])] if "steadiness" in figures else []
    return [*tables, *(drawn_tables.transfer_tables(figures) if "pairs" in figures else [])]


def chosen(rows: Sequence[dict[str, Any]], count: int = 3) -> list[dict[str, Any]]:
    """Best, median and worst clip by mean r, so that a report cannot show its best alone."""
    ranked = sorted(rows, key=_mean_r, reverse=True)
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [ranked[place] for place in places]


def _mean_r(row: dict[str, Any]) -> float:
    return float(np.mean([_own_r(row, name) for name in PARAMETERS]))


def _own_r(row: dict[str, Any], name: str) -> float:
    return pooled_r([np.asarray(row["driver"][name])], [np.asarray(row["result"][name])])
