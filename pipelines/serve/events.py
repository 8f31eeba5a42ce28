"""A job's state as server-sent events."""

import asyncio
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse

from pipelines.serve.desk import Desk
from xnemo_platform.database import StoreAway

EVENT_S, PING_S = 0.2, 15.0


def stream(desk: Desk, job_id: str) -> StreamingResponse:
    """The state whenever it changes, until the job ends."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(desk, job_id), media_type="text/event-stream", headers=headers)


async def _events(desk: Desk, job_id: str) -> AsyncIterator[str]:
    last, quiet = "", 0.0
    while True:
        try:
            job = await asyncio.to_thread(desk.store.find, job_id)
            if job is None:
                yield "event: gone\ndata: {}\n\n"
                return
            text = (await asyncio.to_thread(desk.status, job)).model_dump_json()
        except StoreAway:
            job, text = None, last
        if text != last:
            last, quiet = text, 0.0
            yield f"event: state\ndata: {text}\n\n"
        if job is not None and job.ended:
            return
        quiet += EVENT_S
        if quiet >= PING_S:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(EVENT_S)
