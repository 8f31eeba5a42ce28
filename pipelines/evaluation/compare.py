"""Two runs over the same videos: paired differences with intervals, and the videos where they differ most."""

from __future__ import annotations

import math

from pipelines.evaluation import rows
from pipelines.evaluation.tables import Table
from xnemo.metrics.intervals import difference
from xnemo_platform.errors import PlatformError

COUNTS = {"frames_result", "frames_driving", "frames_compared", "fps_result", "fps_driving", "skipped_frames"}


def compare(a: str, b: str, most: int = 3, seed: int = 0) -> list[Table]:
    """The tables. Raises PlatformError where the runs share no video."""
    first, second = rows.read(a), rows.read(b)
    others = _other_files(a, b)
    shared = sorted((first.keys() & second.keys()) - others)
    if not shared:
        raise PlatformError(f"{a} and {b} share no video: evaluate both on the same manifest.")
    metrics = [n for n in dict.fromkeys(n for key in shared for n in first[key]) if n not in COUNTS]
    differences, extremes = [], []
    for metric in metrics:
        one, two = ({k: _number(run[k].get(metric)) for k in shared} for run in (first, second))
        both = [k for k in shared if math.isfinite(one[k]) and math.isfinite(two[k])]
        if not both:
            continue
        found = difference(one, two, seed)
        sure = "" if found.low <= 0 <= found.high else "*"
        means = [sum(run[k] for k in both) / len(both) for run in (one, two)]
        differences.append(
            (
                metric,
                *(f"{m:.4g}" for m in means),
                f"{found.mean:+.4g} ({found.low:+.4g} to {found.high:+.4g}) {sure}".strip(),
                str(found.count),
            )
        )
        ranked = sorted((k for k in both if one[k] != two[k]), key=lambda k: (-abs(two[k] - one[k]), k))[:most]
        extremes += [(metric, k, f"{one[k]:.4g}", f"{two[k]:.4g}", f"{two[k] - one[k]:+.4g}") for k in ranked]
    alone = len(first.keys() ^ second.keys())
    unpaired = sum(_failed(first[k]) != _failed(second[k]) for k in shared)
    note = f"{len(shared)} videos in both runs, {alone} in one only. * the interval does not hold 0."
    note += f" {unpaired} videos have figures in one run only: they are left out of the pairs." if unpaired else ""
    if others:
        note += f" {len(others)} pairs have the same id and other files ({min(others)}): they are left out."
    return [
        Table(
            f"B - A, paired; A: {a}, B: {b}",
            ("metric", "A", "B", "B - A (95 % interval)", "videos"),
            tuple(differences),
            note,
        ),
        Table("Where they differ most", ("metric", "video", "A", "B", "B - A"), tuple(extremes)),
    ]


def _other_files(a: str, b: str) -> set[str]:
    """Ids that both runs have and that stand for different files."""
    kinds = ("portrait_sha256", "driving_sha256")
    told = [{row["id"]: [row.get(kind) or "" for kind in kinds] for row in rows.read_rows(run)} for run in (a, b)]
    return {
        name for name in told[0].keys() & told[1].keys()
        if any(x and y and x != y for x, y in zip(told[0][name], told[1][name], strict=True))
    }  # fmt: skip


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _failed(row: dict[str, float | None]) -> bool:
    return not any(value is not None for name, value in row.items() if name not in COUNTS)
