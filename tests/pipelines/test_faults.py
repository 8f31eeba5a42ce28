"""Hostile inputs by the hundred, and machines that fail in the middle of a write."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipelines import quarantine
from pipelines.preprocess import run
from pipelines.shards import ClipReader
from tests.pipelines.drawn import head_video, moving
from tests.pipelines.test_preprocess import child, config, in_process  # noqa: F401  # fixtures
from xnemo.media.images import write_image

ROOT = Path(__file__).resolve().parents[2]
GOOD, BAD = 5, 200


def spoilt(data: bytes, number: int, folder: Path) -> bytes:
    """A good video, made bad in one of eight ways."""
    rng = np.random.default_rng(number)
    raw = np.frombuffer(data, np.uint8).copy()
    start, length = int(rng.integers(0, len(raw))), int(rng.integers(64, len(raw) // 2))
    match number % 8:
        case 0:
            raw[rng.integers(0, len(raw), 40)] ^= 1 << rng.integers(0, 8, 40).astype(np.uint8)
        case 1:
            raw = raw[:start]
        case 2:
            raw[start : start + length] = 0
        case 3:
            return f"<html>{number} not found</html>".encode()
        case 4:
            write_image(folder / "p.png", rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            return (folder / "p.png").read_bytes()
        case 5:
            with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
                bomb.writestr(str(number), bytes(1 << 22))
            return (folder / "b.zip").read_bytes()
        case 6:
            raw[start : start + length] = rng.permutation(raw[start : start + length])
        case 7:
            raw = np.concatenate([raw[:start], rng.integers(0, 256, 200, dtype=np.uint8), raw[start:]])
    return raw.tobytes()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("in_process")
def test_two_hundred_mutated_videos_cost_nobody_else_anything(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    good = [head_video(source / f"good{k}" / "a.mp4", k, frames=14) for k in range(GOOD)]
    data = [path.read_bytes() for path in good]
    bad = {}
    for number in range(BAD):
        path = source / f"bad{number:03d}" / "a.mp4"
        path.parent.mkdir()
        path.write_bytes(bad.setdefault(str(path), spoilt(data[number % GOOD], number, tmp_path)))
    run(config(source, tmp_path / "out", max_quarantine=1.0))
    reader = ClipReader(str(tmp_path / "out"))
    arrived = reader.table(["source_uri"])["source_uri"].to_pylist()
    rows = quarantine.read(str(tmp_path / "out"))
    rejected = [row["source_uri"] for row in rows]
    assert {str(path) for path in good} <= set(arrived)
    assert len(rejected) == len(set(rejected))
    harmless = {path for path, content in bad.items() if path in arrived}  # the damage hit bytes that nobody reads
    assert set(rejected) | harmless == set(bad)
    assert len(harmless) < BAD // 8
    assert all(row["code"] and row["code"] != "error" and row["message"] for row in rows)


WRITE = """
import sys
from pipelines import shards
from tests.pipelines.test_faults import row
shards.write(sys.argv[1], (row(k) for k in range(100_000)), limit=300_000)
"""


def row(number: int) -> dict:
    frame = np.random.default_rng(number).bytes(30_000)
    return {"clip_id": str(number), "split": "train", "source_span_s": [0, 1], "crop_box": [0, 0, 1, 1],
            "face_boxes": [[0, 0, 1, 1]] * 4, "n_frames": 4, "frames": [frame] * 4}  # fmt: skip


def writer(output: Path, code: str = WRITE) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(output)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )


def whole(output: Path) -> int:
    """How many shards there are; each must be what its name says."""
    found = list((output / "shards").glob("[!.]*"))
    for path in found:
        assert path.stem.rpartition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    return len(found)


@pytest.mark.slow
@pytest.mark.fault
def test_a_writer_killed_at_any_moment_leaves_only_whole_shards(tmp_path: Path) -> None:
    process = writer(tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("shards/[!.]*"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert whole(tmp_path) >= 20


@pytest.mark.slow
@pytest.mark.fault
def test_a_disk_that_fills_up_is_one_sentence_and_no_torn_shard(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    process = writer(tmp_path, limit + WRITE)
    _, said = process.communicate(timeout=120)
    assert "cannot be written" in said.strip().splitlines()[-1]
    assert whole(tmp_path) == 0
    assert list(tmp_path.glob("shards/.*")) == []


SMALL_DISK = """
mount -t tmpfs -o size=2m tmpfs "$1" || exit 77
"$2" -c "$3" "$1"
echo "left with $?"
"$2" -c 'import sys; from pathlib import Path; from tests.pipelines.test_faults import whole
print(whole(Path(sys.argv[1])), "whole,", len(list(Path(sys.argv[1]).glob("shards/.*"))), "torn")' "$1"
"""


@pytest.mark.slow
@pytest.mark.fault
def test_a_disk_that_is_really_full_keeps_what_was_written_before(tmp_path: Path) -> None:
    """On a disk of 2 MiB that only this test sees: shards of 300 kB are published until no more fits."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    done = subprocess.run([*command, sys.executable, WRITE], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode in (1, 77, 127) and "whole" not in done.stdout:
        pytest.skip(f"no private disk can be had here: {done.stderr.strip()[-200:]}")
    assert done.stdout.splitlines() == ["left with 1", "5 whole, 0 torn"]
    assert "No space left on device; 0 MiB free): make room" in done.stderr.strip().splitlines()[-1]


@pytest.mark.usefixtures("in_process")
def test_links_that_lead_out_or_round_are_told_and_not_followed(tmp_path: Path) -> None:
    source, outside = tmp_path / "videos", tmp_path / "outside"
    head_video(source / "a" / "good.mp4", 3, frames=14)
    head_video(outside / "secret.mp4", 4, frames=14)
    (source / "a" / "out.mp4").symlink_to(outside / "secret.mp4")
    (source / "a" / "round").symlink_to(source)
    (source / "a" / "self.mp4").symlink_to(source / "a" / "self.mp4")
    (source / "a" / "whole").symlink_to(outside)
    summary = run(config(source, tmp_path / "out"))
    assert summary["clips"] == 1
    assert summary["quarantined"] == {"link": 2, "outside_root": 1, "unreachable": 1}


@pytest.mark.usefixtures("in_process")
def test_pipes_and_names_that_are_no_text_are_told_and_hold_nobody_up(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    head_video(source / "good\n ü.mp4", 3, frames=14)
    os.mkfifo(source / "pipe.mp4")
    Path(os.fsdecode(os.fsencode(source) + b"/bad\xff.mp4")).write_bytes(b"x")
    assert run(config(source, tmp_path / "out", max_quarantine=1))["clips"] == 1
    found = {(Path(row["source_uri"]).name, row["code"]) for row in quarantine.read(str(tmp_path / "out"))}
    assert found == {("pipe.mp4", "format"), ("bad\\udcff.mp4", "name")}


def test_a_person_is_looked_for_only_where_the_data_set_says(tmp_path: Path) -> None:
    from pipelines import clips
    from xnemo.media.limits import LIMITS
    from xnemo.media.video import write_video

    pair = [np.concatenate([a, b], axis=1) for a, b in zip(moving(3, 14, 0), moving(7, 14, 0), strict=True)]
    path = str(write_video(tmp_path / "two.mp4", pair, 25))
    settings = config(tmp_path, tmp_path).clips
    info = clips.examine(path, LIMITS)
    boxes = []
    for region in ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)):
        found = clips.extract(path, info, 0, 0.56, settings, LIMITS, clips.Person(region, (1.0, 1.0)))
        assert len(found["clips"]) == 1
        boxes.append(found["clips"][0]["crop_box"])
    assert boxes[0][2] < boxes[1][2]
    assert clips.extract(path, info, 0, 0.56, settings, LIMITS)["clips"] == []
    each = settings.model_copy(update={"faces": "each"})
    assert len(clips.extract(path, info, 0, 0.56, each, LIMITS)["clips"]) == 2
