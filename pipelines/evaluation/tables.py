"""The tables of a report on video files, the paper's beside our figures: plain rows of text, for Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.evaluation.paper import CROSS, SELF, TABLE_1, TABLE_2, printed
from xnemo.metrics import emotion
from xnemo.metrics.intervals import DRAWS, Interval, mean, of_draws, resamples

EXTRA = {
    "self": {"psnr": "PSNR dB ↑", "lpips_vgg": "LPIPS-VGG ↓"},
    "cross": {"id_leak": "ID-SIM to driver ↓", "id_between": "portrait to driver", "aed_mesh": "AED-mesh cm ↓",
              "detected_result": "faces found, result", "detected_driver": "faces found, driver"},
    "temporal": {"flicker": "flicker ↓", "warping_error": "warping error ↓",
                 "flicker_driver": "flicker of the driver", "warping_error_driver": "warping error of the driver"},
}  # fmt: skip
PUBLISHED = "Published rows are the paper's, on its own unpublished sets: they show the range, not a contest."
SHOWN = 40  # pairs listed in the report; videos.parquet has all


@dataclass(frozen=True)
class Table:
    """A titled table of text; `note` goes below it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += [f"| {' | '.join(self.head)} |", "|" + "---|" * len(self.head)]
            lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in self.rows]
            lines += [""]
        return "\n".join([*lines, *([self.note, ""] if self.note else [])])


def metrics_of(protocol: str) -> dict[str, str]:
    """Metric name to column title of a video protocol."""
    return {"self": SELF, "cross": CROSS, "temporal": {}}[protocol] | EXTRA[protocol]


def summarise(rows: Sequence[Mapping[str, Any]], protocol: str, seed: int = 0) -> dict[str, Interval]:
    """Mean over videos of every metric; EMO-SIM pools the frames of all videos first, and is resampled by video."""
    ok = [row for row in rows if row["status"] == "ok"]
    found = {name: mean([row.get(name, math.nan) for row in ok], seed) for name in metrics_of(protocol)}
    if protocol == "cross" and any(row.get("emotion_result") for row in ok):
        found["emo_sim"] = _pooled_emotion(ok, seed)
    return found


def _pooled_emotion(rows: Sequence[Mapping[str, Any]], seed: int) -> Interval:
    rows = sorted((row for row in rows if row.get("emotion_result")), key=lambda row: str(row["id"]))
    pairs = [(np.array(row["emotion_result"]), np.array(row["emotion_driver"])) for row in rows]
    return of_draws(emotion.pooled_draws(pairs, resamples(len(pairs), DRAWS, seed)), len(pairs))


def table_1(figures: Mapping[str, Interval], protocol: str, missing: Mapping[str, str], name: str) -> Table:
    """The paper's Table 1, our row last: the half that this protocol measures."""
    own = SELF if protocol == "self" else CROSS
    ours = [_cell(figures.get(metric), metric in missing) if metric in own else "–" for metric in (SELF | CROSS)]
    published = [(method, *printed(row)) for method, row in TABLE_1.items()]
    other = "cross" if protocol == "self" else "self"
    return Table(
        "Table 1: L1, SSIM, LPIPS of self-reenactment; the others of cross-reenactment",
        ("method", *SELF.values(), *CROSS.values()),
        (*published, (f"**{name}**", *ours)),
        f"{PUBLISHED} –: measured by `--protocol {other}`.",
    )


def table_2(figures: Mapping[str, Mapping[str, Interval]], missing: Mapping[str, str]) -> Table:
    """The paper's Table 2, our models' rows last."""
    published = [(name, *printed(row)) for name, row in TABLE_2.items()]
    ours = [
        (f"**{name}**", *(_cell(each.get(metric), metric in missing) for metric in CROSS))
        for name, each in figures.items()
    ]
    return Table("Table 2: what each part is worth", ("model", *CROSS.values()), (*published, *ours), PUBLISHED)


def extra(figures: Mapping[str, Interval], protocol: str, missing: Mapping[str, str]) -> Table:
    """What we report beside the paper's columns."""
    rows = tuple(
        (title, _cell(figures.get(metric), metric in missing), str(figures[metric].count) if metric in figures else "0")
        for metric, title in EXTRA[protocol].items()
    )
    title = "Steadiness (the paper publishes none)" if protocol == "temporal" else "Further figures"
    return Table(title, ("metric", "mean (95 % interval over videos)", "videos"), rows)


def not_computed(missing: Mapping[str, str], protocol: str) -> list[Table]:
    """Each metric that lacks its weights, with what to place where; no table where nothing lacks."""
    titles = metrics_of(protocol)
    rows = tuple((titles[name], missing[name].removeprefix("not computed: ")) for name in titles if name in missing)
    note = "Nothing stands in for these. Files may also be named: `weights.arcface=PATH` or `=owner/repository/file`."
    return [Table("Not computed", ("metric", "not computed:"), rows, note)] if rows else []


def weights_used(used: Mapping[str, Mapping[str, str]]) -> list[Table]:
    """The weight files behind the figures."""
    rows = tuple((name, each["file"], each["licence"], f"`{each['sha256']}`") for name, each in used.items())
    return [Table("Weights of the metrics", ("name", "file", "licence", "sha256"), rows)] if rows else []


def every_pair(ranked: Sequence[Mapping[str, Any]], protocol: str) -> Table:
    """The figures of the pairs, best first."""
    titles = {name: title for name, title in metrics_of(protocol).items() if any(name in row for row in ranked)}
    titles |= {"frames_compared": "frames"} | ({"skipped_frames": "skipped"} if protocol == "cross" else {})
    rows = tuple((str(row["id"]), *(_number(row.get(name)) for name in titles)) for row in ranked[:SHOWN])
    more = f"The first {SHOWN} of {len(ranked)}; videos.parquet has all." if len(ranked) > SHOWN else ""
    return Table("The pairs, best first", ("pair", *titles.values()), rows, more)


def failures(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The pairs without figures and why; and how many frames the others compared and skipped."""
    bad = [row for row in rows if row["status"] != "ok"]
    listed = [(str(row["id"]), str(row["stage"]), str(row["reason"])) for row in bad]
    for row in rows:
        if row["status"] == "ok" and (told := _flaw(row)):
            listed.append((str(row["id"]), "measure", told))
    note = f"{len(rows) - len(bad)} of {len(rows)} pairs have figures."
    if any("skipped_frames" in row for row in rows):
        note += f" {sum(int(row.get('skipped_frames', 0)) for row in rows)} frames were skipped for want of a face."
    return Table("Failed and shortened pairs", ("pair", "stage", "reason"), tuple(listed), note)


def _flaw(row: Mapping[str, Any]) -> str:
    """What has to be known of a pair that has figures: too few frames compared, or too few with a face."""
    compared, driving = row["frames_compared"], round(25 * row["frames_driving"] / max(row["fps_driving"], 1e-6))
    told = []
    if compared < 0.9 * driving - 2:
        told.append(f"only {compared} of {driving} driving frames compared")
    if (skipped := int(row.get("skipped_frames", 0))) >= 0.1 * compared and skipped:
        places = [name for name in ("result", "driver") if row.get(f"detected_{name}", 1.0) < 0.9]
        told.append(f"no face in {skipped} of {compared} frames ({' and '.join(places) or 'either'})")
    return "; ".join(told)


def _number(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else "none"


def _cell(interval: Interval | None, missing: bool) -> str:
    if interval is None or not interval.count:
        return "not computed" if missing else "none: no face"
    digits = 5 if abs(interval.mean) < 0.01 else 3
    return f"{interval.mean:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
