"""Bytes from outside: what they are by their first bytes, and tables that unfold to too much.

Names and declared types are never believed. What a video or a picture may hold is the business of its reader.
"""

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
    (4, b"ftypavif", "avif"),
    *((4, b"ftyp" + brand, "heic") for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1")),
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"),
    (4, b"mdat", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"free", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (8, b"AVI ", "avi"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv"),
    (0, b"PAR1", "parquet"),
    (0, b"PK\x03\x04", "zip"),
)
VIDEOS = frozenset({"mp4", "mkv", "avi", "mpeg", "ts", "wmv", "flv", "ogg", "gif"})
PICTURES = frozenset({"png", "jpeg", "webp", "avif", "bmp", "tiff"})
HEAD = 189
"""Bytes that tell the kind of a file."""


def sniff(head: bytes) -> str | None:
    """Kind of a file by its first HEAD bytes: png, jpeg, webp, avif, heic, bmp, tiff, gif, mp4 (and mov), mkv (and
    webm), avi, mpeg, ts, wmv, flv, ogg, parquet, zip, safetensors; None if unknown."""
    for at, magic, kind in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind
    if head[:1] == head[188:189] == b"\x47":  # a packet of a transport stream is 188 bytes, and each begins so
        return "ts"
    # safetensors: the length of a JSON object, then the object
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20:
        return "safetensors"
    return None


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
