"""Multipart requests, counted while they stream in: a body that is too long or too slow is never read to its end."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pipelines.serve.config import Limits
from pipelines.serve.problems import Problem
from xnemo_platform.untrusted import HEAD, PICTURES, VIDEOS, sniff

FIELDS, FIELD_BYTES = 16, 4096
FORMATS = {"portrait": PICTURES, "driving": VIDEOS}


@dataclass(frozen=True)
class Received:
    """files: role → path; digests: role → sha256; fields: the plain form fields."""

    files: Mapping[str, Path]
    digests: Mapping[str, str]
    fields: Mapping[str, str]


async def receive(request: Request, folder: Path, roles: set[str], limits: Limits) -> Received:
    """Read the form; files named in `roles` land in `folder` under their role's name, whatever the client called them.

    Raises Problem: 400, 408, 413, 415, 422; OSError when there is no room.
    """
    caps = {role: int({"portrait": limits.portrait_mb, "driving": limits.driving_mb}[role] * 2**20) for role in roles}
    total = sum(caps.values()) + FIELDS * FIELD_BYTES + 65536
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(415, "send the files as multipart/form-data.")
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdecimal() and int(announced[:20]) > total:
        raise Problem(413, f"the request is longer than {total >> 20} MiB.")
    body = _counted(request, total, limits)
    parser = _Parser(request.headers, body, max_files=len(roles), max_fields=FIELDS, max_part_size=FIELD_BYTES)
    parser.caps = caps
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}") from None
    except UnicodeError:  # a charset of the client's choice
        raise Problem(400, "the form cannot be read: send it as UTF-8.") from None
    files, digests, fields = {}, {}, {}
    try:
        for name, value in form.multi_items():
            if name in files or name in fields:
                raise Problem(400, f"the form has {name[:40]!r} twice.")
            if isinstance(value, str) and name in roles:
                raise Problem(422, f"{name}: send a file (with curl: -F {name}=@file); no address is fetched.")
            if isinstance(value, str):
                fields[name] = value
            else:
                files[name] = folder / name
                digests[name] = await asyncio.to_thread(_keep, value, name, files[name])
    finally:
        await form.close()
    return Received(files, digests, fields)


class _Parser(MultiPartParser):
    """Refuses a file as soon as its name is not asked for, or one byte too many of it has come."""

    caps: Mapping[str, int]
    seen = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        name, self.seen = self._current_part.field_name, 0
        if self._current_part.file is not None and name not in self.caps:
            raise Problem(400, f"there is no file field {name[:40]!r}; send {' and '.join(sorted(self.caps))}.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        self.seen += end - start
        name = self._current_part.field_name
        if self._current_part.file is not None and self.seen > self.caps[name]:
            raise Problem(413, f"{name} is longer than {self.caps[name] / 2**20:g} MiB.")


async def _counted(request: Request, total: int, limits: Limits) -> AsyncGenerator[bytes, None]:
    stream, seen, end = request.stream(), 0, time.monotonic() + limits.upload_s
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), min(limits.idle_s, max(0.0, end - time.monotonic())))
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem(408, "the upload came too slowly and was given up.") from None
        seen += len(chunk)
        if seen > total:
            raise Problem(413, f"the request is longer than {total >> 20} MiB.")
        yield chunk


def _keep(upload: UploadFile, role: str, path: Path) -> str:
    """Check the kind of one file and store it; returns its sha256."""
    file = upload.file
    file.seek(0)
    kind = sniff(file.read(HEAD))
    if kind not in FORMATS[role]:
        named = ", ".join(sorted(FORMATS[role]))
        raise Problem(415, f"{role} is {kind or 'of no known kind'}, not one of {named}.")
    file.seek(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        shutil.copyfileobj(file, target, 1 << 20)
    with path.open("rb") as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest()
