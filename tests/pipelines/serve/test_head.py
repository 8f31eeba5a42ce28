"""The Ray head dies with all that ran on it: what was accepted is done after the next start."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from pipelines.serve.config import ServeConfig
from tests.pipelines.serve.conftest import heads
from xnemo.client import Client
from xnemo.media.video import read_frames, write_video
from xnemo_platform.jobstore import JobStore


@contextmanager
def serving(command: list[str], port: int) -> Iterator[None]:
    """The command with a Ray head of its own, ready; SIGKILL for both at the end, and gone when it returns."""
    service = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 400
        while not _ready(port):
            assert service.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        yield
    finally:
        os.killpg(service.pid, signal.SIGKILL)
        service.wait()
        end = time.monotonic() + 60
        while _listens(port):  # Ray's own processes outlive the driver by moments, and the proxy would answer for it
            assert time.monotonic() < end
            time.sleep(0.2)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=10).ok
    except requests.RequestException:
        return False


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_head_loses_no_job(config: ServeConfig, portrait: Path, tmp_path: Path) -> None:
    sent = {"portrait": portrait, "driving": write_video(tmp_path / "long.mp4", heads(9, 2, 60), 25)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = config.model_copy(update={"folder": str(tmp_path / "serve")})
    words = [f"folder={own.folder}", f"samples={own.samples}", f"port={port}", "lease_s=4", "save_s=0", "device=cpu"]
    command = [sys.executable, "-m", "jobs.cli", "serve", "--model", own.model, *words]
    client = Client(f"http://127.0.0.1:{port}")
    with serving(command, port):
        store, end = JobStore(own.store_url), time.monotonic() + 120
        job = client.post("/v1/animations", sent, {"steps": 100})
        while store.get(job["id"]).units_done < 50:
            assert time.monotonic() < end, store.get(job["id"])
            time.sleep(0.02)
    assert not store.get(job["id"]).ended
    assert len(list(Path(own.folder, "jobs", job["id"]).glob("kept-*/*"))) >= 2  # the motion, and finished windows
    with serving(command, port):
        done = client.finish(job)
        assert store.get(job["id"]).attempts == 2
        again = client.finish(client.post("/v1/animations", sent, {"steps": 100}))
        made = [client.download(each["links"]["video"], tmp_path / f"{each['id']}.mp4") for each in (done, again)]
    assert np.array_equal(*(read_frames(video) for video in made))
