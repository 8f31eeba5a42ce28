"""The HTTP interface (OpenAPI at /docs). It writes jobs into the store and reads what became of them; engines do the
work, wherever they run."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Header, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ValidationError

from pipelines.serve import media, page, problems
from pipelines.serve.config import (
    AnimationOptions,
    InterpolateOptions,
    MotionOptions,
    OutpaintOptions,
    ServeConfig,
)
from pipelines.serve.desk import MOTION_KINDS, Desk, Status
from pipelines.serve.problems import Problem
from pipelines.serve.uploads import Received, receive
from xnemo_platform.jobstore import Job, new_id

Options = TypeVar("Options", bound=BaseModel)
Id = Annotated[str, InPath(pattern="^[0-9a-f]{32}$", description="Id of a job.")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]

EVENT_S, PING_S = 0.2, 15.0
_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["portrait"], "properties": {
        "portrait": {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, BMP or TIFF."},
        "driving": {"type": "string", "format": "binary", "description": "mp4, mov, webm, mkv or avi."},
        "motion": {"type": "string", "description": "Id of a motion, instead of driving."},
        **AnimationOptions.model_json_schema()["properties"]}}}}}}  # fmt: skip
_MOTION_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["driving"], "properties": {
        "driving": {"type": "string", "format": "binary"},
        **MotionOptions.model_json_schema()["properties"]}}}}}}  # fmt: skip


def create(config: ServeConfig) -> FastAPI:
    """The app. It needs the folder and the store of `config`, no engine."""
    app = FastAPI(title="X-NeMo", version="1", description="Animate a portrait with a driving video.")
    problems.install(app)
    Path(config.folder, "jobs").mkdir(parents=True, exist_ok=True)
    desk = Desk(config)
    _animations(app, desk)
    _motions(app, desk)
    _about(app, desk)
    page.install(app, config)
    return app


def _animations(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/animations", status_code=202, response_model=Status, openapi_extra=_FORM, tags=["animations"])
    async def animate(request: Request, key: Key = None) -> Response:
        """Animate a portrait. Answers at once; follow `links.events` or poll `links.self`."""
        await asyncio.to_thread(desk.refuse_when_full, key)
        job_id = new_id()
        try:
            got = await receive(request, desk.folder(job_id), {"portrait", "driving"}, desk.config.limits)
            job = await asyncio.to_thread(_accept_animation, desk, job_id, got, key)
        except BaseException:
            shutil.rmtree(desk.folder(job_id), ignore_errors=True)
            raise
        return desk.accepted(job)

    @app.get("/v1/animations/{id}", tags=["animations"])
    def state(id: Id) -> Status:
        """State, progress and ETA."""
        return desk.status(desk.find(id, "animation"))

    @app.get("/v1/animations/{id}/events", tags=["animations"])
    async def events(id: Id, request: Request) -> StreamingResponse:
        """The state as server-sent events, whenever it changes, until the job ends."""
        await asyncio.to_thread(desk.find, id, "animation")
        return _stream(desk, id)

    @app.get("/v1/animations/{id}/video", tags=["animations"], response_class=FileResponse)
    def video(id: Id) -> FileResponse:
        """The mp4; range requests are answered."""
        job = desk.find(id, "animation")
        if job.state != "done":
            raise Problem(409, f"animation {id} is {job.state}, not done yet.")
        return _file(job.result["video"], "video/mp4", f"xnemo-{id[:8]}.mp4")

    @app.delete("/v1/animations/{id}", tags=["animations"], response_model=Status)
    def cancel(id: Id) -> Any:
        """Cancel a job that has not ended; remove one that has, with its files (204)."""
        return _cancel_or_remove(desk, desk.find(id, "animation"))


def _accept_animation(desk: Desk, job_id: str, got: Received, key: str | None) -> Job:
    fields = dict(got.fields)
    motion = fields.pop("motion", None)
    options = _options(AnimationOptions, fields)
    if "portrait" not in got.files:
        raise Problem(422, "portrait: a picture is required.")
    if ("driving" in got.files) == (motion is not None):
        raise Problem(422, "send a driving video, or the id of a motion, not both.")
    if options.steps > desk.config.limits.steps:
        raise Problem(422, f"steps: at most {desk.config.limits.steps} are allowed here.")
    if options.end is not None and options.end <= options.start:
        raise Problem(422, "end must be later than start.")
    inputs, digests = {role: str(path) for role, path in got.files.items()}, dict(got.digests)
    if motion is not None:
        inputs["motion"] = desk.motion_file(motion)
        digests["motion"] = motion
    media.ask(desk.sandbox, "upload", media.check, got.files["portrait"], got.files.get("driving"),
              desk.config.media_limits())  # fmt: skip
    return desk.submit("animation", job_id, inputs, options, digests, key)


def _motions(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/motions", status_code=202, response_model=Status, openapi_extra=_MOTION_FORM, tags=["motions"])
    async def extract(request: Request, key: Key = None) -> Response:
        """Extract the motion of a driving video, to be used again."""
        await asyncio.to_thread(desk.refuse_when_full, key)
        job_id = new_id()
        try:
            got = await receive(request, desk.folder(job_id), {"driving"}, desk.config.limits)
            job = await asyncio.to_thread(_accept_motion, desk, job_id, got, key)
        except BaseException:
            shutil.rmtree(desk.folder(job_id), ignore_errors=True)
            raise
        return desk.accepted(job)

    @app.post("/v1/motions/interpolate", status_code=202, response_model=Status, tags=["motions"])
    def blend(options: InterpolateOptions, key: Key = None) -> Response:
        """A motion through moments of others, such as from one expression to another."""
        inputs = {moment.motion: desk.motion_file(moment.motion) for moment in options.keys}
        job_id = new_id()
        desk.folder(job_id).mkdir(parents=True)
        return desk.accepted(desk.submit("interpolate", job_id, inputs, options, {}, key))

    @app.post("/v1/motions/{id}/outpaint", status_code=202, response_model=Status, tags=["motions"])
    def extend(id: Id, options: OutpaintOptions, key: Key = None) -> Response:
        """The motion, continued by the motion generator up to `seconds`."""
        if not any(worker.get("outpainting") for worker in desk.store.workers().values()):
            raise Problem(409, "this service holds no motion generator.")
        inputs = {"motion": desk.motion_file(id)}
        job_id = new_id()
        desk.folder(job_id).mkdir(parents=True)
        return desk.accepted(desk.submit("outpaint", job_id, inputs, options, {"motion": id}, key))

    @app.get("/v1/motions/{id}", tags=["motions"])
    def state(id: Id) -> Status:
        """State and progress; `links.file` is the .safetensors once it is done."""
        return desk.status(desk.find(id, *MOTION_KINDS))

    @app.get("/v1/motions/{id}/file", tags=["motions"], response_class=FileResponse)
    def file(id: Id) -> FileResponse:
        """The motion file (.safetensors)."""
        return _file(desk.motion_file(id), "application/octet-stream", f"xnemo-motion-{id[:8]}.safetensors")

    @app.get("/v1/motions/{id}/events", tags=["motions"])
    async def events(id: Id) -> StreamingResponse:
        """The state as server-sent events."""
        await asyncio.to_thread(desk.find, id, *MOTION_KINDS)
        return _stream(desk, id)

    @app.delete("/v1/motions/{id}", tags=["motions"], response_model=Status)
    def remove(id: Id) -> Any:
        """Cancel a job that has not ended; remove one that has (204)."""
        return _cancel_or_remove(desk, desk.find(id, *MOTION_KINDS))


def _accept_motion(desk: Desk, job_id: str, got: Received, key: str | None) -> Job:
    options = _options(MotionOptions, dict(got.fields))
    if "driving" not in got.files:
        raise Problem(422, "driving: a video is required.")
    media.ask(desk.sandbox, "upload", media.check, None, got.files["driving"], desk.config.media_limits())
    return desk.submit("motion", job_id, {"driving": str(got.files["driving"])}, options, got.digests, key)


def _about(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models", tags=["service"])
    def models() -> dict[str, Any]:
        """What the engines hold."""
        return {"models": [{"engine": name, **card} for name, card in desk.store.workers().items()]}

    @app.get("/healthz", tags=["service"])
    def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["service"])
    def ready() -> dict[str, str]:
        """An engine has warmed up and takes work; 503 until then."""
        if not any(worker["state"] == "ready" for worker in desk.store.workers().values()):
            raise Problem(503, "no engine is ready yet.", {"Retry-After": "2"})
        return {"status": "ready"}


def _options(cls: type[Options], fields: dict[str, str]) -> Options:
    """Form fields as options; a field left empty keeps its default."""
    try:
        return cls.model_validate({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        first = error.errors()[0]
        raise Problem(422, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}.") from None


def _stream(desk: Desk, job_id: str) -> StreamingResponse:
    return StreamingResponse(_events(desk, job_id), media_type="text/event-stream",
                             headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})  # fmt: skip


async def _events(desk: Desk, job_id: str) -> AsyncIterator[str]:
    last, quiet = "", 0.0
    while True:
        job = await asyncio.to_thread(desk.store.find, job_id)
        if job is None:
            yield "event: gone\ndata: {}\n\n"
            return
        text = (await asyncio.to_thread(desk.status, job)).model_dump_json()
        if text != last:
            last, quiet = text, 0.0
            yield f"event: state\ndata: {text}\n\n"
        if job.ended:
            return
        quiet += EVENT_S
        if quiet >= PING_S:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(EVENT_S)


def _file(path: str, media_type: str, name: str) -> FileResponse:
    if not Path(path).is_file():
        raise Problem(410, "the file is no longer kept.")
    return FileResponse(path, media_type=media_type, filename=name, content_disposition_type="inline")


def _cancel_or_remove(desk: Desk, job: Job) -> Any:
    if job.ended:
        desk.store.delete(job.id)
        shutil.rmtree(desk.folder(job.id), ignore_errors=True)
        return Response(status_code=204)
    return desk.status(desk.store.cancel(job.id))
