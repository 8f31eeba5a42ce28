"""The manifest of a data set: the only list of what exists.

`manifest.parquet` lies beside the shards. Readers take their shards from it and never list the folder, so a
shard that was published but not yet entered does not exist. One row is one shard; a unit of work that gave no
shard has a row with an empty name, so that it is not done again. Rows are sorted and carry no clock: the same
input gives the same bytes, however often the writer was killed.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xnemo_platform import storage, untrusted
from xnemo_platform.errors import PlatformError

NAME = "manifest.parquet"
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # path below the data set's folder; "" if the unit gave none
        ("split", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("unit", pa.string()),  # the unit of work that wrote it: all its rows are entered at once
        ("sources", pa.list_(pa.string())),  # lineage: fingerprints of the inputs of the unit
        ("notes", pa.string()),  # what the writer wants to remember of the unit, JSON, or null
    ]
)
_LIMIT = 1 << 30
_KEY = b"dataset"


def read(uri: str) -> pa.Table:
    """The manifest of the data set in folder `uri`, sorted by (shard, unit); an empty table if there is none
    yet. Raises PlatformError if it is damaged or names something outside the folder."""
    path = storage.join(uri, NAME)
    if not storage.exists(path):
        return SCHEMA.empty_table()
    data = storage.read_bytes(path, _LIMIT)
    table = untrusted.read_parquet(io.BytesIO(data), _LIMIT, path)
    if table.schema.names != SCHEMA.names:
        raise PlatformError(f"{path} has the columns {table.schema.names}, not those of a manifest")
    for name in table["shard"].to_pylist():
        if name:
            storage.safe_join(uri, name)
    return table.cast(SCHEMA.with_metadata(table.schema.metadata))


def shards(uri: str, split: str | None = None) -> list[dict[str, Any]]:
    """The rows that name a shard, of one split or of all, in manifest order. Raises PlatformError if the
    folder holds no data set."""
    if not storage.exists(storage.join(uri, NAME)):
        raise PlatformError(f"{uri} holds no {NAME}: it is no data set; ingest one there first")
    return [row for row in read(uri).to_pylist() if row["shard"] and split in (None, row["split"])]


def description(uri: str) -> dict[str, Any]:
    """What the writer said of the whole data set at the first append; {} if there is no manifest."""
    return json.loads((read(uri).schema.metadata or {}).get(_KEY, b"{}"))


def append(
    uri: str, rows: Iterable[Mapping[str, Any]], dataset: Mapping[str, Any] | None = None, *, inputs_once: bool = False
) -> pa.Table:
    """Enter rows, atomically and under a lock, and return the new table.

    A unit that is there already is left as it is, so entering twice changes nothing. inputs_once: the same
    for a unit with a source that is there already, so two writers never enter one input twice. `dataset`
    describes the whole; it is set by the first append and must not change. Raises PlatformError if it does.
    """
    with storage.lock(storage.join(uri, f".{NAME}.lock"), busy="the manifest is being written; try again"):
        table = read(uri)
        said = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
        if said and dataset is not None and said != dict(dataset):
            raise PlatformError(f"{uri} holds data made in another way; choose another output folder")
        known = set(table["unit"].to_pylist())
        taken = set(pc.list_flatten(table["sources"]).to_pylist()) if inputs_once else set()
        fresh = [row for row in rows if row["unit"] not in known and taken.isdisjoint(row["sources"])]
        table = pa.concat_tables([table.replace_schema_metadata(), pa.Table.from_pylist(fresh, SCHEMA)])
        table = table.sort_by([("shard", "ascending"), ("unit", "ascending")])
        about = json.dumps(said or dict(dataset or {}), sort_keys=True).encode()
        table = table.replace_schema_metadata({_KEY: about})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        storage.publish_bytes(storage.join(uri, NAME), buffer.getvalue())
        return table


def digest(table: pa.Table) -> str:
    """sha256 over the content of a manifest: the version of the data set."""
    columns = (table[name].to_pylist() for name in ("shard", "sha256", "unit"))
    return hashlib.sha256("\n".join(" ".join(row) for row in zip(*columns, strict=True)).encode()).hexdigest()


def orphans(uri: str) -> list[str]:
    """Parquet files below `uri/shards` that no manifest row names: left by killed writers, safe to delete
    while no writer runs."""
    known = set(read(uri)["shard"].to_pylist())
    return [name for name in storage.list_files(uri) if name.startswith("shards/") and name not in known]
