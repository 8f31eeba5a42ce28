"""Bytes from outside: what they are by their first bytes, and how much of them is read.

Names and declared types are never believed. What a video or a picture may hold is the business of its reader.
"""

from collections.abc import AsyncIterator, Collection
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xnemo_platform.errors import PlatformError

_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (0, b"GIF8", "gif"),
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"),
    (4, b"mdat", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"free", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (8, b"AVI ", "avi"),
    (0, b"PAR1", "parquet"),
    (0, b"PK\x03\x04", "zip"),
)
VIDEOS = frozenset({"mp4", "mkv", "avi"})
PICTURES = frozenset({"png", "jpeg", "webp", "bmp", "tiff"})


def sniff(head: bytes) -> str | None:
    """Kind of a file by its first 16 bytes: png, jpeg, webp, bmp, tiff, gif, mp4 (and mov), mkv (and webm),
    avi, parquet, zip, safetensors; None if unknown."""
    for at, magic, kind in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind
    # safetensors: the length of a JSON object, then the object
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20:
        return "safetensors"
    return None


def require(head: bytes, kinds: Collection[str], name: str) -> str:
    """The kind of a file if it is one of `kinds`. Raises PlatformError otherwise."""
    kind = sniff(head)
    if kind is None or kind not in kinds:
        raise PlatformError(f"{name} is {kind or 'of no known kind'}, not one of {', '.join(sorted(kinds))}")
    return kind


async def read_stream(chunks: AsyncIterator[bytes], limit: int, name: str) -> AsyncIterator[bytes]:
    """Pass chunks on and count: raises PlatformError as soon as more than `limit` bytes have come, whatever
    length was announced."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise PlatformError(f"{name} is longer than {limit} bytes")
        yield chunk


def read_parquet(source: Any, limit: int, name: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file (path or open file) as a table of at most `limit` bytes in memory.

    A 1 kB file can unfold to 1 GB, and the footer need not say so: rows are read a few at a time and counted.
    Raises PlatformError: too long, damaged, or columns of an extension type (they could carry code).
    """
    try:
        file = pq.ParquetFile(source)
        for field in file.schema_arrow:
            if isinstance(field.type, pa.BaseExtensionType) or b"ARROW:extension:name" in (field.metadata or {}):
                raise PlatformError(f"{name}: column {field.name!r} has an extension type, which is not read")
        declared = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        batches, total = [], declared if declared > limit else 0
        if total <= limit:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                batches.append(batch)
                total += batch.nbytes
                if total > limit:
                    break
        if total > limit:
            raise PlatformError(f"{name} unfolds to more than {limit} bytes: it is not what it should be")
        names = columns or file.schema_arrow.names
        schema = pa.schema([file.schema_arrow.field(column) for column in names], file.schema_arrow.metadata)
        return pa.Table.from_batches(batches, schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise PlatformError(f"{name} is no readable Parquet file: {error}") from error
