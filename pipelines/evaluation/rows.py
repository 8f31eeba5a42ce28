"""What an evaluation leaves in its artifacts folder for machines: rows in Parquet, raw figures, the summary."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

VIDEOS, PAIRS, CSV, SUMMARY = "videos.parquet", "pairs.parquet", "pairs.csv", "summary.json"
TRANSFER = "transfer.json"
LIMIT = 1 << 30


def publish(
    folder: Path,
    rows: Sequence[Mapping[str, Any]] | None = None,
    pairs: Sequence[Mapping[str, Any]] | None = None,
    csv: str | None = None,
    summary: Mapping[str, Any] | None = None,
    transfer: Mapping[str, Any] | None = None,
) -> None:
    """Write what is given, each file whole or not at all: `videos.parquet` (a row per video, by `id`; a figure that
    could not be had is null), `pairs.parquet` and `pairs.csv` of drawn pairs, `transfer.json` (all
    that was drawn from these), `summary.json`."""
    if rows is not None:
        storage.publish_bytes(str(folder / VIDEOS), _parquet(rows))
    if pairs is not None:
        storage.publish_bytes(str(folder / PAIRS), _parquet(pairs))
    if csv is not None:
        storage.publish_bytes(str(folder / CSV), csv.encode())
    if transfer is not None:
        storage.publish_bytes(str(folder / TRANSFER), json.dumps(_finite(transfer), indent=1).encode())
    if summary is not None:
        storage.publish_bytes(str(folder / SUMMARY), json.dumps(_finite(summary), indent=1).encode())


def read(run: str) -> dict[str, dict[str, float | None]]:
    """Every number of a run's rows, by video and metric. `run`: its output folder, or the artifacts in it."""
    return {
        row["id"]: {k: v for k, v in row.items() if isinstance(v, int | float) or v is None} for row in read_rows(run)
    }


def read_rows(run: str) -> list[dict[str, Any]]:
    """A run's rows, of its videos and of its drawn pairs. Raises PlatformError where there are none."""
    from xnemo_platform.untrusted import read_parquet

    for folder in (Path(run) / "artifacts", Path(run)):
        found = [folder / name for name in (VIDEOS, PAIRS) if (folder / name).is_file()]
        if found:
            break
    else:
        raise PlatformError(f"{run}: no evaluation here ({VIDEOS} is missing); give a folder `xnemo evaluate` wrote.")
    rows: list[dict[str, Any]] = []
    for path in found:
        rows += read_parquet(io.BytesIO(path.read_bytes()), LIMIT, str(path)).to_pylist()
        if any("id" not in row for row in rows[-1:]):
            raise PlatformError(f"{path}: its rows have no id; they are not of an evaluation.")
    return rows


def _finite(value: Any) -> Any:
    """For JSON: a number that is none (nan, infinite) is null."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), buffer)
    return buffer.getvalue()
