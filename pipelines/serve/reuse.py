"""/v1/motions: motions are taken out of videos once, then used again, continued and blended."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from pipelines.serve import decoding, events, files, forms
from pipelines.serve.animations import Id, Key, cancel_or_remove, taken_in
from pipelines.serve.config import InterpolateOptions, MotionOptions, OutpaintOptions
from pipelines.serve.desk import MOTION_KINDS, Caller, Desk, Status
from pipelines.serve.problems import Problem
from pipelines.serve.uploads import Received
from xnemo_platform.jobstore import Job, new_id

FILE = "application/octet-stream"


def routes(desk: Desk) -> APIRouter:
    """The calls that make, follow and fetch motions."""
    here = APIRouter(prefix="/v1/motions", tags=["motions"])

    @here.post("", status_code=202, response_model=Status, openapi_extra=forms.MOTION)
    async def extract(request: Request, caller: Annotated[Caller, Depends(desk.admit)], key: Key = None) -> Response:
        """Extract the motion of a driving video, to be used again."""
        return await taken_in(desk, request, caller, key, {"driving"}, _accept)

    @here.post("/interpolate", status_code=202, response_model=Status)
    def blend(options: InterpolateOptions, request: Request, caller: Annotated[Caller, Depends(desk.admit)],
              key: Key = None) -> Response:  # fmt: skip
        """A motion through moments of others, such as from one expression to another."""
        inputs = {moment.motion: desk.motion_file(caller, moment.motion) for moment in options.keys}
        return desk.accepted(request, desk.submit(caller, "interpolate", new_id(), inputs, options, {}, key))

    @here.post("/{id}/outpaint", status_code=202, response_model=Status)
    def extend(id: Id, options: OutpaintOptions, request: Request,
               caller: Annotated[Caller, Depends(desk.admit)], key: Key = None) -> Response:  # fmt: skip
        """The motion, continued by the motion generator up to `seconds`."""
        inputs = {"motion": desk.motion_file(caller, id)}
        if not any(worker.get("outpainting") for worker in desk.store.workers().values()):
            raise Problem(409, "this service holds no motion generator.")
        return desk.accepted(request, desk.submit(caller, "outpaint", new_id(), inputs, options, {"motion": id}, key))

    @here.get("/{id}", response_class=Response, responses={200: {"content": {FILE: {}}}})
    def file(id: Id, request: Request, caller: Annotated[Caller, Depends(desk.caller)]) -> Response:
        """The motion file (.safetensors); 409 until it is done."""
        return files.answer(desk.motion_file(caller, id), FILE, f"xnemo-motion-{id[:8]}.safetensors", request)

    @here.get("/{id}/state")
    def state(id: Id, caller: Annotated[Caller, Depends(desk.caller)]) -> Status:
        """State and progress; `links.file` is the .safetensors once it is done."""
        return desk.status(desk.find(caller, id, *MOTION_KINDS))

    @here.get("/{id}/events")
    def follow(id: Id, caller: Annotated[Caller, Depends(desk.caller)]) -> Response:
        """The state as server-sent events."""
        desk.find(caller, id, *MOTION_KINDS)
        return events.stream(desk, id)

    @here.delete("/{id}", response_model=Status, responses={204: {"description": "Removed."}})
    def remove(id: Id, request: Request, caller: Annotated[Caller, Depends(desk.admit)]) -> Any:
        """Cancel a job that has not ended; remove one that has (204)."""
        return cancel_or_remove(desk, request, desk.find(caller, id, *MOTION_KINDS))

    return here


def _accept(desk: Desk, caller: Caller, job_id: str, got: Received, key: str | None) -> Job:
    options = forms.options(MotionOptions, dict(got.fields))
    if "driving" not in got.files:
        raise Problem(422, "driving: a video is required.")
    decoding.ask(desk.sandbox, "upload", decoding.check, None, got.files["driving"], desk.config.media_limits())
    return desk.submit(caller, "motion", job_id, got.files, options, got.digests, key)
