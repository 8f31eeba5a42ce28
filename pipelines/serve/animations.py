"""/v1/animations."""

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi import Path as InPath

from pipelines.serve import decoding, events, files, forms
from pipelines.serve.config import AnimationOptions
from pipelines.serve.desk import Caller, Desk, Status
from pipelines.serve.problems import Problem
from pipelines.serve.uploads import Received, receive
from xnemo_platform.jobstore import Job, new_id

ID = "[0-9a-f]{32}"
Id = Annotated[str, InPath(pattern=f"^{ID}$", description="Id of a job.")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200, examples=["my-job-1"])]
Accept = Callable[[Desk, Caller, str, Received, str | None], Job]


def routes(desk: Desk) -> APIRouter:
    """The calls that make and follow animations."""
    here = APIRouter(prefix="/v1/animations", tags=["animations"])

    @here.post("", status_code=202, response_model=Status, openapi_extra=forms.ANIMATION)
    async def animate(request: Request, caller: Annotated[Caller, Depends(desk.admit)], key: Key = None) -> Response:
        """Animate a portrait. Answers at once; follow `links.events` or poll `links.state`."""
        return await taken_in(desk, request, caller, key, {"portrait", "driving"}, _accept)

    @here.get("")
    def recent(caller: Annotated[Caller, Depends(desk.caller)]) -> list[Status]:
        """Your newest finished animations, at most 24. Without keys nobody's are listed: knowing an id is the right
        to see it."""
        return [desk.status(job) for job in desk.store.recent(caller.owner, ("animation",), 24)] if caller.owner else []

    @here.get("/{id}")
    def state(id: Id, caller: Annotated[Caller, Depends(desk.caller)]) -> Status:
        """State, progress and ETA."""
        return desk.status(desk.find(caller, id, "animation"))

    @here.get("/{id}/events")
    def follow(id: Id, caller: Annotated[Caller, Depends(desk.caller)]) -> Response:
        """The state as server-sent events, whenever it changes, until the job ends."""
        desk.find(caller, id, "animation")
        return events.stream(desk, id)

    @here.get("/{id}/video", response_class=Response, responses={200: {"content": {"video/mp4": {}}}})
    def video(id: Id, request: Request, caller: Annotated[Caller, Depends(desk.caller)]) -> Response:
        """The mp4; range requests are answered."""
        job = desk.find(caller, id, "animation")
        if job.state != "done":
            raise Problem(409, f"animation {id} is {job.state}, not done yet.")
        return files.answer(job.result["video"], "video/mp4", f"xnemo-{id[:8]}.mp4", request)

    @here.delete("/{id}", response_model=Status, responses={204: {"description": "Removed."}})
    def cancel(id: Id, request: Request, caller: Annotated[Caller, Depends(desk.admit)]) -> Any:
        """Cancel a job that has not ended; remove one that has, with its files (204)."""
        return cancel_or_remove(desk, request, desk.find(caller, id, "animation"))

    return here


async def taken_in(
    desk: Desk, request: Request, caller: Caller, key: str | None, roles: set[str], accept: Accept
) -> Response:
    """The answer to an upload of files for these roles: received, checked and recorded by `accept`, and not kept
    otherwise."""
    await asyncio.to_thread(desk.refuse_when_full, caller, key)
    job_id = new_id()
    folder = desk.files.arriving(job_id)
    try:
        got = await receive(request, folder, roles, desk.config.limits)
        job = await asyncio.to_thread(accept, desk, caller, job_id, got, key)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return desk.accepted(request, job, got)


def cancel_or_remove(desk: Desk, request: Request, job: Job) -> Any:
    """What DELETE means for a job."""
    request.state.job = job.id
    if not job.ended:
        return desk.status(desk.store.cancel(job.id))
    desk.files.remove(job.id)
    desk.store.delete(job.id)
    return Response(status_code=204)


def _accept(desk: Desk, caller: Caller, job_id: str, got: Received, key: str | None) -> Job:
    fields = dict(got.fields)
    motion = fields.pop("motion", None)
    options = forms.options(AnimationOptions, fields)
    if "portrait" not in got.files:
        raise Problem(422, "portrait: a picture is required.")
    if ("driving" in got.files) == (motion is not None):
        raise Problem(422, "send a driving video, or the id of a motion, not both.")
    if options.steps is not None and options.steps > desk.config.limits.steps:
        raise Problem(422, f"steps: at most {desk.config.limits.steps} are allowed here.")
    if options.end is not None and options.end <= options.start:
        raise Problem(422, "end must be later than start.")
    inputs: dict[str, Path | str] = dict(got.files)
    digests = dict(got.digests)
    if motion is not None:
        if not re.fullmatch(ID, motion):
            raise Problem(422, "motion: not the id of a motion.")
        inputs["motion"] = desk.motion_file(caller, motion)
        digests["motion"] = motion
    decoding.ask(desk.sandbox, "upload", decoding.check, got.files["portrait"], got.files.get("driving"),
              desk.config.media_limits())  # fmt: skip
    return desk.submit(caller, "animation", job_id, inputs, options, digests, key)
