"""The engine loses nothing: what it was working on when it stopped is done by the next one."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import ServeConfig
from pipelines.serve.engine import Engine
from pipelines.serve.loaded import load
from pipelines.serve.media import Media
from pipelines.serve.routes import create
from xnemo_platform.config import load_config
from xnemo_platform.jobstore import JobStore


@pytest.fixture
def own(config: ServeConfig, tmp_path: Path) -> ServeConfig:
    return config.model_copy(update={"folder": str(tmp_path)})


@pytest.mark.parametrize(("asked", "size"), [(None, 1), (3, 3)])
def test_a_processor_takes_one_window_at_a_time_unless_told_otherwise(own: ServeConfig, asked: Any, size: int) -> None:
    assert load(own.model_copy(update={"windows_per_batch": asked})).scheduler.size == size


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


@pytest.mark.slow
def test_a_cancelled_job_holds_no_place_while_its_files_are_read(
    own: ServeConfig, portrait: Path, driving: Path
) -> None:
    reading, gate = threading.Event(), threading.Event()

    class SlowAtFirst(Media):
        def driving(self, *args: Any) -> Iterator[Any]:
            if not reading.is_set():
                reading.set()
                assert gate.wait(60)
            return super().driving(*args)

    engine = Engine(own.model_copy(update={"active": 1}), SlowAtFirst(own.model_copy(update={"media_workers": 2})))
    engine.start()
    with TestClient(create(own)) as client:
        sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
        first = client.post("/v1/animations", files=sent, data={"steps": "1"}).json()
        assert reading.wait(60)
        second = client.post("/v1/animations", files=sent, data={"steps": "1"}).json()
        client.delete(first["links"]["self"])
        until(engine.store, second["id"], "done")
        gate.set()
    engine.stop()
    assert JobStore(own.store_url).get(first["id"]).state == "cancelled"


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
