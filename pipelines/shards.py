"""Shards: Parquet files of clips, named by their content, and random access to the clips in them.

One clip is one row group, so a clip is read without its neighbours. Readers go by the manifest alone and check
a shard's sha256 when they open it.
"""

import contextlib
import hashlib
import io
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schema
from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError

_OPEN = 16  # shards a reader keeps open


class ShardWriter:
    """Collects rows of one split and publishes a shard when `limit` bytes are reached, and at `close`.

    `published` holds the manifest's facts of what was written. Nothing appears under a half-written name.
    """

    def __init__(self, uri: str, split: str, limit: int):
        self.uri, self.split, self.limit = uri, split, limit
        self.published: list[dict[str, Any]] = []
        self._start()

    def _start(self) -> None:
        self._buffer, self._rows = io.BytesIO(), 0
        # frames are JPEG already: compressing them again costs time and gains nothing
        self._writer = pq.ParquetWriter(
            self._buffer, schema.CLIP, compression="none", use_dictionary=False, write_statistics=False
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one clip (columns of schema.CLIP)."""
        columns = {field.name: [row.get(field.name)] for field in schema.CLIP}
        self._writer.write_table(pa.Table.from_pydict(columns, schema.CLIP), row_group_size=1)
        self._rows += 1
        if self._buffer.tell() >= self.limit:
            self.close()
            self._start()

    def close(self) -> None:
        """Publish what is left. Raises PlatformError if it cannot be written."""
        self._writer.close()
        if self._rows == 0:
            return
        data = self._buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        name = f"shards/{self.split}-{digest[:24]}.parquet"
        storage.publish_bytes(storage.join(self.uri, name), data)
        self.published.append(
            {"shard": name, "split": self.split, "rows": self._rows, "bytes": len(data), "sha256": digest}
        )
        self._rows = 0


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip. frames: n JPEG files, undecoded; boxes: float32 [n, 4] in crop pixels; facts: the light columns
    (clip_id, identity, emotion, fps, size, ...)."""

    frames: list[bytes]
    boxes: np.ndarray
    facts: dict[str, Any]


class ClipReader:
    """Random access to the clips of a data set by number; the order is the manifest's.

    `digest` is the version of the data set. Remote shards are copied to a temporary folder when first opened.
    Raises PlatformError for a missing data set, another schema version, or a shard that differs from its digest.
    """

    version = schema.VERSION  # of the shards it reads

    def __init__(self, uri: str, split: str | None = None):
        self.uri, self.split = uri, split
        self.digest = manifest.digest(manifest.read(uri))
        self._shards = manifest.shards(uri, split)
        self._ends = np.cumsum([row["rows"] for row in self._shards])
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._checked: set[int] = set()
        self._copies: tempfile.TemporaryDirectory[str] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Clip:
        """Clip `index` with its JPEG bytes; negative counts from the end. Raises IndexError outside."""
        number, row = self._find(index)
        columns = [*schema.LIGHT, "face_boxes", "frames"]
        group = self._file(number).read_row_group(row, columns=columns)
        boxes = group["face_boxes"].combine_chunks().flatten().flatten().to_numpy().reshape(-1, 4)
        frames = group["frames"].combine_chunks().flatten().to_pylist()
        return Clip(frames, boxes, group.select(schema.LIGHT).to_pylist()[0])

    def read(self, index: int, columns: list[str]) -> dict[str, Any]:
        """Some columns of one clip, such as audio or landmarks."""
        number, row = self._find(index)
        return dict(self._file(number).read_row_group(row, columns=columns).to_pylist()[0])

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """Columns of all clips, in order; by default the light ones (no pixels, boxes or sound)."""
        columns = columns or schema.LIGHT
        tables = [self._file(number).read(columns=columns) for number in range(len(self._shards))]
        return pa.concat_tables(tables) if tables else schema.CLIP.empty_table().select(columns)

    def _find(self, index: int) -> tuple[int, int]:
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, at, side="right"))
        return number, at - (int(self._ends[number - 1]) if number else 0)

    def _file(self, number: int) -> pq.ParquetFile:
        if number not in self._open:
            self._open[number] = self._opened(number)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def _opened(self, number: int) -> pq.ParquetFile:
        shard = self._shards[number]
        uri = storage.safe_join(self.uri, shard["shard"])
        path = self._local(uri, shard)
        if number not in self._checked:
            if not path.is_file() or _sha256(path) != shard["sha256"]:
                raise PlatformError(
                    f"{uri} is not the shard that the manifest names (missing or changed): restore "
                    "it, or ingest again into a new folder"
                )
            self._checked.add(number)
        file = pq.ParquetFile(path, memory_map=True)
        version = (file.schema_arrow.metadata or {}).get(b"schema_version", b"none").decode()
        if version != self.version:
            raise PlatformError(f"{uri} has schema version {version}, this code reads {self.version}: ingest again")
        return file

    def _local(self, uri: str, shard: Mapping[str, Any]) -> Path:
        fs, path = storage.filesystem(uri)
        if storage.is_local(uri):
            return Path(path)
        self._copies = self._copies or tempfile.TemporaryDirectory(prefix="xnemo-shards-")
        copy = Path(self._copies.name, shard["sha256"])
        if not copy.exists():
            with contextlib.suppress(FileNotFoundError):
                fs.get_file(path, str(copy))
        return copy


def read_clips(uri: str, split: str | None = None) -> Iterator[Clip]:
    """All clips of a data set (or of one split), in order."""
    reader = ClipReader(uri, split)
    return (reader[index] for index in range(len(reader)))


def write(uri: str, rows: Iterable[Mapping[str, Any]], limit: int = 128 << 20) -> list[dict[str, Any]]:
    """Publish rows as shards of their split and return the manifest's facts of them (not yet entered)."""
    writers: dict[str, ShardWriter] = {}
    for row in rows:
        split = row["split"]
        if split not in writers:
            writers[split] = ShardWriter(uri, split, limit)
        writers[split].add(row)
    for writer in writers.values():
        writer.close()
    return [facts for writer in writers.values() for facts in writer.published]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
