"""Where work is accepted and looked up: who asks, files below the job's URI, a record in the job store."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pipelines.serve.config import ServeConfig
from pipelines.serve.files import JobFiles
from pipelines.serve.problems import Problem
from pipelines.serve.uploads import Received
from xnemo_platform import storage
from xnemo_platform.access import Access
from xnemo_platform.jobstore import Job, JobStore, KeyReused, OwnerFull, QueueFull
from xnemo_platform.sandbox import Limits as SandboxLimits
from xnemo_platform.sandbox import Sandbox

MOTION_KINDS = ("motion", "outpaint", "interpolate")


@dataclass(frozen=True)
class Caller:
    """Who asks: the id of the key, "" where none is needed."""

    owner: str
    per_minute: int | None = None
    per_day: int | None = None


class Status(BaseModel):
    """A job as the outside sees it. progress in [0, 1]; eta_s: seconds left, null while unknown; ahead: jobs that wait
    in front of it."""

    id: str
    kind: str
    state: str
    stage: str
    progress: float
    eta_s: float | None
    ahead: int
    created: float
    updated: float
    options: dict[str, Any]
    error: str | None = None
    frames: int | None = None
    fps: float | None = None
    model: str | None = None
    links: dict[str, str]


class Desk:
    """Accepts work: files below the job's URI, a record into the store."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        Path(config.folder).mkdir(parents=True, exist_ok=True)
        self.store = JobStore(config.store_url)
        self.access = Access(config.store_url)
        self.files = JobFiles(config.storage_uri, Path(config.folder, "scratch"))
        self.sandbox = Sandbox(SandboxLimits(seconds=60))

    def caller(self, request: Request) -> Caller:
        """Who sent the request. Raises Problem 401 where a key is needed and none, or a wrong one, came."""
        if not self.config.require_key:
            return Caller("")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = self.access.whose(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Problem(401, "send a valid key: Authorization: Bearer <key>.", {"WWW-Authenticate": "Bearer"})
        limits = self.config.limits
        return Caller(key.id, key.per_minute or limits.per_minute, key.per_day or limits.per_day)

    def admit(self, request: Request) -> Caller:
        """The caller of a request that changes something: noted in the audit log, and bounded by the key's rate."""
        caller = self.caller(request)
        path = request.scope["route"].path if "route" in request.scope else request.url.path
        action, client = f"{request.method} {path}", request.client.host if request.client else ""
        rate = (caller.per_minute, caller.per_day) if request.method == "POST" else (None, None)
        line, wait = self.access.admit(caller.owner, client, action, *rate)
        if wait:
            raise Problem(429, "this key has asked for as much as it may; try again later.",
                          {"Retry-After": str(math.ceil(wait))})  # fmt: skip
        request.state.line = line
        return caller

    def refuse_when_full(self, caller: Caller, key: str | None) -> None:
        """Before the body is read: 429 if the queue is full, unless the request may be a repetition."""
        if key and self.store.find_key(_own_key(caller, key)):
            return
        if self.store.counts().get("queued", 0) >= self.config.limits.queue:
            raise self.full()

    def full(self) -> Problem:
        return Problem(429, f"the queue is full ({self.config.limits.queue} jobs wait); try again later.",
                       {"Retry-After": "10"})  # fmt: skip

    def submit(
        self,
        caller: Caller,
        kind: str,
        job_id: str,
        inputs: Mapping[str, Path | str],
        options: BaseModel,
        digests: Mapping[str, str],
        key: str | None,
    ) -> Job:
        """Store the inputs (files of this machine, or URIs of motions, which are copied: their job may be removed) and
        record the job. The same key and request give the first job back, and its files are not kept twice."""
        chosen = options.model_dump(mode="json")
        what = {"kind": kind, "options": chosen, "inputs": dict(digests)}
        fingerprint = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        new = False
        try:
            stored = {role: self._store(job_id, role, source) for role, source in inputs.items()}
            job, new = self.store.submit(
                kind, inputs=stored, options=chosen, fingerprint=fingerprint,
                key=_own_key(caller, key) if key else None, limit=self.config.limits.queue, job_id=job_id,
                owner=caller.owner, owner_limit=self.config.limits.unfinished if caller.owner else None,
            )  # fmt: skip
        except KeyReused as error:
            raise Problem(409, str(error)) from None
        except OwnerFull as error:
            raise Problem(429, str(error), {"Retry-After": "10"}) from None
        except QueueFull:
            raise self.full() from None
        finally:
            if not new:
                self.files.remove(job_id)
        return job

    def find(self, caller: Caller, job_id: str, *kinds: str) -> Job:
        """The caller's job; Problem 404 for any other's, as if it were not there."""
        job = self.store.find(job_id)
        if job is None or job.kind not in kinds or job.owner != caller.owner:
            raise Problem(404, f"there is no {kinds[0]} {job_id}.")
        return job

    def motion_file(self, caller: Caller, job_id: str) -> str:
        """URI of a finished motion."""
        job = self.find(caller, job_id, *MOTION_KINDS)
        if job.state != "done":
            raise Problem(409, f"motion {job_id} is {job.state}, not done yet.")
        return str(job.result["motion"])

    def status(self, job: Job) -> Status:
        here = f"/v1/{'animations' if job.kind == 'animation' else 'motions'}/{job.id}"
        links = {"self": here, "state": here, "events": f"{here}/events"}
        if job.kind != "animation":
            links["state"] = f"{here}/state"
        if job.state == "done":
            links |= {"video": f"{here}/video"} if job.kind == "animation" else {"file": here}
        facts = {name: job.result.get(name) for name in ("frames", "fps", "model")}
        ahead = self.store.ahead_of(job) if job.state == "queued" else 0
        return Status.model_validate(vars(job) | facts | {"links": links, "ahead": ahead})

    def accepted(self, request: Request, job: Job, received: Received | None = None) -> JSONResponse:
        request.state.job = job.id
        request.state.facts = dict(received.digests) if received else {}
        status = self.status(job)
        return JSONResponse(status.model_dump(), 202, {"Location": status.links["state"]})

    def _store(self, job_id: str, role: str, source: Path | str) -> str:
        if isinstance(source, Path):
            return self.files.put(job_id, role, source)
        uri = self.files.uri(job_id, role)
        storage.publish_bytes(uri, storage.read_bytes(source))
        return uri


def _own_key(caller: Caller, key: str) -> str:
    """Idempotency keys of two callers never meet."""
    return hashlib.sha256(f"{caller.owner}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()
