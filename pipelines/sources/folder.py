"""Any folder of videos. Who is seen is told by the first folder below the root, else by the file's name."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.sources.files import VIDEO_ENDINGS
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo_platform import storage


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """Videos below `uri`. Endings only choose what is looked at; the content decides."""
    for name in storage.walk(uri):
        path = PurePosixPath(name)
        identity = path.parts[0] if len(path.parts) > 1 else path.stem
        if path.suffix.lower() in VIDEO_ENDINGS:
            yield Source(storage.join(uri, name), identity)
        elif name.endswith(storage.LINKED_FOLDER):
            said = "link: a linked folder is not followed; ingest its target as a source of its own"
            yield Source(storage.join(uri, name.removesuffix(storage.LINKED_FOLDER)), identity, problem=said)
