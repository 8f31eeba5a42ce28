"""The whole ingestion: repeatable, resumable, all or nothing. Fast tests run the units in this process; the slow
ones on Ray, and compare with them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import ray

from pipelines import ingest, plan, preprocess, quarantine
from pipelines.clips import ClipConfig
from pipelines.estimate import estimate
from pipelines.preprocess import IngestConfig, run
from pipelines.shards import ClipReader
from tests.pipelines.drawn import head_video
from xnemo.media.images import decode_jpeg
from xnemo_platform import manifest, sandbox, storage
from xnemo_platform.config import load_config
from xnemo_platform.errors import PlatformError

CLIPS = ClipConfig(size=96, min_face_px=40, min_frames=10, max_frames=60)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people, one of them with two videos."""
    folder = tmp_path_factory.mktemp("people")
    for seed in range(6):
        head_video(folder / f"person{seed}" / "a.mp4", seed, frames=14)
    head_video(folder / "person5" / "b.mp4", 5, frames=20)
    return folder


@pytest.fixture(scope="module")
def child() -> Iterator[sandbox.Sandbox]:
    with sandbox.Sandbox() as box:
        yield box


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, child: sandbox.Sandbox) -> None:
    """Do the units one after the other here, instead of on Ray."""

    def units(config: IngestConfig, version: str, work: plan.Plan) -> Iterator[dict]:
        worker = ingest.Ingest(config, version)
        worker.box = child  # starting one is dear
        for name, group in work.units.items():
            answer = worker({"unit": plan.encode(name, group)})
            if answer["error"]:
                raise PlatformError(answer["error"])
            yield json.loads(answer["record"])

    monkeypatch.setattr(preprocess, "_ingested", units)


def config(source: Path, output: Path, **changes: object) -> IngestConfig:
    values: dict = {
        "source": str(source),
        "output": str(output),
        "clips": CLIPS,
        "val_share": 0.3,
        "inputs_per_unit": 2,
        **changes,
    }
    return IngestConfig(**values)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_videos_become_a_data_set_that_can_be_read(people: Path, tmp_path: Path, in_process: None) -> None:
    summary = run(config(people, tmp_path / "out"))
    reader = ClipReader(str(tmp_path / "out"))
    assert (summary["clips"], summary["identities"], summary["frames"]) == (7, 6, 14 * 6 + 20)
    assert len(reader) == 7
    for k in range(7):
        clip = reader[k]
        assert decode_jpeg(clip.frames[0]).shape == (96, 96, 3)
        assert clip.boxes.shape == (clip.facts["n_frames"], 4)
        assert np.isfinite(clip.boxes).all()
    assert not (tmp_path / "out" / plan.JOURNAL).exists()


def test_no_identity_is_in_two_splits(people: Path, tmp_path: Path, in_process: None) -> None:
    run(config(people, tmp_path / "out"))
    rows = ClipReader(str(tmp_path / "out")).table(["identity", "split"]).to_pylist()
    assert len({(row["identity"], row["split"]) for row in rows}) == len({row["identity"] for row in rows}) == 6


def test_a_second_run_touches_nothing(people: Path, tmp_path: Path, in_process: None) -> None:
    first = run(config(people, tmp_path / "out"))
    before = files(tmp_path / "out")
    again = run(config(people, tmp_path / "out"))
    assert files(tmp_path / "out") == before
    assert again["new_clips"] == 0
    assert again["manifest_sha256"] == first["manifest_sha256"]


def test_added_videos_are_added_and_move_nothing(people: Path, tmp_path: Path, in_process: None) -> None:
    few = tmp_path / "few"
    shutil.copytree(people, few, ignore=shutil.ignore_patterns("person4", "person5"))
    run(config(few, tmp_path / "out"))
    before = manifest.shards(str(tmp_path / "out"))
    summary = run(config(people, tmp_path / "out"))
    after = manifest.shards(str(tmp_path / "out"))
    assert all(shard in after for shard in before)
    assert (summary["new_clips"], summary["clips"]) == (3, 7)


def test_a_run_that_was_stopped_goes_on_to_the_same_data(people: Path, tmp_path: Path, in_process: None) -> None:
    whole = run(config(people, tmp_path / "whole"))

    def stop_after_two(what: str, done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(people, tmp_path / "out"), stop_after_two)
    assert not storage.exists(tmp_path / "out" / manifest.NAME)  # nothing half-done is visible
    kept = {name for name in files(tmp_path / "out") if name.startswith("shards/")}
    done: list[int] = []
    summary = run(config(people, tmp_path / "out"), lambda what, now, total: done.append(total))
    assert done == [3, 3, 3]  # four of the seven were kept
    assert summary["manifest_sha256"] == whole["manifest_sha256"]
    assert kept <= set(files(tmp_path / "out"))
    assert manifest.orphans(str(tmp_path / "out")) == []


def test_bad_videos_are_rows_and_the_others_are_used(people: Path, tmp_path: Path, in_process: None) -> None:
    source = tmp_path / "videos"
    shutil.copytree(people, source)
    (source / "bad.mp4").write_bytes(b"no video")
    (source / "person0" / "copy.mp4").write_bytes((people / "person0" / "a.mp4").read_bytes())
    summary = run(config(source, tmp_path / "out"))
    assert summary["quarantined"] == {"duplicate": 1, "format": 1}
    assert summary["clips"] == 7
    assert {Path(row["source_uri"]).name for row in quarantine.read(str(tmp_path / "out"))} == {"bad.mp4", "copy.mp4"}


def test_too_many_bad_videos_fail_and_leave_the_data_set_alone(people: Path, tmp_path: Path, in_process: None) -> None:
    run(config(people, tmp_path / "out"))
    before = files(tmp_path / "out")
    source = tmp_path / "videos"
    head_video(source / "new.mp4", 9, frames=14)
    for k in range(3):
        (source / f"bad{k}.mp4").write_bytes(b"no video %d" % k)
    with pytest.raises(PlatformError, match=r"of 4 inputs cannot be used \(format"):
        run(config(source, tmp_path / "out"))
    after = files(tmp_path / "out")
    assert {name: after[name] for name in before if not name.startswith(".")} == {
        name: time for name, time in before.items() if not name.startswith(".")
    }
    assert run(config(source, tmp_path / "out", max_quarantine=0.8))["clips"] == 8


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_source_without_videos_fails_and_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlatformError, match=name):
        run(config(tmp_path / name, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_reader_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"'reader'.*known are celebvhq, .*folder"):
        load_config(IngestConfig, None, ["source=a", "output=b", "reader=hdtv"])


def test_the_shipped_config_is_valid() -> None:
    path = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "ingest.yaml"
    assert load_config(IngestConfig, path, ["clips.size=256"]).clips.size == 256


def test_other_settings_need_another_output(people: Path, tmp_path: Path, in_process: None) -> None:
    run(config(people, tmp_path / "out", limit=2))
    with pytest.raises(PlatformError, match=r"clips\.min_frames: 10 → 12.*another output"):
        run(config(people, tmp_path / "out", clips=CLIPS.model_copy(update={"min_frames": 12})))


def test_a_new_version_of_the_code_needs_another_output(
    people: Path, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(people, tmp_path / "out", limit=2))
    monkeypatch.setattr(ingest, "CODE_VERSION", "99")
    with pytest.raises(PlatformError, match=r"code: \d+ → 99"):
        run(config(people, tmp_path / "out", limit=2))


def test_a_limit_is_kept_and_can_be_raised(people: Path, tmp_path: Path, in_process: None) -> None:
    assert run(config(people, tmp_path / "out", limit=2))["clips"] == 2
    assert run(config(people, tmp_path / "out", limit=5))["clips"] == 5


def test_two_runs_on_one_output_exclude_each_other(people: Path, tmp_path: Path, in_process: None) -> None:
    with storage.lock(tmp_path / "out" / ".ingest.lock"), pytest.raises(PlatformError, match="another ingestion"):
        run(config(people, tmp_path / "out"))


@pytest.mark.parametrize(
    "moment",
    [
        "pipelines.quarantine.enter",
        "xnemo_platform.manifest.append",
        "pipelines.preprocess.summarise",
        "pipelines.plan.clear_journal",
    ],
)
def test_killed_while_publishing_it_goes_on_to_the_same_data(
    people: Path, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole = run(config(people, tmp_path / "whole"))
    with monkeypatch.context() as patch:

        def killed(*_: object, **__: object) -> None:
            raise SystemExit

        patch.setattr(moment, killed)
        with pytest.raises(SystemExit):
            run(config(people, tmp_path / "out"))
    summary = run(config(people, tmp_path / "out"))
    assert summary["manifest_sha256"] == whole["manifest_sha256"]
    assert summary["clips"] == json.loads((tmp_path / "out" / "summary.json").read_text())["clips"] == 7
    assert not (tmp_path / "out" / plan.JOURNAL).exists()


def test_a_data_set_can_lie_in_an_object_store(people: Path, in_process: None, tmp_path: Path) -> None:
    output = f"memory://ingest-{tmp_path.name}"
    summary = run(IngestConfig(source=str(people), output=output, clips=CLIPS, limit=2))
    assert summary["clips"] == len(ClipReader(output)) == 2


def test_an_estimate_is_measured_on_some_of_the_inputs_and_writes_nothing(
    people: Path, tmp_path: Path, in_process: None
) -> None:
    found = estimate(config(people, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert (found["inputs"], found["units"], found["unreadable_in_sample"]) == (7, 7, 0)
    assert found["frames"] == pytest.approx(14 * 6 + 20, abs=7)
    assert (found["measured"]["inputs"], found["measured"]["frames"]) == (3, 3 * 14)
    assert found["measured"]["frames_per_s_of_a_worker"] > 0
    run(config(people, tmp_path / "out"))
    reader = ClipReader(str(tmp_path / "out"))
    assert found["bytes"] == pytest.approx(sum(len(f) for k in range(7) for f in reader[k].frames), rel=0.3)


def test_what_cannot_be_measured_is_not_guessed(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"{number}.mp4").write_bytes(b"no video %d" % number)
    found = estimate(config(tmp_path / "videos", tmp_path / "out"))
    assert (found["unreadable_in_sample"], found["seconds"], found["bytes"]) == (2, None, None)


def test_without_a_callback_a_line_tells_counts_and_time(
    people: Path, tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(people, tmp_path / "out"))
    assert capsys.readouterr().out.splitlines()[-1] == "videos 7/7  clips 7  quarantined 0  ETA 0:00"


COMMAND = """
import sys
from pathlib import Path
from tests.pipelines.test_preprocess import config
from pipelines.preprocess import run
print(run(config(Path(sys.argv[1]), Path(sys.argv[2])))["manifest_sha256"])
"""


def start(source: Path, output: Path) -> subprocess.Popen[str]:
    """The same ingestion in a process (and a Ray) of its own."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(source), str(output)],
        cwd=root,
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


@pytest.fixture(scope="module")
def reference(people: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that an undisturbed run on Ray gives."""
    process = start(people, tmp_path_factory.mktemp("reference"))
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0
    return out.split()[-1]


@pytest.mark.slow
def test_on_ray_the_data_are_those_of_one_process(
    people: Path, reference: str, tmp_path: Path, in_process: None
) -> None:
    assert run(config(people, tmp_path / "out"))["manifest_sha256"] == reference


@pytest.mark.slow
def test_rays_own_bars_are_shown_when_asked(people: Path, tmp_path: Path) -> None:
    small = [f"clips.{key}={value}" for key, value in CLIPS.model_dump(exclude_unset=True).items()]
    words = ["data", "ingest", "--dataset", "folder", "--source", str(people), "--output", str(tmp_path / "out")]
    ran = subprocess.run(  # in a process of its own: what Ray prints to is settled when it is imported
        [sys.executable, "-m", "jobs.cli", *words, *small, "ray_progress=true"],
        env=os.environ | {"XNEMO_HOME": str(tmp_path / "home")}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Map(Ingest)" in ran.stderr


@pytest.mark.slow
def test_stages_are_counted_for_prometheus(people: Path, tmp_path: Path) -> None:
    source = shutil.copytree(people, tmp_path / "videos")
    (source / "bad.mp4").write_bytes(b"no video")
    often = {"metrics_report_interval_ms": 500}
    ray.shutdown()  # an earlier test's, which reports seldom
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=often)
    try:
        run(config(source, tmp_path / "out"))
        [node] = ray.nodes()
        wanted = {f'stage="{name}"' for name in ("fetch", "probe", "decode", "detect", "crop", "write")}
        wanted |= {'outcome="used"', 'outcome="format"', 'fate="kept"'}
        end = time.monotonic() + 60
        while wanted:
            text = httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10).text
            told = "".join(line for line in text.splitlines() if line.startswith("ray_xnemo_ingest_"))
            wanted = {tag for tag in wanted if tag not in told}
            assert time.monotonic() < end, wanted
            time.sleep(0.5)
        assert "ray_xnemo_ingest_seconds_total{" in text
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("units_done", [0, 1, 3])
def test_a_killed_driver_is_started_again_to_the_same_data(
    people: Path, reference: str, tmp_path: Path, units_done: int
) -> None:
    process = start(people, tmp_path / "out")
    journal, deadline = tmp_path / "out" / plan.JOURNAL, time.monotonic() + 120
    while len(list(journal.glob("[!.]*"))) < units_done and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = start(people, tmp_path / "out")
    out, _ = again.communicate(timeout=180)
    assert again.returncode == 0
    assert out.split()[-1] == reference


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_worker_costs_no_data(people: Path, reference: str, tmp_path: Path) -> None:
    process = start(people, tmp_path / "out")
    killed, deadline = False, time.monotonic() + 120
    while not killed and process.poll() is None and time.monotonic() < deadline:
        for worker in _workers(process.pid):
            os.kill(worker, signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    out, _ = process.communicate(timeout=180)
    assert killed
    assert out.split()[-1] == reference


def _workers(session: int) -> list[int]:
    """Ray actors of an ingestion that are at work, in the session of its driver."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if b"MapWorker(Map(Ingest)).submit" in command and os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found
