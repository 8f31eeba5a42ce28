"""Where work is accepted and looked up: files in the job's folder, a record in the job store."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import Problem
from xnemo_platform.jobstore import Job, JobStore, KeyReused, QueueFull
from xnemo_platform.sandbox import Limits as SandboxLimits
from xnemo_platform.sandbox import Sandbox

MOTION_KINDS = ("motion", "outpaint", "interpolate")


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
    """Accepts work: files into the job's folder, a record into the store."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.store = JobStore(config.store_url)
        self.sandbox = Sandbox(SandboxLimits(seconds=60))

    def folder(self, job_id: str) -> Path:
        return Path(self.config.folder, "jobs", job_id)

    def refuse_when_full(self, key: str | None) -> None:
        """Before the body is read: 429 if the queue is full, unless the request may be a repetition."""
        if key and self.store.find_key(key):
            return
        if self.store.counts().get("queued", 0) >= self.config.limits.queue:
            raise self.full()

    def full(self) -> Problem:
        return Problem(429, f"the queue is full ({self.config.limits.queue} jobs wait); try again later.",
                       {"Retry-After": "10"})  # fmt: skip

    def submit(
        self,
        kind: str,
        job_id: str,
        inputs: Mapping[str, str],
        options: BaseModel,
        digests: Mapping[str, str],
        key: str | None,
    ) -> Job:
        """Record the job; the same key and request give the first job back, and its files are not kept twice."""
        chosen = options.model_dump(mode="json")
        what = {"kind": kind, "options": chosen, "inputs": dict(digests)}
        fingerprint = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        try:
            job, new = self.store.submit(
                kind, inputs=inputs, options=chosen, fingerprint=fingerprint, key=key,
                limit=self.config.limits.queue, job_id=job_id,
            )  # fmt: skip
        except KeyReused as error:
            raise Problem(409, str(error)) from None
        except QueueFull:
            raise self.full() from None
        if not new:
            shutil.rmtree(self.folder(job_id), ignore_errors=True)
        return job

    def find(self, job_id: str, *kinds: str) -> Job:
        job = self.store.find(job_id)
        if job is None or job.kind not in kinds:
            raise Problem(404, f"there is no {kinds[0]} {job_id}.")
        return job

    def motion_file(self, job_id: str) -> str:
        """Path of a finished motion."""
        job = self.find(job_id, *MOTION_KINDS)
        if job.state != "done":
            raise Problem(409, f"motion {job_id} is {job.state}, not done yet.")
        return str(job.result["motion"])

    def status(self, job: Job) -> Status:
        place = "animations" if job.kind == "animation" else "motions"
        here = f"/v1/{place}/{job.id}"
        links = {"self": here, "events": f"/v1/{place}/{job.id}/events"}
        if job.state == "done":
            links |= {"video": f"{here}/video"} if job.kind == "animation" else {"file": f"{here}/file"}
        facts = {name: job.result.get(name) for name in ("frames", "fps", "model")}
        ahead = self.store.ahead_of(job) if job.state == "queued" else 0
        return Status.model_validate(vars(job) | facts | {"links": links, "ahead": ahead})

    def accepted(self, job: Job) -> JSONResponse:
        status = self.status(job)
        return JSONResponse(status.model_dump(), 202, {"Location": status.links["self"]})
