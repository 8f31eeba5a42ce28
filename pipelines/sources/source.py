"""One input of an ingestion: a span of one video, and what its data set says about it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from xnemo_platform import storage

_EDGE = 64 << 10


@dataclass(frozen=True)
class Source:
    """start_s, end_s: the span to use, seconds (None: to the end). fingerprint: filled by `fingerprinted`."""

    uri: str
    identity: str
    emotion: str | None = None
    intensity: int | None = None
    start_s: float = 0.0
    end_s: float | None = None
    fingerprint: str = ""


def fingerprinted(sources: Iterable[Source]) -> list[Source]:
    """The same sources with a fingerprint of content and span: length, first and last 64 KiB.

    It names an input for planning without reading it whole; the full sha256 is taken when it is decoded.
    Raises PlatformError for a file that cannot be read.
    """
    done = []
    for source in sources:
        fs, path = storage.filesystem(source.uri)
        size = fs.size(path) or 0
        head = fs.cat_file(path, 0, min(size, _EDGE))
        tail = fs.cat_file(path, max(0, size - _EDGE), size)
        span = f"{size} {source.start_s} {source.end_s}".encode()
        done.append(replace(source, fingerprint=hashlib.sha256(span + head + tail).hexdigest()[:32]))
    return done
