"""The engine loses nothing: what it was working on when it stopped is done by the next one."""

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import ServeConfig
from pipelines.serve.engine import Engine
from pipelines.serve.routes import create
from xnemo_platform.config import load_config
from xnemo_platform.jobstore import JobStore


@pytest.fixture
def own(config: ServeConfig, tmp_path: Path) -> ServeConfig:
    return config.model_copy(update={"folder": str(tmp_path)})


def until(store: JobStore, job_id: str, *states: str) -> None:
    end = time.monotonic() + 60
    while (job := store.get(job_id)).state not in states:
        assert time.monotonic() < end, job
        time.sleep(0.02)


@pytest.mark.slow
def test_a_stopped_engine_gives_its_job_to_the_next(own: ServeConfig, portrait: Path, driving: Path) -> None:
    store = JobStore(own.store_url)
    with TestClient(create(own)) as client:
        sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
        job = client.post("/v1/animations", files=sent, data={"steps": "100"}).json()
        first = Engine(own)
        first.start()
        until(store, job["id"], "running")
        first.stop()
        assert (store.get(job["id"]).state, store.get(job["id"]).attempts) == ("queued", 0)
        assert not store.workers()
        second = Engine(own)
        second.start()
        until(store, job["id"], "done")
        second.stop()
        assert client.get(job["links"]["self"] + "/video").status_code == 200


def test_ended_jobs_are_forgotten_after_their_time(own: ServeConfig, portrait: Path, driving: Path) -> None:
    engine = Engine(own.model_copy(update={"keep_hours": 1e-9}))
    with TestClient(create(own)) as client:
        sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
        job = client.post("/v1/animations", files=sent).json()
        client.delete(job["links"]["self"])
        engine.sweep()
        assert client.get(job["links"]["self"]).status_code == 404
    assert list(Path(own.folder, "jobs").iterdir()) == []


def test_the_shipped_configuration_is_valid() -> None:
    root = Path(__file__).parents[3]
    assert load_config(ServeConfig, root / "jobs/configs/serve.yaml", ["port=0"]).port == 0
