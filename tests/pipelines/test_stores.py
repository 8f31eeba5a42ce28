"""The same ingestion on local files and on an S3-compatible server, as input and as output."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import plan, preprocess, quarantine
from pipelines.estimate import estimate
from pipelines.preprocess import IngestConfig, run
from pipelines.shards import ClipReader
from pipelines.summary import drawn, histograms
from tests.pipelines import stores
from tests.pipelines.drawn import head_video, moving
from tests.pipelines.test_preprocess import CLIPS, child, in_process  # noqa: F401  # fixtures
from xnemo.media.images import write_image
from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError

FRAMES = "Clip+abc+P0+C0+F0-14"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        head_video(folder / f"person{seed}" / "a.mp4", seed, frames=14)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module", params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "local":
        yield request.param
        return
    with stores.s3_server():
        yield request.param


@pytest.fixture
def place(store: str, tmp_path: Path) -> str:
    return str(tmp_path / "store") if store == "local" else stores.bucket()


@pytest.fixture
def source(place: str, videos: Path) -> str:
    return stores.upload(videos, f"{place}/videos")


def config(source: str, place: str, **changes: object) -> IngestConfig:
    values: dict = {"source": source, "output": f"{place}/out", "clips": CLIPS, "max_quarantine": 0.5, **changes}
    return IngestConfig(**values)


def everything(place: str) -> dict[str, bytes]:
    """All files of the data set."""
    return {name: storage.read_bytes(f"{place}/out/{name}") for name in storage.list_files(f"{place}/out")}


@pytest.mark.usefixtures("in_process")
def test_an_ingestion_is_stopped_resumed_repeated_and_extended(source: str, place: str, videos: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(source, place), stop)
    assert not storage.exists(f"{place}/out/{manifest.NAME}")
    summary = run(config(source, place))
    assert (summary["clips"], summary["quarantined"]) == (3, {"format": 1})
    made = everything(place)
    assert not any(name.startswith(plan.JOURNAL) for name in made)
    again = run(config(source, place))
    assert (again["new_clips"], everything(place)) == (0, made)
    storage.publish_file(f"{source}/person9/b.mp4", head_video(videos.parent / "b.mp4", 9, frames=14))
    assert run(config(source, place))["new_clips"] == 1
    assert {name for name in made if name.startswith("shards/")} < everything(place).keys()
    reader = ClipReader(f"{place}/out")
    assert sum(len(reader[k].frames) for k in range(len(reader))) == 4 * 14


@pytest.mark.usefixtures("in_process")
def test_the_bytes_do_not_depend_on_the_place(source: str, place: str, videos: Path, tmp_path: Path) -> None:
    run(config(source, place))
    run(config(str(videos), str(tmp_path / "elsewhere")))
    one, other = ClipReader(f"{place}/out"), ClipReader(str(tmp_path / "elsewhere/out"))
    assert {one[k].facts["clip_id"]: one[k].frames for k in range(len(one))} == {
        other[k].facts["clip_id"]: other[k].frames for k in range(len(other))
    }


@pytest.mark.usefixtures("in_process")
def test_pictures_in_folders_are_read_from_there(place: str, tmp_path: Path) -> None:
    for number, frame in enumerate(moving(3, 14)):
        local = tmp_path / f"{number}.png"
        write_image(local, frame)
        storage.publish_file(f"{place}/vfhq/group1/{FRAMES}/{number:08d}.png", local)
    summary = run(config(f"{place}/vfhq", place, reader="vfhq"))
    assert (summary["clips"], summary["identities"]) == (1, 1)
    assert ClipReader(f"{place}/out")[0].facts["source_fps"] == pytest.approx(30.0)


def test_an_estimate_reads_headers_and_writes_nothing(source: str, place: str) -> None:
    found = estimate(config(source, place))
    assert (found["inputs"], found["unreadable_in_sample"]) == (4, 1)
    assert found["frames"] > 0
    assert storage.list_files(f"{place}/out") == []


@pytest.mark.usefixtures("in_process")
def test_two_runs_exclude_each_other(source: str, place: str) -> None:
    with storage.lock(f"{place}/out/.ingest.lock"), pytest.raises(PlatformError, match="another ingestion"):
        run(config(source, place))


@pytest.mark.usefixtures("in_process")
def test_what_was_in_quarantine_is_tried_again_when_asked(source: str, place: str, videos: Path) -> None:
    slow = CLIPS.model_copy(update={"min_frames": 10})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess.ingest.Copy, "of", _unreachable)
        run(config(source, place, clips=slow, max_quarantine=1.0))
    rows = quarantine.read(f"{place}/out")
    assert {row["code"] for row in rows} == {"unreachable"}
    assert run(config(source, place, clips=slow))["new_clips"] == 0
    summary = run(config(source, place, clips=slow, retry=True))
    assert (summary["clips"], summary["quarantined"]) == (3, {"format": 1})
    assert run(config(source, place, clips=slow))["new_clips"] == 0
    assert run(config(source, place, clips=slow, retry=True, max_quarantine=1.0))["clips"] == 3  # the good ones once


def _unreachable(self: object, uri: str) -> Path:
    raise OSError("the store is away")


@pytest.mark.usefixtures("in_process")
def test_histograms_count_every_clip(source: str, place: str) -> None:
    run(config(source, place))
    found = histograms(f"{place}/out")
    assert sum(found["seconds"]["counts"]) == sum(found["min_face_px"]["counts"]) == 3
    assert found["source_fps"]["median"] == 25.0
    assert "median 25" in drawn(found["source_fps"])
