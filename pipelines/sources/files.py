"""What the readers share: names of videos below a folder, and small text files that came with a data set."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipelines.sources.source import Source
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

VIDEO_ENDINGS = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"}
_TEXT_LIMIT, _JSON_LIMIT = 16 << 20, 2 << 30


def videos(uri: str) -> Iterator[PurePosixPath]:
    """Videos below `uri`, in no order. Endings only choose what is looked at; the content decides."""
    return (path for path in map(PurePosixPath, storage.walk(uri)) if path.suffix.lower() in VIDEO_ENDINGS)


def by_stem(uri: str) -> dict[str, str]:
    """Relative path of each video by its name without ending; of several, the first in order."""
    found: dict[str, str] = {}
    for path in sorted(videos(uri), reverse=True):
        found[path.stem] = str(path)
    return found


def lines(uri: str) -> list[list[str]]:
    """Words of each line that has some. Byte order marks and Windows line ends are no part of a word."""
    try:
        text = storage.read_bytes(uri, _TEXT_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlatformError(f"{uri} is no UTF-8 text ({error}): fetch it again") from error
    return [words for words in (line.split() for line in text.splitlines()) if words]


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object. Raises PlatformError for anything else."""
    try:
        value = json.loads(storage.read_bytes(uri, _JSON_LIMIT).decode("utf-8-sig"))
    except ValueError as error:
        raise PlatformError(f"{uri} is no readable JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise PlatformError(f"{uri} holds a {type(value).__name__}, not an object: is it another data set's file?")
    return value


def missing(uri: str, name: str, identity: str = "") -> Source:
    """An entry of a data set's list whose video is not there: dead links are common, and no fault of the run."""
    return Source(storage.join(uri, name), identity, problem="missing: it is listed, but no such video is here")
