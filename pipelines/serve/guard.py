"""Around every request: bodies that are no uploads are short and come in time; HEAD is GET without its body; what was
done is noted at the end."""

import asyncio
import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve.desk import Desk
from xnemo_platform.errors import PlatformError

UPLOADS = {"/v1/animations", "/v1/motions"}
BODY = 256 << 10
log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self.app, self.desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        status, head = 0, scope["method"] == "HEAD"
        if head:
            scope["method"] = "GET"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        reads = receive if scope["path"] in UPLOADS else self._bounded(receive)
        try:
            await self.app(scope, reads, watched)
        finally:
            if "line" in state:
                await asyncio.shield(asyncio.to_thread(self._settle, state, status))

    def _bounded(self, receive: Receive) -> Receive:
        seen, more = 0, True

        async def bounded() -> Message:
            nonlocal seen, more
            if not more:  # only a disconnection can come now, and it may take its time
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.desk.config.limits.idle_s)
            except TimeoutError:
                raise HTTPException(408, "the request came too slowly and was given up.") from None
            seen += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
            if seen > BODY:
                raise HTTPException(413, f"the request is longer than {BODY >> 10} KiB.")
            return message

        return bounded

    def _settle(self, state: dict[str, Any], status: int) -> None:
        try:
            self.desk.access.settle(state["line"], status, state.get("job"), state.get("facts"))
        except PlatformError as error:
            log.error("the audit log missed an answer (%s, job %s): %s", status, state.get("job"), error)
