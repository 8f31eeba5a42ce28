"""Where the inputs, the finished windows and the results of jobs lie: below one storage URI, a folder for each job."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from pipelines.serve.problems import Problem
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

CHUNK = 1 << 20


class JobFiles:
    """`root`: URI that every engine and every ingress reaches. `scratch`: folder of this machine, for what is on its
    way in or out."""

    def __init__(self, root: str, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        scratch.mkdir(parents=True, exist_ok=True)

    def uri(self, job_id: str, *names: str) -> str:
        return storage.join(self.root, "jobs", job_id, *names)

    def arriving(self, job_id: str) -> Path:
        """Folder for the upload of a job that is not recorded yet; whoever asks for it removes it."""
        return self.scratch / f"arriving-{job_id}"

    def put(self, job_id: str, name: str, path: Path) -> str:
        """Store a local file among the job's; its URI."""
        uri = self.uri(job_id, name)
        storage.publish_file(uri, path)
        return uri

    def fetch(self, inputs: Mapping[str, str], folder: Path) -> dict[str, Path]:
        """Local paths of a job's inputs: in place where the storage is local, copies in `folder` elsewhere."""
        return {role: _path(uri) if storage.is_local(uri) else storage.fetch_file(uri, folder / role)
                for role, uri in inputs.items()}  # fmt: skip

    def remove(self, job_id: str) -> None:
        storage.remove(self.uri(job_id))

    def jobs(self) -> set[str]:
        """Ids of all jobs that have files."""
        return {name.split("/")[0] for name in storage.list_files(storage.join(self.root, "jobs"))}


def answer(uri: str, media_type: str, name: str, request: Request) -> Response:
    """A stored file as an answer; a range of bytes where the request asks for one."""
    headers = {"Content-Disposition": f'inline; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    try:
        length = storage.size(uri)
    except PlatformError:
        raise Problem(410, "the file is no longer kept.") from None
    if storage.is_local(uri):
        return FileResponse(_path(uri), media_type=media_type, headers=headers)
    start, end, status = _range(request.headers.get("range", ""), length)
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{length}"
    return StreamingResponse(_pieces(uri, start, end), status, headers, media_type)


def _range(header: str, length: int) -> tuple[int, int, int]:
    """First byte, end and status (200 or 206) of a Range header; one range only, others are answered whole."""
    unit, _, asked = header.partition("=")
    first, dash, last = asked.strip().partition("-")
    if unit.strip() != "bytes" or not dash or not re.fullmatch(r"[0-9]{1,18}", first + last):
        return 0, length, 200
    start = int(first) if first else max(0, length - int(last))
    end = min(length, int(last) + 1) if first and last else length
    if start >= end:
        raise Problem(416, f"the file has {length} bytes.", {"Content-Range": f"bytes */{length}"})
    return start, end, 206


async def _pieces(uri: str, start: int, end: int) -> AsyncIterator[bytes]:
    for at in range(start, end, CHUNK):
        yield await anyio.to_thread.run_sync(storage.read_part, uri, at, min(end, at + CHUNK))


def _path(uri: str) -> Path:
    return Path(storage.filesystem(uri)[1])
