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
from xnemo_platform.untrusted import PICTURES, VIDEOS, sniff

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

    Raises Problem: 400, 408, 413, 415.
    """
    caps = {"portrait": limits.portrait_mb, "driving": limits.driving_mb}
    total = int(sum(caps[role] for role in roles) * 2**20) + FIELDS * FIELD_BYTES + 65536
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(415, "send the files as multipart/form-data.")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > total:
        raise Problem(413, f"the request is longer than {total >> 20} MiB.")
    body = _counted(request, total, limits)
    parser = MultiPartParser(request.headers, body, max_files=len(roles), max_fields=FIELDS, max_part_size=FIELD_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}") from None
    files, digests, fields = {}, {}, {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            elif name not in roles:
                raise Problem(400, f"there is no file field {name[:40]!r}; send {' and '.join(sorted(roles))}.")
            else:
                files[name] = folder / name
                digests[name] = await asyncio.to_thread(_keep, value, name, files[name], caps[name])
    finally:
        await form.close()
    return Received(files, digests, fields)


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


def _keep(upload: UploadFile, role: str, path: Path, cap_mb: float) -> str:
    """Check the kind and size of one file and store it; returns its sha256."""
    file = upload.file
    if (upload.size or 0) > cap_mb * 2**20:
        raise Problem(413, f"{role} is longer than {cap_mb:g} MiB.")
    file.seek(0)
    kind = sniff(file.read(16))
    if kind not in FORMATS[role]:
        named = ", ".join(sorted(FORMATS[role]))
        raise Problem(415, f"{role} is {kind or 'of no known kind'}, not one of {named}.")
    file.seek(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        shutil.copyfileobj(file, target, 1 << 20)
    with path.open("rb") as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest()
