"""The manifest is the only truth: entered atomically, once, by any number of writers, and never read blindly."""

import hashlib
import io
import multiprocessing
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError


def row(name: str, **changes: object) -> dict[str, object]:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "shard": f"shards/{name}.parquet",
        "split": "train",
        "rows": 3,
        "bytes": 10,
        "sha256": digest,
        "unit": name,
        "sources": [f"video-{name}"],
        **changes,
    }


@pytest.fixture(params=["local", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "data") if request.param == "local" else f"memory://manifest-{tmp_path.name}"


def test_no_manifest_is_an_empty_one_to_writers_and_an_error_to_readers(uri: str) -> None:
    assert manifest.read(uri).num_rows == 0
    with pytest.raises(PlatformError, match="no data set"):
        manifest.shards(uri)


def test_entered_rows_are_listed_sorted(uri: str) -> None:
    manifest.append(uri, [row("b")])
    manifest.append(uri, [row("a"), row("c", split="val")])
    assert [shard["unit"] for shard in manifest.shards(uri)] == ["a", "b", "c"]
    assert [shard["unit"] for shard in manifest.shards(uri, "val")] == ["c"]


def test_entering_twice_changes_no_byte(uri: str) -> None:
    manifest.append(uri, [row("a")], {"kind": "x"})
    before = storage.read_bytes(storage.join(uri, manifest.NAME))
    manifest.append(uri, [row("a"), row("a", rows=99)], {"kind": "x"})
    assert storage.read_bytes(storage.join(uri, manifest.NAME)) == before


def test_an_input_is_entered_once_when_asked(uri: str) -> None:
    manifest.append(uri, [row("a")])
    table = manifest.append(uri, [row("b", sources=["new", "video-a"])], inputs_once=True)
    assert table["unit"].to_pylist() == ["a"]


def test_data_made_in_another_way_is_refused(uri: str) -> None:
    manifest.append(uri, [row("a")], {"size": 512})
    with pytest.raises(PlatformError, match="another way"):
        manifest.append(uri, [row("b")], {"size": 256})
    assert manifest.description(uri) == {"size": 512}
    assert manifest.read(uri).num_rows == 1


def test_a_unit_without_a_shard_is_remembered_and_not_listed(uri: str) -> None:
    manifest.append(uri, [row("a"), row("nothing", shard="", rows=0)])
    assert len(manifest.shards(uri)) == 1
    assert "nothing" in manifest.read(uri)["unit"].to_pylist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1))
def test_order_and_repetition_of_writers_do_not_matter(names: list[str]) -> None:
    one, other = f"memory://one-{uuid.uuid4()}", f"memory://other-{uuid.uuid4()}"
    manifest.append(one, [row(name) for name in sorted(set(names))])
    for name in names:
        manifest.append(other, [row(name)])
    assert manifest.digest(manifest.read(one)) == manifest.digest(manifest.read(other))


def _write(uri: str, first: int) -> None:
    for number in range(first, first + 10):
        manifest.append(uri, [row(f"{number:03d}")])


def test_two_processes_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), first)) for first in (0, 5, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert manifest.read(str(tmp_path)).num_rows == 25


def test_the_digest_names_the_content(uri: str) -> None:
    first = manifest.digest(manifest.append(uri, [row("a")]))
    second = manifest.digest(manifest.append(uri, [row("b")]))
    assert first != second == manifest.digest(manifest.read(uri))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "s3://other/x", "a\0b"])
def test_a_manifest_that_names_something_outside_is_refused(uri: str, name: str) -> None:
    manifest.append(uri, [row("a", shard=name)])
    with pytest.raises(PlatformError, match="not allowed"):
        manifest.shards(uri)


def test_a_torn_manifest_is_told_by_its_path(uri: str) -> None:
    manifest.append(uri, [row("a")])
    path = storage.join(uri, manifest.NAME)
    storage.publish_bytes(path, storage.read_bytes(path)[:-20])
    with pytest.raises(PlatformError, match=r"manifest\.parquet is no readable Parquet"):
        manifest.read(uri)


def test_another_parquet_file_is_no_manifest(uri: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    storage.publish_bytes(storage.join(uri, manifest.NAME), buffer.getvalue())
    with pytest.raises(PlatformError, match="not those of a manifest"):
        manifest.read(uri)


def test_shards_that_were_never_entered_are_orphans_and_not_read(uri: str) -> None:
    manifest.append(uri, [row("a")])
    for name in ("a", "lost"):
        storage.publish_bytes(storage.join(uri, f"shards/{name}.parquet"), b"x")
    assert manifest.orphans(uri) == ["shards/lost.parquet"]
    assert len(manifest.shards(uri)) == 1
