"""Shards are named by their content, read clip by clip through the manifest, and never read when changed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from pipelines.shards import ClipReader, read_clips, write
from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError


def clip(number: int, split: str = "train", frames: int = 3) -> dict:
    boxes = np.arange(frames * 4, dtype=np.float32).reshape(frames, 4) + number
    return {
        "clip_id": f"c{number}",
        "dataset": "d",
        "identity": f"i{number}",
        "split": split,
        "fps": 25.0,
        "source_span_s": [0.0, 1.0],
        "n_frames": frames,
        "size": 64,
        "crop_box": [0.0, 0.0, 64.0, 64.0],
        "face_boxes": list(boxes),
        "frames": [b"jpeg%d-%d" % (number, k) for k in range(frames)],
        "emotion": "happy",
        "intensity": 2,
        "quality": {"detection_rate": 1.0, "sharpness": 5.0, "min_face_px": 200.0, "max_jump": 0.1},
    }


def enter(uri: str, rows: list[dict], **options: int) -> None:
    for facts in write(uri, rows, **options):
        manifest.append(uri, [{**facts, "unit": facts["sha256"], "sources": []}])


@pytest.fixture(params=["local", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path / "data") if request.param == "local" else f"memory://shards-{tmp_path.name}"
    enter(root, [clip(1), clip(2, frames=5), clip(3, "val"), clip(4)])
    return root


def ids(reader: ClipReader) -> list[str]:
    return [reader[k].facts["clip_id"] for k in range(len(reader))]


def test_clips_are_read_one_by_one(uri: str) -> None:
    reader = ClipReader(uri, "train")
    assert ids(reader) == ["c1", "c2", "c4"]
    assert reader[1].frames == [b"jpeg2-%d" % k for k in range(5)]
    np.testing.assert_array_equal(reader[1].boxes, np.arange(20, dtype=np.float32).reshape(5, 4) + 2)
    assert reader[1].facts["quality"]["min_face_px"] == 200


def test_splits_are_read_apart_or_together(uri: str) -> None:
    assert ids(ClipReader(uri, "val")) == ["c3"]
    assert sorted(ids(ClipReader(uri))) == ["c1", "c2", "c3", "c4"]
    assert len(ClipReader(uri, "test")) == 0
    assert [found.facts["clip_id"] for found in read_clips(uri, "val")] == ["c3"]


def test_numbers_outside_are_an_index_error(uri: str) -> None:
    reader = ClipReader(uri, "train")
    assert reader[-1].facts["clip_id"] == "c4"
    with pytest.raises(IndexError):
        reader[3]


def test_the_light_table_holds_no_pixels(uri: str) -> None:
    table = ClipReader(uri).table()
    assert table.num_rows == 4
    assert not {"frames", "audio", "face_boxes"} & set(table.column_names)


def test_single_columns_can_be_read(uri: str) -> None:
    assert ClipReader(uri, "train").read(0, ["audio", "emotion"]) == {"audio": None, "emotion": "happy"}


def test_the_same_clips_give_the_same_name(tmp_path: Path) -> None:
    one, other = write(str(tmp_path / "a"), [clip(1)]), write(str(tmp_path / "b"), [clip(1)])
    assert one == other
    assert one[0]["shard"] != write(str(tmp_path / "c"), [clip(2)])[0]["shard"]


def test_a_shard_is_closed_when_it_is_full(tmp_path: Path) -> None:
    enter(str(tmp_path), [clip(k) for k in range(7)], limit=1)
    assert len(manifest.shards(str(tmp_path))) == 7
    assert len(ids(ClipReader(str(tmp_path)))) == 7


def test_a_clip_is_a_row_group(tmp_path: Path) -> None:
    facts = write(str(tmp_path), [clip(k) for k in range(5)])
    assert pq.ParquetFile(tmp_path / facts[0]["shard"]).num_row_groups == 5


def test_a_shard_that_was_never_entered_is_not_read(uri: str) -> None:
    write(uri, [clip(9)])
    assert "c9" not in ids(ClipReader(uri))


def test_one_flipped_bit_is_noticed_and_names_the_shard(tmp_path: Path) -> None:
    enter(str(tmp_path), [clip(1)])
    path = next((tmp_path / "shards").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(PlatformError, match=path.name):
        ClipReader(str(tmp_path))[0]


def test_a_missing_shard_is_told(uri: str) -> None:
    fs, path = storage.filesystem(storage.join(uri, manifest.shards(uri, "val")[0]["shard"]))
    fs.rm(path)
    with pytest.raises(PlatformError, match="missing or changed"):
        ClipReader(uri, "val")[0]


def test_another_schema_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(str(tmp_path), [clip(1)])
    monkeypatch.setattr(ClipReader, "version", "2")
    with pytest.raises(PlatformError, match="schema version 1"):
        ClipReader(str(tmp_path))[0]


def test_a_folder_that_is_no_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="no data set"):
        ClipReader(str(tmp_path))


def test_the_digest_changes_with_the_data(uri: str) -> None:
    before = ClipReader(uri).digest
    enter(uri, [clip(5)])
    assert ClipReader(uri).digest != before


def test_rows_keep_every_column_of_the_schema(uri: str) -> None:
    table = ClipReader(uri).table(schema.CLIP.names)
    assert table.schema.equals(schema.CLIP)
    assert isinstance(table, pa.Table)


def test_many_shards_are_read_in_any_order(tmp_path: Path) -> None:
    enter(str(tmp_path), [clip(k) for k in range(40)], limit=1)
    reader = ClipReader(str(tmp_path))
    expected = ids(reader)
    for k in np.random.default_rng(0).permutation(40):
        assert reader[int(k)].facts["clip_id"] == expected[k]
