"""MLflow on a real Postgres, artifacts on a real S3 interface: what is recorded, refused, saved and restored."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import parts

from xnemo_platform import nodes, registry, storage, tracking
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import settings

ROOT = Path(__file__).resolve().parents[2]
PASSWORD, SECRET = "pg-4f1d9c7e55aa", "s3-a81c22d0347b"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Variables of a client, the server's address among them."""
    folder, was = tmp_path_factory.mktemp("world"), dict(os.environ)
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(parts.postgres(PASSWORD))
        env |= stack.enter_context(parts.s3(folder, "somebody", SECRET))
        env |= {
            "XNEMO_TRACKING_URI": stack.enter_context(parts.mlflow(folder, env)),
            "XNEMO_HOME": str(folder / "home"),
        }
        os.environ.update(env | {"XNEMO_STORAGE": f"s3://{parts.BUCKET}"})
        yield env
    os.environ.clear()
    os.environ.update(was)


def recorded(folder: Path, uri: str, **params: str) -> str:
    """A run in MLflow with three numbers, a file, and these parameters."""
    (folder / tracking.ARTIFACTS).mkdir(parents=True)
    (folder / tracking.ARTIFACTS / "note.txt").write_text("kept in the bucket")
    drain = tracking.Drain(folder, "run", tracking.Tracker(uri=uri, experiment="e"), params, {"kind": "test"})
    with drain, tracking.Outbox(folder) as outbox:
        for step in (1, 2, 3):
            outbox.metrics(step, {"loss/loss": 1 / step})
    found = tracking.run_id(folder)
    assert found
    return found


@pytest.mark.slow
def test_a_runs_numbers_files_and_models_arrive_and_come_back(world, tmp_path, capsys):
    uri = world["XNEMO_TRACKING_URI"]
    run = recorded(tmp_path / "run", uri, store=f"postgresql://a:{PASSWORD}" + "@h/d", lr="1e-5")
    client = tracking.mlflow_client(uri)
    assert [metric.value for metric in client.get_metric_history(run, "loss/loss")] == [1, 1 / 2, 1 / 3]
    assert re.search(rf"^MLflow: {uri}/#/experiments/\d+/runs/{run}$", capsys.readouterr().out, re.MULTILINE)
    assert client.get_run(run).data.params == {"store": "postgresql://***@h/d", "lr": "1e-5"}
    assert "note.txt" in [item.path for item in client.list_artifacts(run)]
    assert any(name.endswith("note.txt") for name in storage.list_files(f"s3://{parts.BUCKET}/mlflow"))

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"weights")
    assert registry.publish(tmp_path / "model", "xnemo", "champion", run_id=run) == "1"
    found = registry.resolve("xnemo", "champion")
    assert (found.folder / "weights.safetensors").read_bytes() == b"weights"


@pytest.mark.slow
def test_a_server_that_does_not_know_its_name_is_told_from_one_that_is_away(world):
    name = socket.gethostname()
    try:
        if socket.gethostbyname(name) != "127.0.0.1":
            pytest.skip("this machine's name is not the loopback's")
    except OSError:
        pytest.skip("this machine's name leads nowhere")
    port = world["XNEMO_TRACKING_URI"].rsplit(":", 1)[1]
    places = settings()
    said = nodes.tracking(places.model_copy(update={"tracking_uri": f"http://{name}:{port}"}))
    assert "403" in said
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in said
    assert "403" not in nodes.tracking(places.model_copy(update={"tracking_uri": "http://127.0.0.1:9"}))
    assert nodes.tracking(places) == ""


@pytest.mark.slow
def test_what_the_runbook_saves_can_be_restored(world, tmp_path):
    """The commands are the runbook's own."""
    run = recorded(tmp_path / "run", world["XNEMO_TRACKING_URI"])
    text = (ROOT / "docs/runbook.md").read_text()
    (block,) = re.findall(r"```sh backup\n(.*?)```", text, re.DOTALL)
    env = dict(os.environ) | {"BACKUP": str(tmp_path)}
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], env=env, check=True, capture_output=True, text=True)
    ask = ["psql", "-d", "restored", "-tAc", f"select count(*) from metrics where run_uuid = '{run}'"]
    assert subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout.strip() == "3"


@pytest.mark.slow
@pytest.mark.fault
def test_a_bucket_without_rights_is_one_sentence(tmp_path, monkeypatch):
    with parts.s3(tmp_path, "nobody", SECRET, free_calls=1) as store:
        for name, value in store.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(PlatformError, match=r"no right to it .* give this user or the nodes' role") as caught:
            storage.publish_bytes(f"s3://{parts.BUCKET}/x", b"x")
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)
    s3fs.S3FileSystem.clear_instance_cache()
