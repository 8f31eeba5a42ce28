"""A run on Ray Train: it survives its workers and its driver, and ends with the weights of an untouched run."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy_task import ToyConfig, exported

from xnemo_platform import tracking, trainer
from xnemo_platform.config import build
from xnemo_platform.errors import PlatformError

HERE = Path(__file__).parent
LOOP = {
    "steps": 8,
    "batch": 8,
    "lr": 1e-2,
    "save_every": 2,
    "log_every": 1,
    "validate_every": 4,
    "keep": 2,
    "workers": 2,
    "cpus": 0.5,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    tracking.mlflow_client(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def tracker(store):
    return tracking.Tracker(uri=f"sqlite:///{store}/mlflow.db", experiment="e", artifact_root=str(store / "artifacts"))


@pytest.fixture(scope="module")
def ray_cluster():
    trainer.start_ray(cpus=4)
    import ray

    yield
    ray.shutdown()


def fit(folder, tracker, may_change=(), loop=None, **config):
    made = build(ToyConfig, {"loop": LOOP | (loop or {}), **config})
    return trainer.fit("toy_task:build", made, folder, tracker, may_change=may_change, env={"PYTHONPATH": str(HERE)})


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(value, exported(b)[name]) for name, value in exported(a).items())


def steps_of(done, tracker) -> list[int]:
    found = tracking.mlflow_client(tracker.uri).get_metric_history(done.run_id, "loss/loss")
    return [metric.step for metric in found]


@pytest.fixture(scope="module")
def untouched(ray_cluster, tmp_path_factory, store):
    """The run that the others are held against."""
    place = tracking.Tracker(uri=f"sqlite:///{store}/mlflow.db", experiment="e", artifact_root=str(store / "artifacts"))
    return fit(tmp_path_factory.mktemp("runs") / "untouched", place)


@pytest.mark.slow
def test_a_run_leaves_its_model_its_numbers_and_its_books(untouched, tracker):
    assert exported(untouched.folder)
    assert untouched.metrics["validation/loss"] > 0
    assert steps_of(untouched, tracker) == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("step", [0, 5, 7])
def test_a_killed_worker_changes_nothing(untouched, tmp_path, tracker, step):
    done = fit(tmp_path / "run", tracker, fault="kill", fault_step=step)
    assert (tmp_path / "run" / "killed").exists()
    assert same(untouched.folder, done.folder)
    assert steps_of(done, tracker) == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_driver_and_the_same_command_again_change_nothing(untouched, tmp_path, tracker):
    folder = tmp_path / "run"
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from toy_task import ToyConfig
from xnemo_platform import trainer, tracking
from xnemo_platform.config import build
config = build(ToyConfig, {{"loop": {LOOP!r}, "fault": "kill", "fault_step": 5}})
config = config.model_copy(update={{"loop": config.loop.model_copy(update={{"max_failures": 0}})}})
trainer.fit("toy_task:build", config, Path({str(folder)!r}), tracking.Tracker.model_validate({tracker.model_dump()!r}),
            may_change=["loop.max_failures"], env={{"PYTHONPATH": {str(HERE)!r}}})
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 180
    while not (folder / "killed").exists() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = fit(folder, tracker, may_change=["loop.max_failures"], fault="kill", fault_step=5)
    assert same(untouched.folder, done.folder)
    assert steps_of(done, tracker) == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.fault
def test_an_error_of_the_input_is_told_in_its_own_words(ray_cluster, tmp_path, tracker):
    with pytest.raises(PlatformError, match=r"^shard 7 is damaged; ingest it again.$"):
        fit(tmp_path / "run", tracker, fault="refuse", fault_step=3)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_two_workers_with_sharded_states_agree_with_plain_ones(untouched, tmp_path, tracker, zero):
    done = fit(tmp_path / "run", tracker, loop={"zero": zero}, fault="kill", fault_step=5)
    for name, value in exported(untouched.folder).items():
        assert torch.allclose(value, exported(done.folder)[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers(ray_cluster, tmp_path, tracker):
    fit(tmp_path / "two", tracker, dropout=0.0)
    free = ["loop.workers"]
    fit(tmp_path / "changed", tracker, may_change=free, dropout=0.0)
    (tmp_path / "changed" / "checkpoints" / "step-00000008" / "COMMIT.json").unlink()  # as if stopped after step 6
    (tmp_path / "changed" / "result.json").unlink()
    done = fit(tmp_path / "changed", tracker, may_change=free, loop={"workers": 1}, dropout=0.0)
    for name, value in exported(tmp_path / "two").items():
        assert torch.allclose(value, exported(done.folder)[name], rtol=1e-4, atol=1e-6), name


def finished(folder: Path) -> Path:
    """A run that ended before."""
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"validation/loss": 0.5}))
    return folder


def test_a_finished_run_is_handed_back_without_a_cluster(tmp_path, tracker):
    assert fit(finished(tmp_path / "run"), tracker).metrics == {"validation/loss": 0.5}


def test_another_configuration_for_the_same_folder_is_refused(tmp_path, tracker):
    fit(finished(tmp_path / "run"), tracker)
    with pytest.raises(PlatformError, match=r"loop.lr: 0.01 → 0.02.*another output"):
        fit(tmp_path / "run", tracker, loop={"lr": 2e-2})
    assert fit(tmp_path / "run", tracker, loop={"workers": 1}, may_change=["loop.workers"]).metrics


def test_a_second_driver_of_one_run_is_refused(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr("xnemo_platform.trainer.OWNED_WITHIN_S", 0.0)
    folder = finished(tmp_path / "run")
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PlatformError, match="another process trains this run"):
            fit(folder, tracker)
