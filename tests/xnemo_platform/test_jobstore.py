"""The job store: nothing accepted is lost, nothing is done twice, whoever dies."""

import multiprocessing
import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.postgres import Postgres, postgres
from tests.xnemo_platform.conftest import Clock
from xnemo_platform.database import StoreAway
from xnemo_platform.errors import PlatformError
from xnemo_platform.jobstore import JobLost, JobStore, KeyReused, OwnerFull, QueueFull


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # its server must be able to reach it
        os.chmod(folder, 0o755)
        with postgres(Path(folder, "pg")) as server:
            yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server: Postgres = request.getfixturevalue("server")
    name = f"db{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return server.url.removesuffix("postgres") + name


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(url, clock=clock)
    yield store
    store.close()


def submit(store: JobStore, **changes: Any) -> Any:
    call: dict[str, Any] = {"inputs": {"a": "file:a"}, "options": {"steps": 2}, "fingerprint": "f"} | changes
    return store.submit("animation", **call)


def test_a_submitted_job_is_queued_with_what_was_sent(store: JobStore) -> None:
    job, new = submit(store)
    assert new
    assert store.get(job.id) == job
    assert (job.state, job.inputs, job.options, job.attempts) == ("queued", {"a": "file:a"}, {"steps": 2}, 0)


def test_the_same_key_returns_the_first_job(store: JobStore) -> None:
    first, _ = submit(store, key="k")
    second, new = submit(store, key="k")
    assert (second, new) == (first, False)


def test_a_key_of_another_request_is_refused(store: JobStore) -> None:
    submit(store, key="k")
    with pytest.raises(KeyReused, match="different request"):
        submit(store, key="k", fingerprint="g")


def test_parallel_submits_with_one_key_make_one_job(store: JobStore) -> None:
    with ThreadPoolExecutor(10) as pool:
        made = list(pool.map(lambda _: submit(store, key="k"), range(20)))
    assert len({job.id for job, _ in made}) == 1
    assert sum(new for _, new in made) == 1


def test_a_full_queue_refuses_and_has_room_again_after_a_claim(store: JobStore) -> None:
    submit(store, limit=1)
    with pytest.raises(QueueFull, match="1 jobs wait"):
        submit(store, limit=1)
    store.claim("w")
    assert submit(store, limit=1)[1]


def test_parallel_submits_never_overfill_the_queue(store: JobStore) -> None:
    def try_it(_: int) -> bool:
        try:
            return bool(submit(store, limit=3)[1])
        except QueueFull:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(24))) == 3


def test_one_owner_cannot_fill_the_queue(store: JobStore) -> None:
    submit(store, owner="a", owner_limit=1, limit=9)
    with pytest.raises(OwnerFull, match="unfinished"):
        submit(store, owner="a", owner_limit=1, limit=9)
    assert submit(store, owner="b", owner_limit=1, limit=9)[1]


def test_finished_jobs_are_listed_for_their_owner_newest_first(store: JobStore, clock: Clock) -> None:
    for owner in "aab":
        clock.now += 1
        submit(store, owner=owner)
        held = store.claim("w")
        assert held
        store.finish(held, {})
    submit(store, owner="a")
    found = store.recent("a", ("animation",), 9)
    assert [job.owner for job in found] == ["a", "a"]
    assert found[0].created > found[1].created


def test_a_store_that_is_away_says_so_and_comes_back(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        with postgres(Path(folder, "pg")) as server:
            store = JobStore(server.url.replace("tester@", "tester:secret@"))
            job, _ = submit(store)
            server.stop()
            with pytest.raises(StoreAway, match="does not answer"):
                store.find(job.id)
            with pytest.raises(PlatformError, match="cannot be opened") as refused:
                JobStore(server.url.replace("tester@", "tester:secret@"))
            assert "secret" not in str(refused.value)
            server.start()
            assert store.find(job.id) == job
            store.close()


def test_parallel_claims_hand_each_job_out_once(store: JobStore, clock: Clock) -> None:
    ids = []
    for _ in range(5):
        clock.now += 1
        ids.append(submit(store)[0].id)
    with ThreadPoolExecutor(5) as pool:
        claimed = list(pool.map(lambda n: store.claim(f"w{n}"), range(8)))
    assert sorted(job.id for job in claimed if job) == sorted(ids)


def test_the_oldest_job_goes_first(store: JobStore, clock: Clock) -> None:
    first, _ = submit(store)
    clock.now += 1
    second, _ = submit(store)
    assert store.ahead_of(second) == 1
    assert store.claim("w").id == first.id  # type: ignore[union-attr]


def test_progress_is_kept_and_extends_the_lease(store: JobStore, clock: Clock) -> None:
    submit(store)
    job = store.claim("w", lease_s=10)
    assert job
    clock.now += 8
    job = store.update(job, lease_s=10, state="running", progress=0.5, eta_s=3.0, units_done=2, units_total=4)
    clock.now += 8
    assert store.claim("other") is None
    kept = store.get(job.id)
    assert (kept.state, kept.progress, kept.eta_s, kept.units_done) == ("running", 0.5, 3.0, 2)


def test_a_silent_holder_loses_the_job_and_its_late_writes_are_refused(store: JobStore, clock: Clock) -> None:
    submit(store)
    old = store.claim("dead", lease_s=10)
    clock.now += 11
    new = store.claim("alive", lease_s=10)
    assert old
    assert new
    assert (new.id, new.worker, new.attempts) == (old.id, "alive", 2)
    with pytest.raises(JobLost):
        store.finish(old, {"video": "stale"})
    store.finish(new, {"video": "fresh"})
    assert store.get(new.id).result == {"video": "fresh"}


def test_a_job_that_kills_its_holders_is_given_up(store: JobStore, clock: Clock) -> None:
    job, _ = submit(store)
    for _ in range(3):
        assert store.claim("w", lease_s=1)
        clock.now += 2
    assert store.claim("w") is None
    assert store.get(job.id).state == "failed"
    assert "3 attempts" in (store.get(job.id).error or "")


def test_a_released_job_waits_again_and_its_attempt_does_not_count(store: JobStore) -> None:
    submit(store)
    job = store.claim("w")
    assert job
    store.release(job)
    again = store.claim("w")
    assert again
    assert (again.id, again.attempts) == (job.id, 1)


def test_a_cancelled_job_stays_cancelled_whatever_its_holder_says(store: JobStore) -> None:
    job, _ = submit(store)
    held = store.claim("w")
    assert held
    assert store.cancel(job.id).state == "cancelled"
    with pytest.raises(JobLost):
        store.update(held, progress=0.9)
    assert store.get(job.id).state == "cancelled"


def test_an_ended_job_cannot_be_cancelled(store: JobStore) -> None:
    submit(store)
    held = store.claim("w")
    assert held
    store.finish(held, {})
    assert store.cancel(held.id).state == "done"


def test_a_failed_job_carries_its_reason(store: JobStore) -> None:
    submit(store)
    held = store.claim("w")
    assert held
    assert store.fail(held, "no face in p.png").error == "no face in p.png"


def test_retention_sees_ended_jobs_only(store: JobStore, clock: Clock) -> None:
    submit(store)
    held = store.claim("w")
    waiting, _ = submit(store)
    assert held
    store.finish(held, {})
    clock.now += 100
    assert [job.id for job in store.ended_before(clock.now)] == [held.id]
    store.delete(held.id)
    assert store.find(held.id) is None
    assert store.find(waiting.id)


def test_an_unknown_job_is_named(store: JobStore) -> None:
    with pytest.raises(JobLost, match="'nope'"):
        store.get("nope")


def test_workers_are_listed_while_they_beat(store: JobStore, clock: Clock) -> None:
    store.beat("a", "loading", {})
    store.beat("a", "ready", {"model": "m@1"})
    assert store.workers() == {"a": {"state": "ready", "model": "m@1"}}
    clock.now += 60
    assert store.workers() == {}


def test_an_unusable_url_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be opened"):
        JobStore(f"sqlite:///{tmp_path}/absent/folder/jobs.db")


def _claim_and_die(url: str) -> None:
    job = JobStore(url).claim("doomed", lease_s=0.0)
    assert job
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_survives_the_death_of_the_process_that_ran_it(url: str) -> None:
    job, _ = submit(JobStore(url))
    child = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(url,))
    child.start()
    child.join(60)
    assert child.exitcode == -9
    taken = JobStore(url).claim("heir")
    assert taken
    assert (taken.id, taken.attempts) == (job.id, 2)
