"""Records reach MLflow once, whatever happens to MLflow or to the run."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from xnemo_platform import tracking
from xnemo_platform.tracking import Drain, Outbox, Tracker, run_id

AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One MLflow store for all: making it costs seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    tracking.mlflow_client(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def tracker(store):
    return Tracker(uri=f"sqlite:///{store}/mlflow.db", experiment="e", artifact_root=str(store / "artifacts"))


def drain(folder, tracker, **params):
    return Drain(folder, "name", tracker, {"lr": 1e-3} | params, {"stage": "toy"})


def record(folder, *steps, start=0.0):
    with Outbox(folder) as outbox:
        for step in steps:
            outbox.metrics(step, {"loss": start + step, "norm": 2.0})


def history(folder, tracker, key="loss"):
    found = tracking.mlflow_client(tracker.uri).get_metric_history(run_id(folder), key)
    return [(metric.step, metric.value) for metric in found]


def test_numbers_parameters_and_files_arrive(tmp_path, tracker):
    (tmp_path / "artifacts" / "samples").mkdir(parents=True)
    (tmp_path / "artifacts" / "config.yaml").write_text("a: 1")
    (tmp_path / "artifacts" / "samples" / "grid.png").write_bytes(b"png")
    with drain(tmp_path, tracker):
        record(tmp_path, 1, 2, 3)
    client = tracking.mlflow_client(tracker.uri)
    run = client.get_run(run_id(tmp_path))
    assert history(tmp_path, tracker) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert (run.info.status, run.data.params["lr"], run.data.tags["stage"]) == ("FINISHED", "0.001", "toy")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.yaml", "samples"]


def test_a_resumed_run_repeats_steps_and_mlflow_sees_each_once(tmp_path, tracker):
    with drain(tmp_path, tracker):
        record(tmp_path, 1, 2, 3)
    first = run_id(tmp_path)
    with drain(tmp_path, tracker, lr="changed"):
        record(tmp_path, 2, 3, 4, start=100)
    assert run_id(tmp_path) == first
    assert history(tmp_path, tracker) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 104.0)]


def test_a_driver_killed_after_sending_sends_no_second_copy(tmp_path, tracker):
    with drain(tmp_path, tracker):
        record(tmp_path, 1, 2)
    (tmp_path / tracking.SENT).unlink()
    with drain(tmp_path, tracker):
        pass
    assert history(tmp_path, tracker) == [(1, 1.0), (2, 2.0)]


def test_while_mlflow_is_away_nothing_waits_and_nothing_is_lost(tmp_path, tracker, caplog, monkeypatch):
    monkeypatch.setattr(tracking, "LAST_DRAIN_S", 0.5)
    with drain(tmp_path, Tracker(uri=AWAY, experiment="e")):
        record(tmp_path, *range(100))
    assert "waits in" in caplog.text
    assert run_id(tmp_path) is None
    with drain(tmp_path, tracker):
        pass
    assert len(history(tmp_path, tracker)) == 100


def test_mlflow_that_comes_back_during_the_run_gets_everything(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr(tracking, "DRAIN_EVERY_S", 0.05)
    real, back = tracking.mlflow_client, threading.Event()

    def sometimes(uri):
        if not back.is_set():
            raise ConnectionError("refused")
        return real(uri)

    monkeypatch.setattr(tracking, "mlflow_client", sometimes)
    with drain(tmp_path, tracker):
        record(tmp_path, 1, 2)
        back.set()
        record(tmp_path, 3)
    assert history(tmp_path, tracker) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_more_points_than_one_call_takes_arrive(tmp_path, tracker):
    record(tmp_path, *range(1200))
    with drain(tmp_path, tracker, **{f"p{i}": i for i in range(250)}):
        pass
    assert len(history(tmp_path, tracker)) == 1200
    assert len(tracking.mlflow_client(tracker.uri).get_run(run_id(tmp_path)).data.params) == 251


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path):
    record(tmp_path, 1)
    with open(tmp_path / tracking.OUTBOX, "a") as file:
        file.write('{"time": 1, "step": 2, "metr')
    record(tmp_path, 3)
    records, _ = tracking._records(tmp_path, 0)
    assert [each["step"] for each in records] == [1, 3]


def test_a_half_written_line_is_left_for_the_next_pass(tmp_path):
    record(tmp_path, 1)
    with open(tmp_path / tracking.OUTBOX, "a") as file:
        file.write('{"time": 1, "step": 2,')
        file.flush()
        records, end = tracking._records(tmp_path, 0)
        file.write(' "metrics": {}}\n')
    assert [each["step"] for each in records] == [1]
    assert [each["step"] for each in tracking._records(tmp_path, end)[0]] == [2]


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(2), torch.tensor(0.5), torch.tensor(3), True, 7])
def test_any_scalar_becomes_a_plain_number(tmp_path, value):
    with Outbox(tmp_path) as outbox:
        outbox.metrics(1, {"x": value, "gone": float("nan"), "far": np.inf})
    (line,) = [json.loads(line) for line in (tmp_path / tracking.OUTBOX).read_text().splitlines() if line]
    assert line["metrics"] == {"x": float(value)}


def test_other_ranks_write_nothing(tmp_path):
    with Outbox(tmp_path / "run", active=False) as outbox:
        outbox.metrics(1, {"x": 1.0})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_how_a_run_ended_is_recorded(tmp_path, tracker, error, status):
    def ending() -> None:
        with drain(tmp_path, tracker):
            raise error

    with pytest.raises(error):
        ending()
    assert tracking.mlflow_client(tracker.uri).get_run(run_id(tmp_path)).info.status == status


def test_a_full_disk_costs_no_step_and_no_number(tmp_path):
    """The kernel refuses to write beyond a size, as at the end of a disk; later there is room again."""
    code = f"""
import resource
from pathlib import Path
from xnemo_platform.tracking import Outbox
with Outbox(Path({str(tmp_path)!r})) as outbox:
    outbox.metrics(1, {{"loss": 1}})
    resource.setrlimit(resource.RLIMIT_FSIZE, (80, resource.RLIM_INFINITY))
    for step in (2, 3, 4):
        outbox.metrics(step, {{"loss": step}})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    outbox.metrics(5, {{"loss": 5}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "File too large); its numbers wait in memory" in done.stderr
    lines = (tmp_path / tracking.OUTBOX).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if line] == [1, 2, 3, 4, 5]
