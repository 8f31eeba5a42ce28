"""Durable records of long jobs: what was accepted is never lost, whoever dies.

One table of jobs and one of workers, in sqlite or Postgres (`database`); every change of state is a single
statement. A worker holds a job by a lease and a fence token: a job whose lease ran out
is handed to the next worker with a higher fence, and the old holder's writes are refused from then on.
"""

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from xnemo_platform.database import Database
from xnemo_platform.errors import PlatformError

WAITING, HELD, ENDED = ("queued",), ("preparing", "running"), ("done", "failed", "cancelled")
SUBMIT = 7301  # the turn that submissions take, so that a full queue is full for all of them


class QueueFull(PlatformError):
    """As many jobs wait as the queue may hold."""


class OwnerFull(QueueFull):
    """The owner has as many unfinished jobs as he may have."""


class KeyReused(PlatformError):
    """An idempotency key came back with a different request."""


class JobLost(PlatformError):
    """The job was cancelled, deleted or taken over: its former holder must drop it."""


@dataclass(frozen=True)
class Job:
    """One record. Times are Unix seconds; `progress` is in [0, 1]; `eta_s` is None while unknown."""

    id: str
    kind: str
    owner: str
    """Whose it is; "" where nobody has to say who he is."""
    key: str | None
    fingerprint: str
    state: str
    stage: str
    progress: float
    eta_s: float | None
    units_done: int
    """Finished pieces of work (denoising windows), of `units_total`."""
    units_total: int
    attempts: int
    fence: int
    worker: str | None
    lease_until: float
    inputs: dict[str, Any]
    """What the job reads: role → URI."""
    options: dict[str, Any]
    result: dict[str, Any]
    """What the job wrote: role → URI, and facts about it."""
    error: str | None
    created: float
    updated: float

    @property
    def ended(self) -> bool:
        return self.state in ENDED


_META = sa.MetaData()
_JOBS = sa.Table(
    "jobs",
    _META,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("owner", sa.String(32), nullable=False, index=True),
    sa.Column("key", sa.String(200), unique=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("stage", sa.String(200), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("eta_s", sa.Float),
    sa.Column("units_done", sa.Integer, nullable=False),
    sa.Column("units_total", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(100)),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("updated", sa.Float, nullable=False),
)
_WORKERS = sa.Table(
    "workers",
    _META,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
    sa.Column("beat", sa.Float, nullable=False),
)


class JobStore:
    """The records behind one URL. Safe to use from many threads and processes at once."""

    def __init__(self, url: str, *, max_attempts: int = 3, clock: Callable[[], float] = time.time) -> None:
        self.max_attempts = max_attempts
        self._clock = clock
        self._database = Database(url, _META)

    def submit(
        self,
        kind: str,
        *,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any],
        fingerprint: str,
        key: str | None = None,
        limit: int | None = None,
        job_id: str | None = None,
        owner: str = "",
        owner_limit: int | None = None,
    ) -> tuple[Job, bool]:
        """Record a job as queued; returns it and whether it is new.

        The same `key` with the same `fingerprint` returns the first job. Raises `KeyReused` if the fingerprint
        differs, `QueueFull` if `limit` jobs wait already, `OwnerFull` if `owner` has `owner_limit` unfinished ones.
        """
        found = self._by_key(key, fingerprint)
        if found:
            return found, False
        now = self._clock()
        row: dict[str, Any] = {
            "id": job_id or new_id(), "kind": kind, "owner": owner, "key": key, "fingerprint": fingerprint,
            "state": "queued", "stage": "waiting", "progress": 0.0, "eta_s": None,
            "units_done": 0, "units_total": 0, "attempts": 0, "fence": 0, "worker": None, "lease_until": 0.0,
            "inputs": dict(inputs), "options": dict(options), "result": {}, "error": None,
            "created": now, "updated": now,
        }  # fmt: skip
        values = [sa.literal(row[column.name], column.type) for column in _JOBS.columns]
        room = sa.true() if limit is None else _count(_JOBS.c.state.in_(WAITING)) < limit
        own = _count(_JOBS.c.state.in_(WAITING + HELD), _JOBS.c.owner == owner)
        allowed = sa.true() if owner_limit is None else own < owner_limit
        insert = sa.insert(_JOBS).from_select(list(row), sa.select(*values).where(room, allowed))
        try:
            with self._database.begin(alone=SUBMIT) as connection:
                connection.execute(insert)
        except sa.exc.IntegrityError:
            found = self._by_key(key, fingerprint)
            if not found:
                raise
            return found, False
        job = self.find(row["id"])
        if job is None and owner_limit is not None and self.unfinished(owner) >= owner_limit:
            raise OwnerFull(f"{owner_limit} of your jobs are unfinished already; wait for one to end.")
        if job is None:
            raise QueueFull(f"the queue is full ({limit} jobs wait); try again later.")
        return job, True

    def find(self, job_id: str) -> Job | None:
        return self._one(sa.select(_JOBS).where(_JOBS.c.id == job_id))

    def find_key(self, key: str) -> Job | None:
        """The job that was submitted with an idempotency key."""
        return self._one(sa.select(_JOBS).where(_JOBS.c.key == key))

    def get(self, job_id: str) -> Job:
        """Like `find`, but an unknown id raises `JobLost`."""
        job = self.find(job_id)
        if job is None:
            raise JobLost(f"there is no job {job_id!r}.")
        return job

    def claim(self, worker: str, *, lease_s: float = 30.0) -> Job | None:
        """Hand the oldest waiting job, or one whose holder fell silent, to `worker`; None if there is none.

        A job that took its holder down `max_attempts` times is failed instead: it would do so for ever.
        """
        now = self._clock()
        silent = _JOBS.c.state.in_(HELD) & (_JOBS.c.lease_until < now)
        ready = _JOBS.c.state.in_(WAITING) | silent
        if self._one(sa.select(_JOBS).where(ready).limit(1)) is None:
            return None  # the usual answer to a worker that asks all the time; it costs no write
        self._write(
            sa.update(_JOBS)
            .where(silent, _JOBS.c.attempts >= self.max_attempts)
            .values(state="failed", stage="failed", updated=now, fence=_JOBS.c.fence + 1, eta_s=None,
                    error=f"given up after {self.max_attempts} attempts that ended without an answer.")
        )  # fmt: skip
        oldest = (
            sa.select(_JOBS.c.id)
            .where(ready)
            .order_by(_JOBS.c.created, _JOBS.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        return self._one(
            sa.update(_JOBS)
            .where(_JOBS.c.id == oldest)
            .values(
                state="preparing", stage="preparing", worker=worker, lease_until=now + lease_s, updated=now,
                attempts=_JOBS.c.attempts + 1, fence=_JOBS.c.fence + 1,
            )
            .returning(_JOBS)
        )  # fmt: skip

    def update(self, job: Job, *, lease_s: float = 30.0, **values: Any) -> Job:
        """Change a held job (state, stage, progress, …) and extend its lease.

        Raises `JobLost` if it is no longer ours: its holder must stop working on it.
        """
        now = self._clock()
        fresh = self._one(
            sa.update(_JOBS)
            .where(_JOBS.c.id == job.id, _JOBS.c.fence == job.fence, _JOBS.c.state.in_(HELD))
            .values(updated=now, lease_until=now + lease_s, **values)
            .returning(_JOBS)
        )
        if fresh is None:
            raise JobLost(f"job {job.id} was cancelled or taken over.")
        return fresh

    def finish(self, job: Job, result: Mapping[str, Any]) -> Job:
        """Mark a held job done. Only the holder of the newest fence can, so there is one result."""
        return self.update(job, state="done", stage="done", progress=1.0, eta_s=0.0, result=dict(result))

    def fail(self, job: Job, error: str) -> Job:
        return self.update(job, state="failed", stage="failed", eta_s=None, error=error)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended; one that has stays as it is. Returns the record."""
        self._write(
            sa.update(_JOBS)
            .where(_JOBS.c.id == job_id, _JOBS.c.state.in_(WAITING + HELD))
            .values(state="cancelled", stage="cancelled", eta_s=None, updated=self._clock(),
                    fence=_JOBS.c.fence + 1)
        )  # fmt: skip
        return self.get(job_id)

    def release(self, job: Job) -> None:
        """Give a held job back to the queue unharmed, as at a clean stop: the attempt does not count."""
        self._write(
            sa.update(_JOBS)
            .where(_JOBS.c.id == job.id, _JOBS.c.fence == job.fence, _JOBS.c.state.in_(HELD))
            .values(state="queued", stage="waiting", worker=None, lease_until=0.0, updated=self._clock(),
                    attempts=_JOBS.c.attempts - 1, fence=_JOBS.c.fence + 1)
        )  # fmt: skip

    def delete(self, job_id: str) -> None:
        self._write(sa.delete(_JOBS).where(_JOBS.c.id == job_id))

    def ended_before(self, moment: float) -> list[Job]:
        """Jobs that ended before `moment`: what retention may remove."""
        return self._all(sa.select(_JOBS).where(_JOBS.c.state.in_(ENDED), _JOBS.c.updated < moment))

    def recent(self, owner: str, kinds: tuple[str, ...], limit: int) -> list[Job]:
        """The owner's finished jobs of some kinds, newest first."""
        mine = (_JOBS.c.owner == owner) & _JOBS.c.kind.in_(kinds) & (_JOBS.c.state == "done")
        return self._all(sa.select(_JOBS).where(mine).order_by(_JOBS.c.created.desc()).limit(limit))

    def fences(self, ids: Collection[str]) -> dict[str, int]:
        """The fence of each of the ids that is a job: another one than its holder's says that he lost it."""
        query = sa.select(_JOBS.c.id, _JOBS.c.fence).where(_JOBS.c.id.in_(list(ids)))
        with self._database.begin() as connection:
            return {row.id: row.fence for row in connection.execute(query)}

    def unfinished(self, owner: str) -> int:
        """How many jobs of an owner wait or run."""
        return self._number(_count(_JOBS.c.state.in_(WAITING + HELD), _JOBS.c.owner == owner))

    def counts(self) -> dict[str, int]:
        """Number of jobs per state."""
        query = sa.select(_JOBS.c.state, sa.func.count()).group_by(_JOBS.c.state)
        with self._database.begin() as connection:
            return {state: count for state, count in connection.execute(query)}

    def ahead_of(self, job: Job) -> int:
        """How many jobs wait in front of this one."""
        older = (_JOBS.c.created < job.created) & _JOBS.c.state.in_(WAITING)
        return self._number(_count(older))

    def beat(self, worker: str, state: str, info: Mapping[str, Any]) -> None:
        """Record that a worker lives, in which state, and what it holds."""
        values = {"state": state, "info": dict(info), "beat": self._clock()}
        if not self._write(sa.update(_WORKERS).where(_WORKERS.c.name == worker).values(**values)):
            self._write(sa.insert(_WORKERS).values(name=worker, **values))

    def retire(self, worker: str) -> None:
        self._write(sa.delete(_WORKERS).where(_WORKERS.c.name == worker))

    def workers(self, *, within_s: float = 15.0) -> dict[str, dict[str, Any]]:
        """Workers heard of lately: name → {"state", **info}."""
        query = sa.select(_WORKERS).where(_WORKERS.c.beat >= self._clock() - within_s)
        with self._database.begin() as connection:
            return {row.name: {"state": row.state, **row.info} for row in connection.execute(query)}

    def close(self) -> None:
        self._database.close()

    def _by_key(self, key: str | None, fingerprint: str) -> Job | None:
        job = self.find_key(key) if key else None
        if job and job.fingerprint != fingerprint:
            raise KeyReused("this idempotency key was used for a different request; send a new key.")
        return job

    def _write(self, statement: sa.UpdateBase) -> int:
        with self._database.begin() as connection:
            return connection.execute(statement).rowcount

    def _number(self, query: sa.ScalarSelect[int]) -> int:
        with self._database.begin() as connection:
            return int(connection.execute(sa.select(query)).scalar_one())

    def _one(self, statement: sa.Executable) -> Job | None:
        found = self._all(statement)
        return found[0] if found else None

    def _all(self, statement: sa.Executable) -> list[Job]:
        with self._database.begin() as connection:
            return [Job(**row._mapping) for row in connection.execute(statement)]


def new_id() -> str:
    """A random id: unguessable, so that knowing an id is the right to see the job."""
    return uuid.uuid4().hex


def _count(*conditions: Any) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(_JOBS).where(*conditions).scalar_subquery()
