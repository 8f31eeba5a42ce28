"""What comes from outside is known by its bytes and read under a limit."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xnemo_platform.errors import PlatformError
from xnemo_platform.untrusted import read_parquet, sniff


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x20ftypisom", "mp4"),
        (b"\x1a\x45\xdf\xa3" + bytes(9), "mkv"),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8), "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        (b'\x10\0\0\0\0\0\0\0{"a"', "safetensors"),
        (b"PAR1", "parquet"),
        (b"\0\0\0\x20ftypavif", "avif"),
        (b"\0\0\0\x20ftypheic", "heic"),
        (b"OggS\0", "ogg"),
        ((b"\x47" + bytes(187)) * 2, "ts"),
        (b"\x47" + bytes(187), None),
        (b"", None),
        (b"#EXTM3U\n", None),
        (b"ffconcat version", None),
        (b"<svg xmlns", None),
        (b"\x80\x04\x95", None),
    ],
)
def test_kinds_are_told_by_the_first_bytes(head: bytes, kind: str | None) -> None:
    assert sniff(head) == kind


def parquet(table: pa.Table, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    buffer.seek(0)
    return buffer


def test_a_table_is_read_as_it_was_written() -> None:
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    assert read_parquet(parquet(table), 1 << 20, "t").equals(table)
    assert read_parquet(parquet(table), 1 << 20, "t", ["b"]).column_names == ["b"]


def test_a_dictionary_bomb_is_refused() -> None:
    bomb = parquet(pa.table({"a": pa.array(["x" * 200_000] * 1000)}), compression="zstd")
    assert len(bomb.getvalue()) < 100_000
    with pytest.raises(PlatformError, match="unfolds"):
        read_parquet(bomb, 32 << 20, "bomb")


def test_a_column_of_an_extension_type_is_refused() -> None:
    class Code(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.binary(), "test.code")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Code":
            return cls()

    column = pa.ExtensionArray.from_storage(Code(), pa.array([b"x"]))
    with pytest.raises(PlatformError, match="extension type"):
        read_parquet(parquet(pa.table({"a": column})), 1 << 20, "t")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_files_are_told(data: bytes) -> None:
    with pytest.raises(PlatformError, match="no readable Parquet"):
        read_parquet(io.BytesIO(data), 1 << 20, "t")


def test_nothing_switches_on_ray_datas_pickled_columns() -> None:
    import os

    assert not [name for name in os.environ if name.startswith("RAY_DATA_AUTOLOAD_")]
