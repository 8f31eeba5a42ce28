"""Units of work are the same however often the run was stopped, and nothing is done twice."""

from pathlib import Path

import pytest

from pipelines import plan
from xnemo_platform import manifest
from xnemo_platform.errors import PlatformError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for k in range(25):
        (folder / f"{k:02d}.mp4").write_bytes(b"video %d" % k)
    return folder


def make(videos: Path, limit: int | None = None, version: str = "v1", reader: str = "folder") -> plan.Plan:
    return plan.make(reader, str(videos), str(videos.parent / "out"), limit, 3, version)


def finish(videos: Path, work: plan.Plan, unit: str, version: str = "v1") -> dict:
    record = {
        "unit": unit,
        "sources": [source.fingerprint for source in work.units[unit]],
        "shards": [],
        "quarantine": [],
        "dropped": {},
        "frames": 0,
    }
    plan.publish_record(str(videos.parent / "out"), version, record)
    return record


def sizes(work: plan.Plan) -> list[int]:
    return [len(group) for group in work.units.values()]


def test_inputs_are_grouped_in_order(videos: Path) -> None:
    work = make(videos)
    assert sizes(work) == [3] * 8 + [1]
    assert [Path(source.uri).stem for group in work.units.values() for source in group] == [
        f"{k:02d}" for k in range(25)
    ]


def test_planning_writes_nothing(videos: Path) -> None:
    make(videos)
    assert not (videos.parent / "out").exists()


def test_a_finished_unit_is_not_planned_again_and_the_others_keep_their_names(videos: Path) -> None:
    before = make(videos)
    done = list(before.units)[1]
    finish(videos, before, done)
    after = make(videos)
    assert list(after.units) == [name for name in before.units if name != done]
    assert [record["unit"] for record in after.records] == [done]


def test_records_of_another_treatment_do_not_count(videos: Path) -> None:
    before = make(videos)
    finish(videos, before, next(iter(before.units)))
    assert sizes(make(videos, version="v2")) == [3] * 8 + [1]


def test_what_is_in_the_manifest_is_known(videos: Path) -> None:
    work = make(videos)
    sources = [source.fingerprint for group in work.units.values() for source in group][:22]
    manifest.append(
        str(videos.parent / "out"),
        [{"shard": "", "split": "", "rows": 0, "bytes": 0, "sha256": "", "unit": "u", "sources": sources}],
    )
    work = make(videos)
    assert (sizes(work), work.known) == ([3], 22)


def test_a_renamed_file_is_not_done_again(videos: Path) -> None:
    work = make(videos)
    for unit in work.units:
        finish(videos, work, unit)
    (videos / "00.mp4").rename(videos / "another.mp4")
    assert make(videos).pending == 0


def test_a_copy_is_reported_and_not_done(videos: Path) -> None:
    (videos / "copy.mp4").write_bytes(b"video 3")
    work = make(videos)
    assert work.pending == 25
    assert [(Path(row["source_uri"]).name, row["code"]) for row in work.duplicates] == [("copy.mp4", "duplicate")]


def test_a_small_source_is_divided_further(videos: Path) -> None:
    assert sizes(make(videos, limit=17)) == [2] * 8 + [1]


def test_a_limit_takes_the_first_inputs(videos: Path) -> None:
    assert make(videos, limit=2).pending == 2


def test_units_travel_as_text(videos: Path) -> None:
    name, group = next(iter(make(videos).units.items()))
    assert plan.decode(plan.encode(name, group)) == (name, group)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_source_without_videos_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlatformError, match=name):
        make(tmp_path / name)
