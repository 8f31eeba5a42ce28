"""The README's first command: killed in the middle of training, started again, and everything it promises is there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
STEPS = ["first", "draw", "ingest", "appearance", "motion", "temporal", "motions", "tokenizer", "generator", "register"]
STEPS += ["animate", "extend", "evaluate"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo that was killed, its cluster too, while it trained the motion stage."""
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {"XNEMO_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    try:
        killed = _run_until(environment, "stage motion", "step ")
        _kill_cluster(home)
        finished = subprocess.run(_command(), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1800)
        assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
        yield home, environment, killed, finished.stdout
    finally:
        subprocess.run([*_command(), "--stop"], env=environment, cwd=ROOT, check=False)


def test_what_was_done_before_the_kill_is_not_done_again(demo):
    _, _, killed, finished = demo
    assert "stage appearance: done before" not in killed
    for text in ("talking heads to mp4 files: done before", "shards: done before", "appearance: done before"):
        assert text in finished


def test_the_result_moves_like_the_driver(demo):
    summary = json.loads((demo[0] / "demo/report/artifacts/summary.json").read_text())
    for name in ("x", "y", "scale", "roll", "yaw", "pitch", "jaw"):
        figures = summary[name]
        assert figures["r_low"] > 0, f"{name} {figures}"
        assert figures["r"] > 0.3, f"{name} {figures}"


def test_the_videos_hold_what_their_names_say(demo):
    from xnemo.media.video import probe, read_frames

    folder = demo[0] / "demo"
    driver, result = probe(folder / "driving.mp4"), probe(folder / "result.mp4")
    assert result.frames == driver.frames
    assert result.fps == pytest.approx(driver.fps)
    assert probe(folder / "side-by-side.mp4").width >= 3 * 256
    assert probe(folder / "extended.mp4").frames == 100
    frames = np.stack(list(read_frames(folder / "result.mp4"))).astype(float)
    assert np.abs(np.diff(frames, axis=0)).mean() > 0.2, "nothing moves"


def test_every_training_is_a_run_with_metrics_and_artifacts(demo):
    import mlflow

    home = demo[0]
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = [run for found in client.search_experiments() for run in client.search_runs([found.experiment_id])]
    names = {run.info.run_name for run in runs}
    assert {"appearance", "motion", "temporal", "tokenizer", "generator"} <= names
    for run in runs:
        if run.info.run_name in {"appearance", "motion", "temporal"}:
            assert run.info.status == "FINISHED"
            assert run.data.metrics, run.info.run_name
            kept = {item.path for item in client.list_artifacts(run.info.run_id)}
            assert {"config.yaml", "samples"} <= kept
    assert client.get_model_version_by_alias("xnemo", "demo").version


def test_the_steps_were_jobs_of_the_cluster(demo):
    listed = subprocess.run([sys.executable, "-m", "jobs.cli", "jobs", "list"], env=demo[1], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout  # fmt: skip
    for name in ("motion-", "temporal-", "tokenizer-", "generator-", "evaluate-", "serve-"):
        assert any(line.startswith(name) and "SUCCEEDED" in line for line in listed.splitlines()), listed


def test_a_second_demo_reuses_everything(demo):
    again = subprocess.run(_command(), env=demo[1], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(STEPS)


def _command() -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "demo", "port=0"]


def _run_until(environment: dict[str, str], *texts: str) -> str:
    """Start the demo and kill it -9 once `texts` were printed, in this order."""
    process = subprocess.Popen(_command(), env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)  # fmt: skip
    assert process.stdout
    seen, waiting, deadline = "", list(texts), time.monotonic() + 1500
    for line in process.stdout:
        seen += line
        if waiting and waiting[0] in line:
            waiting.pop(0)
        if not waiting or time.monotonic() > deadline:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not waiting, seen
    return seen


def _kill_cluster(home: Path) -> None:
    head = json.loads((home / "demo/cluster/cluster.json").read_text())
    os.killpg(head["pid"], signal.SIGKILL)
