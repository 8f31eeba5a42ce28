"""Nothing accepted is lost: a job goes on at its last finished window, wherever its files lie, with the same video."""

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from pipelines.serve import saved
from pipelines.serve.config import ServeConfig
from pipelines.serve.engine import Engine
from pipelines.serve.routes import create
from pipelines.serve.scheduler import Request, Scheduler
from tests.pipelines.serve.conftest import heads, working
from tests.pipelines.serve.test_scheduler import ask
from tests.pipelines.stores import bucket, s3_server
from tests.postgres import postgres
from xnemo.media.video import read_frames, write_video
from xnemo.model import XNeMo
from xnemo_platform import storage
from xnemo_platform.jobstore import JobStore


def begun(model: XNeMo, frames: int = 64, steps: int = 2) -> tuple[Scheduler, Request]:
    scheduler = Scheduler(model, 1)
    return scheduler, scheduler.prepare("job", *ask(model, 1, frames), steps, 2.0)


def finish(scheduler: Scheduler, request: Request) -> torch.Tensor:
    scheduler.join(request)
    while not request.finished:
        scheduler.advance()
    return request.latents


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "kept") if request.param == "local" else f"memory://kept-{tmp_path.name}"


def test_a_request_goes_on_at_its_last_finished_window_to_the_same_latents(model: XNeMo, folder: str) -> None:
    scheduler, request = begun(model, 44, steps=2)
    assert request.all_windows == 4
    scheduler.join(request)
    heirs = []
    for windows in range(5):
        heir, fresh = begun(model, 44, steps=2)
        saved.restore(folder, fresh, heir.schedule)
        assert fresh.done_windows == windows
        heirs.append((heir, fresh))
        if not request.finished:
            scheduler.advance()
            portion = saved.take(request)
            assert portion is not None
            saved.write(folder, portion)
        assert saved.take(request) is None
    for heir, fresh in heirs:
        assert torch.equal(finish(heir, fresh), request.latents)


def test_damaged_or_foreign_files_only_cost_time(model: XNeMo, folder: str) -> None:
    scheduler, request = begun(model)
    scheduler.join(request)
    for _ in range(5):
        scheduler.advance()
        portion = saved.take(request)
        assert portion
        saved.write(folder, portion)
    names = storage.list_files(folder)
    assert names == ["0001-00000.safetensors", "0001-00001.safetensors", "0001.safetensors"]
    storage.publish_bytes(storage.join(folder, names[1]), b"torn")
    storage.publish_bytes(storage.join(folder, "0002.safetensors"), b"{}")
    storage.publish_bytes(storage.join(folder, "notes.txt"), b"?")
    heir, fresh = begun(model)
    saved.restore(folder, fresh, heir.schedule)
    assert fresh.done_windows == 4
    assert torch.equal(finish(heir, fresh), finish(*begun(model)))


@pytest.fixture
def long_drive(tmp_path: Path) -> Path:
    return write_video(tmp_path / "long.mp4", heads(9, 2, 60), 25)


@pytest.fixture
def own(config: ServeConfig, tmp_path: Path) -> ServeConfig:
    return config.model_copy(update={"folder": str(tmp_path / "s"), "save_s": 0.0, "lease_s": 2.0})


def video(client: TestClient, link: str, path: Path) -> np.ndarray:
    path.write_bytes(client.get(link + "/video").content)
    return read_frames(path)


def died(engine: Engine) -> None:
    """As after SIGKILL: nothing is released, nothing more is written."""
    engine.store.release = lambda job: None  # type: ignore[method-assign]
    engine._keep = lambda *_: None  # type: ignore[method-assign]
    engine.stop()


def until(store: JobStore, job_id: str, enough: int) -> None:
    end = time.monotonic() + 120
    while store.get(job_id).units_done < enough:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.fault
def test_a_job_taken_over_begins_where_it_was_and_ends_with_the_same_video(
    own: ServeConfig, portrait: Path, long_drive: Path, tmp_path: Path
) -> None:
    with TestClient(create(own)) as client:
        store = JobStore(own.store_url)
        sent = {"portrait": portrait.read_bytes(), "driving": long_drive.read_bytes()}
        whole = client.post("/v1/animations", files=sent, data={"steps": "25"}).json()
        first = Engine(own.model_copy(update={"active": 1}))
        first.start()
        end = time.monotonic() + 120
        while client.get(whole["links"]["self"]).json()["state"] != "done":
            assert time.monotonic() < end
            time.sleep(0.05)
        broken = client.post("/v1/animations", files=sent, data={"steps": "25"}).json()
        until(store, broken["id"], 20)
        died(first)
        seen = store.get(broken["id"]).units_done
        second = Engine(own)
        second.start()
        begun_at: list[int] = []

        def watch() -> None:
            while not begun_at and not second._stop.is_set():
                work = second._works.get(broken["id"])
                if work and work.request:
                    begun_at.append(work.request.done_windows)
                time.sleep(0.002)

        thread = threading.Thread(target=watch)
        thread.start()
        while client.get(broken["links"]["self"]).json()["state"] != "done":
            assert time.monotonic() < end + 120
            time.sleep(0.05)
        second.stop()
        thread.join()
        assert store.get(broken["id"]).attempts == 2
        assert begun_at[0] >= min(seen, 20)
        same = video(client, whole["links"]["self"], tmp_path / "a.mp4")
        again = video(client, broken["links"]["self"], tmp_path / "b.mp4")
        assert np.array_equal(same, again)
        part = client.get(broken["links"]["self"] + "/video", headers={"Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
        left = storage.list_files(storage.join(own.storage_uri, "jobs", broken["id"]))
        assert not [name for name in left if name.startswith("kept")]


@pytest.mark.slow
@pytest.mark.fault
def test_replicas_on_two_machines_share_postgres_and_s3_and_one_may_die(
    own: ServeConfig, portrait: Path, long_drive: Path, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place, s3_server():
        Path(place).chmod(0o755)
        with postgres(Path(place, "pg")) as server:
            shared = own.model_copy(update={"store": server.url, "storage": bucket(), "active": 1})
            here, there = (shared.model_copy(update={"folder": str(tmp_path / name)}) for name in ("here", "there"))
            first, sent = Engine(here), {"portrait": portrait.read_bytes(), "driving": long_drive.read_bytes()}
            first.start()
            with working(there) as second, TestClient(create(here)) as a, TestClient(create(there)) as b:
                store = JobStore(server.url)
                jobs = [client.post("/v1/animations", files=sent, data={"steps": "15"}).json() for client in (a, b, a)]
                end = time.monotonic() + 120
                while not all({(job := store.get(one["id"])).state, job.units_done > 4} == {"running", True}
                              for one in jobs[:2]):  # fmt: skip
                    assert time.monotonic() < end
                    time.sleep(0.02)
                assert {store.get(one["id"]).worker for one in jobs[:2]} == {first.name, second.name}
                died(first)
                while {store.get(one["id"]).state for one in jobs} != {"done"}:
                    assert time.monotonic() < end + 120
                    time.sleep(0.05)
                assert sorted(store.get(one["id"]).attempts for one in jobs) == [1, 1, 2]
                made = [video(b, one["links"]["self"], tmp_path / f"{one['id']}.mp4") for one in jobs]
                assert np.array_equal(made[0], made[1])
                assert np.array_equal(made[0], made[2])
                part = a.get(jobs[0]["links"]["self"] + "/video", headers={"Range": "bytes=4-7"})
                assert (part.status_code, part.content) == (206, b"ftyp")
                assert not [path for path in (tmp_path / "here", tmp_path / "there") if (path / "jobs").exists()]


@pytest.mark.slow
@pytest.mark.fault
def test_a_job_store_that_is_away_for_a_while_loses_no_job(
    config: ServeConfig, portrait: Path, driving: Path, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        with postgres(Path(place, "pg")) as server:
            own = config.model_copy(update={"folder": str(tmp_path), "store": server.url})
            with working(own) as engine, TestClient(create(own), raise_server_exceptions=False) as client:
                sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
                job = client.post("/v1/animations", files=sent, data={"steps": "60"}).json()
                until(engine.store, job["id"], 1)
                server.stop()
                away = client.get(job["links"]["self"])
                assert (away.status_code, away.headers["retry-after"]) == (503, "5")
                assert client.post("/v1/animations", files=sent).status_code == 503
                time.sleep(2)
                server.start()
                end = time.monotonic() + 120
                while (state := client.get(job["links"]["self"]).json())["state"] != "done":
                    assert time.monotonic() < end, state
                    time.sleep(0.1)
                assert engine.store.get(job["id"]).attempts == 1
