"""Any folder of videos. Who is seen is told by the first folder below the root, else by the file's name."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.sources.source import Source
from xnemo_platform import storage

VIDEO_ENDINGS = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"}


def read(uri: str) -> Iterator[Source]:
    """Videos below `uri`, sorted by path. Endings only choose what is looked at; the content decides."""
    for name in storage.list_files(uri):
        path = PurePosixPath(name)
        if path.suffix.lower() in VIDEO_ENDINGS:
            identity = path.parts[0] if len(path.parts) > 1 else path.stem
            yield Source(storage.join(uri, name), identity)
