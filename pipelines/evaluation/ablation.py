"""Protocol "ablation": several models on the same pairs (drawn, or those of `data` by protocol cross), as in Table 2.

The models are given: training them, on the same budget each, is the user's affair. A name that comes several times is
one variant trained with several seeds. Every difference is to the first variant, on the same pairs, with a bootstrap
that draws the pairs anew for all models alike, and of each variant its seeds.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation import ablation_tables, drawn, drawn_figures, page, rows, transfer
from pipelines.evaluation.keys import fingerprint
from pipelines.models import locate
from xnemo.metrics import emotion
from xnemo.metrics.intervals import Interval, of_draws, resamples
from xnemo.metrics.transfer import emotion as valence_arousal
from xnemo_platform.errors import PlatformError

DRAWS = 2000
DRAWN = ("id_sim", "identity_beta", "aed", "apd", "emo_sim", "alpha", "beta")
CROSS = ("id_sim", "aed", "apd", "emo_sim", "id_leak", "aed_mesh")
Draws = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """One model's evaluation: of which variant, its weights, and the settings it was evaluated with."""

    variant: str
    model: Path
    config: Any


def models(text: str) -> list[tuple[str, str]]:
    """name=folder, comma-separated, in order; the same name several times is one variant with several seeds."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    found = [(name.strip(), folder.strip()) for name, equals, folder in parts if equals]
    if len({name for name, _ in found}) < 2 or len(found) != len(parts):
        raise PlatformError(
            "--protocol ablation compares variants: give --model full=FOLDER --model NAME=FOLDER …, the full one "
            "first; a name given several times is one variant trained with several seeds."
        )
    if len(set(found)) < len(found):
        raise PlatformError("--model: the same folder is given twice under one name; every seed has its own.")
    if wrong := [name for name, _ in found if not re.fullmatch(r"(w/o )?\w[\w .+-]*", name)]:
        raise PlatformError(f"--model: {wrong[0]!r} is no plain name.")
    return found


def folder_name(variant: str) -> str:
    """A variant's name as part of a path: "w/o RFM" is wo-RFM."""
    return variant.replace("/", "").replace(" ", "-")


def run_all(config: Any, evaluate: Callable[[Any, Path], dict[str, Any]]) -> list[Run]:
    """Evaluate every model, each in its own folder; without controls `report` measures what it compares."""
    if not config.data and config.pairs < transfer.FEWEST:
        raise PlatformError(f"pairs={config.pairs}: the ablation compares drawn pairs; give pairs=512, say.")
    found = [(variant, told, locate(told)) for variant, told in models(config.model)]
    runs: list[Run] = []
    for variant, told, model in found:
        number = sum(run.variant == variant for run in runs) + 1
        folder = Path(config.output) / f"{folder_name(variant)}-{number}"
        own = {"protocol": "cross" if config.data else "synthetic", "model": told, "output": str(folder)}
        runs.append(Run(variant, model, config.model_copy(update=own)))
    if config.controls:
        for run in runs:
            print(f"model {run.variant}: {run.config.model}", flush=True)
            evaluate(run.config, run.model)
    return runs


def report(config: Any, runs: Sequence[Run]) -> tuple[dict[str, Any], dict[str, float]]:
    """Tables, differences and page; the summary, and the variants' figures for tracking."""
    every, pairs, raw = (_of_videos if config.data else _of_drawn)(runs, config.seed)
    variants = list(dict.fromkeys(run.variant for run in runs))
    rng = np.random.default_rng([config.seed, 41])
    pooled = {name: _pool([d for run, d in zip(runs, every, strict=True) if run.variant == name], rng)
              for name in variants}  # fmt: skip
    figures = {name: {kind: of_draws(d, pairs) for kind, d in each.items()} for name, each in pooled.items()}
    differences: dict[str, dict[str, Interval]] = {
        name: {kind: of_draws(pooled[name][kind] - pooled[variants[0]][kind], pairs) for kind in pooled[name]}
        for name in variants[1:]
    }
    seeds = {name: sum(run.variant == name for run in runs) for name in variants}
    folder = Path(config.output) / "artifacts"
    page.write(folder, "Ablation", _heading(config, pairs, seeds),
               ablation_tables.tables(figures, differences, bool(config.data)), [],
               ablation_tables.plots(differences, variants[0]))  # fmt: skip
    summary = {
        name: {kind: value.mean for kind, value in each.items() if value.count} | {"seeds": seeds[name]}
        for name, each in figures.items()
    }
    told = {name: {kind: asdict(value) for kind, value in each.items()} for name, each in differences.items()}
    rows.publish(folder, summary={"pairs": pairs, "models": summary, "differences": told}, csv=raw)
    return summary, {f"{_plain(name)}_{kind}": v.mean for name, each in figures.items() for kind, v in each.items()}


def _pool(seeds: Sequence[Draws], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One variant's figures [D] of its seeds': their mean, and in every bootstrap sample that of seeds drawn anew."""
    count = len(next(iter(seeds[0].values())))
    chosen = rng.integers(0, len(seeds), (count, len(seeds)))
    chosen[0] = np.arange(len(seeds))
    return {
        kind: np.stack([each[kind] for each in seeds], 1)[np.arange(count)[:, None], chosen].mean(1)
        for kind in seeds[0]
    }


def _of_drawn(runs: Sequence[Run], seed: int) -> tuple[list[Draws], int, str | None]:
    """Every model's figures on the drawn pairs (and clips, for EMO-SIM*), resampled alike; the number of pairs, and the
    raw figures as CSV."""
    clips = [drawn.rows(run.config, run.model, fingerprint(run.config, run.model)) for run in runs]
    usable = [i for i, each in enumerate(zip(*clips, strict=True)) if not any("skipped" in row for row in each)]
    if not usable:
        raise PlatformError("no clip could be animated by every model: EMO-SIM* cannot be compared.")
    by_pair = resamples(runs[0].config.pairs, DRAWS, seed)
    by_clip = resamples(len(usable), DRAWS, seed)
    every: list[Draws] = []
    of_pairs = [transfer.pairs(run.config, run.model, fingerprint(run.config, run.model)) for run in runs]
    for made, of_run in zip(of_pairs, clips, strict=True):
        felt = [(valence_arousal(of_run[i]["result"]), valence_arousal(of_run[i]["driver"])) for i in usable]
        found = drawn_figures.draws(made, by_pair) | {"emo_sim": emotion.pooled_draws(felt, by_clip)}
        every.append({kind: found[kind] for kind in DRAWN})
    return every, runs[0].config.pairs, _csv([run.variant for run in runs], of_pairs)


def _csv(variants: Sequence[str], of_pairs: Sequence[drawn_figures.Made]) -> str:
    """The raw figures: a line for every variant, seed and pair."""
    text, seeds = io.StringIO(), Counter[str]()
    writer = csv.writer(text)
    for variant, made in zip(variants, of_pairs, strict=True):
        columns = drawn_figures.pair_figures(made, "model")
        if not seeds:
            writer.writerow(["variant", "seed", "pair", *columns])
        for pair, values in enumerate(zip(*columns.values(), strict=True)):
            writer.writerow([variant, seeds[variant], pair, *(f"{value:.4g}" for value in values)])
        seeds[variant] += 1
    return text.getvalue()


def _of_videos(runs: Sequence[Run], seed: int) -> tuple[list[Draws], int, str | None]:
    """Every model's figures on the pairs that all of them have figures for, resampled alike."""
    tables = [{row["id"]: row for row in rows.read_rows(run.config.output) if row["status"] == "ok"} for run in runs]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    if not shared:
        raise PlatformError("no pair has figures by every model: see the reports of the single models.")
    counts = resamples(len(shared), DRAWS, seed)
    every: list[Draws] = []
    values = {kind: np.array([[_number(t[key].get(kind)) for key in shared] for t in tables]) for kind in CROSS}
    for at, table in enumerate(tables):
        found = {}
        for kind, of_all in values.items():
            kept = np.isfinite(of_all).all(0)
            with np.errstate(invalid="ignore"):
                found[kind] = counts[:, kept] @ of_all[at, kept] / counts[:, kept].sum(1)
        felt = [(np.array(table[key]["emotion_result"]), np.array(table[key]["emotion_driver"])) for key in shared
                if all(t[key].get("emotion_result") for t in tables)]  # fmt: skip
        found["emo_sim"] = np.full(len(counts), np.nan)
        if felt:
            found["emo_sim"] = emotion.pooled_draws(felt, resamples(len(felt), DRAWS, seed))
        every.append(found)
    return every, len(shared), None


def _heading(config: Any, pairs: int, seeds: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} ({count} seed{'s' * (count > 1)})" for name, count in seeds.items())
    where = (
        f"of `{Path(config.data).name}`"
        if config.data
        else f"drawn, and {config.clips} clips, of people no training saw"
    )
    pooling = (
        "Intervals are of a bootstrap of 2,000 samples that draws the pairs anew, the same for every model, and the "
        "seeds of each variant; figures of a variant are means over its seeds."
    )
    if min(seeds.values()) == 1:
        pooling += " Where a variant has one seed, the interval holds the luck of the pairs and not that of training."
    return f"{told}; {pairs} pairs {where}, the same for every model. {pooling}"


def _plain(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w .-]", "-", name)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
