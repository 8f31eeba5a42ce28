"""The report as one HTML file with its videos and plots inside, and as Markdown."""

from __future__ import annotations

import base64
import html
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.tables import Table
from xnemo.metrics.intervals import Interval
from xnemo_platform import storage

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid #ddd;padding:.25rem .7rem;text-align:left}th{border-bottom:2px solid #888}
td{overflow-wrap:anywhere}
video{max-width:100%;display:block;margin:.3rem 0}figure{margin:1rem 0}p.note{color:#555}svg text{font:12px system-ui}
.wide{overflow-x:auto}"""
LEFT, WIDTH = 260, 430  # of a plot's lines, in pixels


def write(
    folder: Path, title: str, heading: str, tables: Sequence[Table], videos: Sequence[tuple[str, Path]],
    plots: Sequence[str] = (),
) -> None:  # fmt: skip
    """`report.html` and `report.md` in `folder`; videos: (caption, mp4) in the order they are shown."""
    text = [f"# {title}", "", heading, "", *(table.markdown() for table in tables)]
    if videos:
        text += ["## Best, median and worst", "", *(f"- {caption}: `{path.name}`" for caption, path in videos), ""]
    storage.publish_bytes(str(folder / "report.md"), "\n".join(text).encode())
    body = [f"<h1>{html.escape(title)}</h1><p>{_inline(heading)}</p>", *map(_table, tables), *plots]
    if videos:
        body += ["<h2>Best, median and worst</h2>", *(_video(caption, path) for caption, path in videos)]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>{''.join(body)}</html>"
    )
    storage.publish_bytes(str(folder / "report.html"), page.encode())


def strip(title: str, values: Mapping[str, Sequence[float]]) -> str:
    """An SVG with one line of dots per name, a dot per video, and a bar at the mean; each line has its own scale."""
    lines, top = [], 10
    for name, series in values.items():
        kept = np.array([v for v in series if v is not None and np.isfinite(v)])
        if not len(kept):
            continue
        low, high = float(kept.min()), float(kept.max())
        at = LEFT + WIDTH * (kept - low) / max(high - low, 1e-12)
        middle = top + 14
        dots = "".join(f'<circle cx="{x:.1f}" cy="{middle}" r="4" fill="#2a6f97" fill-opacity=".35"/>' for x in at)
        lines.append(
            f'<text x="0" y="{middle + 4}">{html.escape(name)}</text>'
            f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{low:.3g}</text>'
            f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{middle}" y2="{middle}" stroke="#ccc"/>{dots}'
            f'<line x1="{at.mean():.1f}" x2="{at.mean():.1f}" y1="{middle - 9}" y2="{middle + 9}" stroke="#c1121f" '
            f'stroke-width="2"/><text x="700" y="{middle + 4}">{high:.3g}</text>'
        )
        top += 30
    if not lines:
        return ""
    drawing = f"<svg viewBox='0 0 760 {top + 10}' width='760' role='img'>{''.join(lines)}</svg>"
    return f"<h2>{html.escape(title)}</h2><figure>{drawing}</figure>"


def forest(title: str, values: Mapping[str, Interval]) -> str:
    """An SVG with a line per name: its mean and 95 % interval on one scale, and a line at 0."""
    kept = {name: value for name, value in values.items() if value.count}
    if not kept:
        return ""
    low, high = min(0.0, *(v.low for v in kept.values())), max(0.0, *(v.high for v in kept.values()))
    width = max(high - low, 1e-12)

    def at(value: float) -> float:
        return LEFT + WIDTH * (value - low) / width

    zero, lines = at(0.0), []
    for top, (name, value) in zip(itertools.count(24, 26), kept.items()):
        sure = "#2a6f97" if value.low <= 0 <= value.high else "#c1121f"
        lines.append(
            f'<text x="0" y="{top + 4}">{html.escape(name)}</text>'
            f'<line x1="{at(value.low):.1f}" x2="{at(value.high):.1f}" y1="{top}" y2="{top}" stroke="{sure}" '
            f'stroke-width="2"/><circle cx="{at(value.mean):.1f}" cy="{top}" r="4" fill="{sure}"/>'
        )
    height = 24 + 26 * len(kept)
    axis = (
        f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="8" y2="{height - 12}" stroke="#888" stroke-dasharray="3 3"/>'
        f'<text x="{LEFT - 10}" y="{height}" text-anchor="end">{low:.3g}</text>'
        f'<text x="700" y="{height}">{high:.3g}</text>'
    )
    drawing = f"<svg viewBox='0 0 760 {height + 8}' width='760' role='img'>{axis}{''.join(lines)}</svg>"
    return f"<h3>{html.escape(title)}</h3><figure>{drawing}</figure>"


def ranked(rows: Sequence[Mapping[str, Any]], metric: str, higher: bool = False) -> list[Mapping[str, Any]]:
    """Rows from best to worst by a metric; those that have no figure are the worst."""

    def place(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        value = float(row.get(metric, math.nan))
        return not math.isfinite(value), (-value if higher else value) if math.isfinite(value) else 0.0, str(row["id"])

    return sorted(rows, key=place)


def choose(rows: Sequence[Mapping[str, Any]], metric: str, higher: bool) -> list[tuple[str, Mapping[str, Any]]]:
    """Best, median and worst row by a metric, so that a report cannot show its best alone."""
    order = ranked(rows, metric, higher)
    places = {0: "best", len(order) // 2: "median", len(order) - 1: "worst"} if len(order) > 2 else {}
    names = places or dict(zip(range(len(order)), ("best", "worst"), strict=False))
    return [(name, order[place]) for place, name in sorted(names.items())]


def _table(table: Table) -> str:
    if not table.rows:
        return f"<h2>{html.escape(table.title)}</h2><p class='note'>{_inline(table.note or 'None.')}</p>"
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in table.head)
    rows = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    note = f"<p class='note'>{_inline(table.note)}</p>" if table.note else ""
    return f"<h2>{html.escape(table.title)}</h2><div class='wide'><table><tr>{head}</tr>{rows}</table></div>{note}"


def _inline(text: str) -> str:
    """Escaped text with **bold** and `code`."""
    safe = html.escape(text)
    safe = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", safe)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", safe)


def _video(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    player = f"<video controls loop muted src='data:video/mp4;base64,{data}'></video>"
    return f"<figure><figcaption>{_inline(caption)}</figcaption>{player}</figure>"
