"""What could not be used: one row per rejected input, never an exception."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xnemo_platform import storage, untrusted

NAME = "quarantine.parquet"
SCHEMA = pa.schema(
    [
        ("source_uri", pa.string()),
        ("fingerprint", pa.string()),
        ("sha256", pa.string()),  # of the whole file; empty if it could not be read
        ("stage", pa.string()),  # plan, fetch, probe, decode, filter
        ("code", pa.string()),  # short stable reason: truncated, timeout, no_face, ...
        ("message", pa.string()),
        ("attempts", pa.int32()),
    ]
)
_LIMIT = 1 << 30


def read(uri: str) -> list[dict[str, Any]]:
    """All rows, sorted by source."""
    path = storage.join(uri, NAME)
    if not storage.exists(path):
        return []
    data = storage.read_bytes(path, _LIMIT)
    return list(untrusted.read_parquet(io.BytesIO(data), _LIMIT, path).cast(SCHEMA).to_pylist())


def enter(
    uri: str, rows: Iterable[Mapping[str, Any]], instead_of: Iterable[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Add rows, replacing those of the same input and those of `instead_of` (source, fingerprint), and return all.
    The caller holds the data set's lock."""
    gone = set(instead_of)
    kept = (row for row in read(uri) if (row["source_uri"], row["fingerprint"]) not in gone)
    merged = {(row["source_uri"], row["fingerprint"]): row for row in [*kept, *rows]}
    table = [dict(merged[key]) for key in sorted(merged)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), buffer, compression="zstd")
    storage.publish_bytes(storage.join(uri, NAME), buffer.getvalue())
    return table
