"""One unit of work: every way a video can be bad ends in its own quarantine row, and its neighbours never notice."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines import clips, ingest, plan
from pipelines.clips import ClipConfig
from pipelines.ingest import Ingest, split_of
from pipelines.preprocess import IngestConfig
from pipelines.shards import ClipReader
from pipelines.sources.source import Source, fingerprinted
from tests.pipelines.drawn import SIZE, head_video, moving
from tests.xnemo.media.conftest import with_edit_list, write
from tests.xnemo_platform import deeds
from xnemo.media.video import write_video
from xnemo_platform import manifest, sandbox

CLIPS = ClipConfig(size=96, min_face_px=40, min_frames=10, max_frames=60)


@pytest.fixture(autouse=True)
def one_child(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers share a child where the test does not kill it: starting one is dear."""
    if "deed" not in request.fixturenames:
        shared = request.getfixturevalue("child")
        monkeypatch.setattr(ingest.sandbox, "Sandbox", lambda limits: shared)


@pytest.fixture(scope="session")
def child() -> Iterator[sandbox.Sandbox]:
    with sandbox.Sandbox() as box:
        yield box


def config(folder: Path, **changes: object) -> IngestConfig:
    return IngestConfig(source=str(folder), output=str(folder / "out"), clips=CLIPS, **changes)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return head_video(tmp_path_factory.mktemp("good") / "good.mp4", seed=3)


def unit(folder: Path, *paths: Path, **changes: object) -> dict:
    worker = Ingest(config(folder, **changes), "v1")
    return worker.ingest("u", fingerprinted(Source(str(path), path.stem) for path in paths))


def empty(path: Path, good: Path) -> None:
    path.write_bytes(b"")


def text(path: Path, good: Path) -> None:
    path.write_text("<html>404</html>")


def busy(path: Path) -> bytes:
    """A video whose frames are all large, so that damage in its second half is damage of later frames."""
    rng = np.random.default_rng(0)
    return write_video(path, rng.integers(0, 256, (20, 96, 96, 3), dtype=np.uint8), 25).read_bytes()


def truncated(path: Path, good: Path) -> None:
    data = busy(path)
    path.write_bytes(data[: len(data) // 2])  # fast start: the header survives


def headless(path: Path, good: Path) -> None:
    data = write(path, [k / 25 for k in range(20)]).read_bytes()
    path.write_bytes(data[: data.find(b"moov") - 4])  # the header is at the end


def flipped(path: Path, good: Path) -> None:
    data = bytearray(busy(path))
    for at in np.random.default_rng(0).integers(len(data) // 2, len(data), 200):  # the first frame survives
        data[at] ^= 255
    path.write_bytes(data)


def nobody(path: Path, good: Path) -> None:
    write_video(path, [np.full((SIZE, SIZE, 3), 90, np.uint8)] * 20, 25)


def two_people(path: Path, good: Path) -> None:
    pair = np.concatenate([moving(3, 1)[0], moving(7, 1)[0]], axis=1)
    write_video(path, [pair] * 20, 25)


def slow(path: Path, good: Path) -> None:
    write_video(path, moving(3, 20), 5)


def short(path: Path, good: Path) -> None:
    write_video(path, moving(3, 6), 25)


BAD = [
    (empty, "probe", "format"),
    (text, "probe", "format"),
    (truncated, "probe", "truncated"),
    (headless, "probe", "unreadable"),
    (flipped, "decode", "corrupt"),
    (nobody, "filter", "no_face"),
    (two_people, "filter", "several_faces"),
    (slow, "probe", "low_fps"),
    (short, "filter", "short"),
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, good: Path) -> tuple[Path, dict]:
    """A unit of one good video among all the bad ones."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = [good]
    for make, _, _ in BAD:
        paths.append(folder / f"{make.__name__}.mp4")
        make(paths[-1], good)
    return folder, unit(folder, *paths[1:5], good, *paths[5:])


@pytest.mark.parametrize(("make", "stage", "code"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_each_bad_video_has_its_own_reason(mixed: tuple[Path, dict], make: Callable, stage: str, code: str) -> None:
    rows = [row for row in mixed[1]["quarantine"] if Path(row["source_uri"]).stem == make.__name__]
    assert [(row["stage"], row["code"]) for row in rows] == [(stage, code)]
    assert len(rows[0]["sha256"]) == 64


def test_a_good_video_among_bad_ones_gives_the_shard_it_gives_alone(
    mixed: tuple[Path, dict], good: Path, tmp_path: Path
) -> None:
    assert mixed[1]["shards"] == unit(tmp_path, good)["shards"]


def test_a_video_that_is_gone_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "gone.mp4"
    worker = Ingest(config(tmp_path), "v1")
    record = worker.ingest("u", [Source(str(path), "x", fingerprint="f")])
    assert [(row["stage"], row["code"]) for row in record["quarantine"]] == [("fetch", "unreachable")]


def test_odd_but_good_videos_are_used(tmp_path: Path, good: Path) -> None:
    jittery = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.07, 40)).tolist()
    with av.open(str(tmp_path / "vfr.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 12_800)
        for time_, image in zip(jittery, moving(3, 40), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time_ * 12_800), stream.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with_edit_list(good, tmp_path / "edited.mp4", hidden=10)
    record = unit(tmp_path, tmp_path / "vfr.mp4", tmp_path / "edited.mp4")
    assert record["quarantine"] == []
    assert sum(shard["rows"] for shard in record["shards"]) == 2


def test_a_long_video_is_worked_on_in_parts_without_losing_a_frame(tmp_path: Path) -> None:
    path = head_video(tmp_path / "long.mp4", seed=3, frames=83)
    record = unit(tmp_path, path, part_s=1.0)
    manifest.append(str(tmp_path / "out"), [{**shard, "unit": "u", "sources": []} for shard in record["shards"]])
    reader = ClipReader(str(tmp_path / "out"))
    spans = [reader[k].facts["source_span_s"] for k in range(len(reader))]
    assert [round(end - start, 4) for start, end in spans] == [0.84, 0.84, 0.8, 0.84]
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
    assert record["frames"] == 83


def test_a_video_beyond_the_configured_length_is_quarantined(tmp_path: Path, good: Path) -> None:
    record = unit(tmp_path, good, max_minutes=0.02)
    assert [(row["stage"], row["code"]) for row in record["quarantine"]] == [("probe", "too_long")]


def test_a_long_video_loses_only_its_damaged_part(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    wild = [moving(4 + k % 4, 1)[0] for k in range(25)]  # another person in each frame: most bytes are theirs
    data = bytearray(write_video(path, moving(3, 50) + wild, 25).read_bytes())
    for at in np.random.default_rng(0).integers(len(data) * 8 // 10, len(data), 60):
        data[at] ^= 255
    path.write_bytes(data)
    record = unit(tmp_path, path, part_s=1.0)
    assert sum(shard["rows"] for shard in record["shards"]) == 2
    assert [(row["stage"], row["code"]) for row in record["quarantine"]] == [("decode", "corrupt")]


def test_only_the_span_of_a_source_is_used(tmp_path: Path, good: Path) -> None:
    worker = Ingest(config(tmp_path), "v1")
    record = worker.ingest("u", fingerprinted([Source(str(good), "x", start_s=0.4, end_s=1.2)]))
    assert record["frames"] == 20


@pytest.mark.parametrize(
    ("deed", "code", "seconds"),
    [
        (deeds.leave, "killed", 20.0),
        (deeds.segfault, "killed", 20.0),
        (deeds.allocate_much, "memory", 20.0),
        (deeds.loop, "timeout", 1.0),
        (deeds.stop_itself, "timeout", 1.0),
    ],
)
def test_a_decoder_that_dies_or_hangs_costs_its_attempts_and_no_more(
    tmp_path: Path, deed: Callable, code: str, seconds: float
) -> None:
    worker = Ingest(config(tmp_path, timeout_s=seconds), "v1")
    worker.rejected = []
    assert worker._call(Source("v.mp4", "x", fingerprint="f"), "sha", "decode", deed) is None
    assert [(row["code"], row["attempts"]) for row in worker.rejected] == [(code, 2)]
    worker.box.limits = sandbox.Limits(seconds=20.0)
    assert worker._call(Source("v.mp4", "x"), "sha", "decode", deeds.echo, "done") == "done"


def test_a_decoder_that_dies_once_is_tried_again(tmp_path: Path) -> None:
    worker = Ingest(config(tmp_path), "v1")
    worker.rejected = []
    answer = worker._call(Source("v.mp4", "x"), "sha", "decode", deeds.leave_once, str(tmp_path / "tried"))
    assert (answer, worker.rejected) == ("done", [])


def test_an_output_that_cannot_be_written_stops_the_run(tmp_path: Path, good: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    worker = Ingest(config(tmp_path), "v1")
    text = plan.encode("u", fingerprinted([Source(str(good), "x")]))
    answer = worker({"unit": text})
    assert answer["record"] == ""
    assert "cannot be written" in answer["error"]


@pytest.mark.parametrize("start", [1.6, 50.0])
def test_a_span_beyond_the_end_is_quarantined(tmp_path: Path, good: Path, start: float) -> None:
    record = Ingest(config(tmp_path), "v1").ingest("u", fingerprinted([Source(str(good), "x", start_s=start)]))
    assert [(row["stage"], row["code"]) for row in record["quarantine"]] == [("decode", "no_frames")]


def test_splits_follow_the_identity_and_the_shares() -> None:
    names = [f"person {k}" for k in range(4000)]
    splits = [split_of("d", name, 0.1, 0.05) for name in names]
    assert splits.count("val") / 4000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.05, abs=0.02)
    assert splits == [split_of("d", name, 0.1, 0.05) for name in names]


def test_a_larger_share_only_moves_people_out_of_training() -> None:
    for k in range(500):
        if split_of("d", str(k), 0.1, 0.0) == "val":
            assert split_of("d", str(k), 0.2, 0.0) == "val"


def test_the_child_is_shared_by_all_videos_of_a_worker(tmp_path: Path) -> None:
    worker = Ingest(config(tmp_path), "v1")
    pids = {worker.box.call(os.getpid).value for _ in range(3)}
    assert len(pids) == 1


def test_the_module_of_the_child_needs_no_ray() -> None:
    code = f"import sys, {clips.__name__}, {ingest.__name__}; print('ray' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2
