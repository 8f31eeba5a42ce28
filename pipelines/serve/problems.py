"""Errors as RFC 9457 problem details: one clear sentence, never a path or a trace."""

import errno
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipelines.serve import meters
from xnemo.errors import XNeMoError
from xnemo_platform.database import StoreAway
from xnemo_platform.errors import PlatformError

PATH = re.compile(r"(?<![\w:/.])/[^\s:;,()'\"]*/([^\s/:;,()'\"]*)")
ADDRESS = re.compile(r"[a-z][a-z0-9+.]*://[^\s,;()'\"]*?([^\s/,;()'\":]*)(?=:?[\s,;()'\"]|:?$)")
PLAIN = {
    "Not Found": "there is nothing at this address; /docs lists what is.",
    "Method Not Allowed": "this address does not take this method; /docs lists what it takes.",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHOWN: dict[str, Any] = {
    "description": "Refused; `detail` is one sentence that says why.",
    "content": {"application/problem+json": {
        "schema": {"type": "object", "properties": {
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
            "detail": {"type": "string"}}},
        "example": {"type": "about:blank", "title": "Unprocessable Content", "status": 422,
                    "detail": "steps: at most 100 are allowed here."}}},
}  # fmt: skip
"""How OpenAPI describes a problem."""
log = logging.getLogger(__name__)


class Problem(Exception):
    """An answer with an error status. `detail` is one sentence for the user."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem+json response, counted among the rejects."""
    meters.count("rejects", reason=HTTPStatus(status).phrase.lower().replace(" ", "_"))
    said = detail.encode("utf-8", "replace").decode()  # what a client sent may be quoted in it
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": said}
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Turn every error of the app into a problem."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> JSONResponse:
        return answer(error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, PLAIN.get(str(error.detail), str(error.detail)), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, sentence(error))

    @app.exception_handler(XNeMoError)
    async def _user(_: Request, error: XNeMoError) -> JSONResponse:
        return answer(422, without_paths(str(error)))

    @app.exception_handler(StoreAway)
    async def _away(_: Request, error: StoreAway) -> JSONResponse:
        log.error("%s", error)
        return answer(503, "the job store does not answer at the moment; try again.", {"Retry-After": "5"})

    @app.exception_handler(PlatformError)
    @app.exception_handler(OSError)
    async def _storage(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed: %s", request.method, request.url.path, error)
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return answer(
                507, "the service has no room for this at the moment; try again later.", {"Retry-After": "60"}
            )
        return answer(503, "the service cannot do this at the moment; try again later.", {"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(500, "an internal error; the operator finds the cause in the log.")


def without_paths(text: str) -> str:
    """The text with file names for paths and addresses: where things lie is nobody's business."""
    return PATH.sub(r"\1", ADDRESS.sub(r"\1", text))


def sentence(error: RequestValidationError) -> str:
    """The first thing that is wrong, with the field's name."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['ctx']['error']}."
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return f"{where}: {first['msg']}." if where else f"{first['msg']}."
