"""The machine of the Ray head dies with all that ran on it: what was accepted is done after the next start."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.serve.config import ServeConfig
from tests.pipelines.serve.conftest import heads
from xnemo.client import Client
from xnemo.media.video import read_frames, write_video
from xnemo_platform import cluster
from xnemo_platform.jobstore import JobStore


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_head_loses_no_job(config: ServeConfig, portrait: Path, tmp_path: Path) -> None:
    driving = write_video(tmp_path / "long.mp4", heads(9, 2, 60), 25)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = config.model_copy(update={"folder": str(tmp_path / "serve")})
    Path(served.folder).mkdir()
    client, store = Client(f"http://127.0.0.1:{port}"), JobStore(served.store_url)

    def start() -> cluster.Head:
        head = cluster.start(tmp_path / "cluster", 4)
        words = [f"folder={served.folder}", f"port={port}", "lease_s=4", "save_s=0", "media_workers=1", "device=cpu"]
        command = [sys.executable, "-m", "jobs.cli", "serve", "--model", served.model, *words]
        environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{head.port}"}
        subprocess.run(command, env=environment, check=True, timeout=400, stdout=subprocess.DEVNULL)
        return head

    head = start()
    try:
        job = client.post("/v1/animations", {"portrait": portrait, "driving": driving}, {"steps": 100})
        end = time.monotonic() + 120
        while store.get(job["id"]).units_done < 50:
            assert time.monotonic() < end, store.get(job["id"])
            time.sleep(0.02)
        os.killpg(head.pid, signal.SIGKILL)
        os.waitpid(head.pid, 0)  # we started it: until we ask, it is listed
        assert not store.get(job["id"]).ended
        kept = len(list(Path(served.folder, "jobs", job["id"]).glob("kept-*/*.safetensors")))
        assert kept >= 2  # the motion, and finished windows
        start()
        done = client.finish(job)
        assert store.get(job["id"]).attempts == 2
        again = client.finish(client.post("/v1/animations", {"portrait": portrait, "driving": driving}, {"steps": 100}))
        made = [client.download(each["links"]["video"], tmp_path / f"{each['id']}.mp4") for each in (done, again)]
        assert np.array_equal(read_frames(made[0]), read_frames(made[1]))
    finally:
        cluster.stop(tmp_path / "cluster")
