"""The service on a real Ray cluster, from start to a killed engine."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
import ray

from pipelines.serve import api
from pipelines.serve.config import ServeConfig
from xnemo.client import Client
from xnemo.media.video import read_frames
from xnemo_platform.errors import PlatformError

pytestmark = pytest.mark.slow
TEMPORARY = "/tmp/r_serve"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=TEMPORARY)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def url(cluster: None, config: ServeConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    yield api.start(config.model_copy(update={"folder": str(folder), "port": 0, "lease_s": 4.0, "save_s": 0.0}))
    api.stop()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def ask(client: httpx2.Client, portrait: Path, driving: Path, **options: Any) -> dict[str, Any]:
    sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
    answer = client.post("/v1/animations", files=sent, data={name: str(value) for name, value in options.items()})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def wait(client: httpx2.Client, job: dict[str, Any], until: tuple[str, ...] = ("done",)) -> dict[str, Any]:
    end = time.monotonic() + 180
    while (job := client.get(job["links"]["self"]).json())["state"] not in until:
        assert time.monotonic() < end, job
        assert job["state"] != "failed", job
        time.sleep(0.05)
    return job


def test_a_damaged_model_is_one_sentence(cluster: None, config: ServeConfig, tmp_path: Path) -> None:
    model = Path(shutil.copytree(config.model, tmp_path / "model"))
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    changed = config.model_copy(update={"folder": str(tmp_path / "serve"), "model": str(model), "port": 0})
    with pytest.raises(PlatformError, match=r"did not come up: .*is damaged") as error:
        api.start(changed)
    assert "Traceback" not in str(error.value)


def test_an_animation_goes_through_the_cluster(client: httpx2.Client, portrait: Path, driving: Path) -> None:
    assert client.get("/readyz").status_code == 200
    job = ask(client, portrait, driving, steps=2)
    with client.stream("GET", job["links"]["events"]) as stream:
        states = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert (states[0]["state"] != "done", states[-1]["state"]) == (True, "done")
    job = wait(client, job)
    video = client.get(job["links"]["video"], headers={"Range": "bytes=4-7"})
    assert (video.status_code, video.content) == (206, b"ftyp")


def test_requests_are_worked_on_together(client: httpx2.Client, portrait: Path, driving: Path) -> None:
    jobs = [ask(client, portrait, driving, steps=3, seed=seed) for seed in range(4)]
    assert [wait(client, job)["frames"] for job in jobs] == [10] * 4


def test_a_cancelled_job_stops(client: httpx2.Client, portrait: Path, driving: Path) -> None:
    job = wait(client, ask(client, portrait, driving, steps=100), ("running",))
    client.delete(job["links"]["self"])
    assert wait(client, job, ("cancelled",))["state"] == "cancelled"
    wait(client, ask(client, portrait, driving, steps=1))


@pytest.mark.fault
@pytest.mark.parametrize("victim", ["engine", "media", "decoder", "proxy"])
def test_an_accepted_job_survives_a_kill_with_the_same_video(
    url: str, client: httpx2.Client, portrait: Path, driving: Path, tmp_path: Path, victim: str
) -> None:
    job = ask(client, portrait, driving, steps=60, seed=5)
    patient = Client(url)
    if victim in ("media", "decoder"):
        wait(client, job, ("preparing", "running"))
        media = ours("ServeReplica:xnemo:media")
        os.kill(media if victim == "media" else decoder(media), signal.SIGKILL)
    else:
        wait(client, job, ("running",))
        os.kill(engine_pid(client) if victim == "engine" else ours("ProxyActor"), signal.SIGKILL)
    done = patient.finish(job)
    assert done["frames"] == 10
    made = patient.download(done["links"]["video"], tmp_path / "after.mp4")
    again = patient.finish(ask(client, portrait, driving, steps=60, seed=5))
    calm = patient.download(again["links"]["video"], tmp_path / "calm.mp4")
    assert np.array_equal(read_frames(made), read_frames(calm))


def test_a_client_that_goes_away_in_mid_download_harms_nobody(
    url: str, client: httpx2.Client, portrait: Path, driving: Path
) -> None:
    job = wait(client, ask(client, portrait, driving, steps=1))
    port = int(url.rsplit(":", 1)[1])
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(f"GET {job['links']['video']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            gone.recv(100)
    assert client.get(job["links"]["video"]).status_code == 200


def test_the_measures_are_on_rays_prometheus_endpoint(client: httpx2.Client, portrait: Path, driving: Path) -> None:
    wait(client, ask(client, portrait, driving, steps=1))
    client.get("/v1/animations/" + "0" * 32)
    [node] = ray.nodes()
    wanted = {"queue_wait_seconds", "batch_windows", "step_seconds", "frames", "jobs", "rejects", "queue_length"}
    end = time.monotonic() + 60
    while wanted:
        text = httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10).text
        wanted = {name for name in wanted if f"ray_xnemo_{name}" not in text}
        assert time.monotonic() < end, wanted
        time.sleep(0.5)


def engine_pid(client: httpx2.Client) -> int:
    """The living engine's process; one that was killed is listed until its lease is over."""
    names = {model["engine"] for model in client.get("/v1/models").json()["models"]}
    [pid] = [pid for name in names if psutil.pid_exists(pid := int(name.split("-")[-2]))]
    return pid


def decoder(media: int) -> int:
    """The child process that decodes for a media replica."""
    return next(child.pid for child in psutil.Process(media).children() if "sandbox" in " ".join(child.cmdline()))


def ours(name: str) -> int:
    """The worker process of that name in the cluster of these tests, and in no other."""
    for process in psutil.process_iter(["cmdline"]):
        if name in " ".join(process.info["cmdline"] or []):
            parent = process.parent()
            if parent and TEMPORARY in " ".join(parent.cmdline()):
                return process.pid
    raise AssertionError(f"no {name} runs here")
