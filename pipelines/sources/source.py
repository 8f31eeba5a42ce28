"""One input of an ingestion: a span of one video, and what its data set says about it."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pydantic import Field

from xnemo.media.stills import Stills
from xnemo_platform import storage
from xnemo_platform.config import Config

_EDGE = 64 << 10
_AT_ONCE = 16  # files looked at side by side: a store far away answers slowly, but many at a time
_CHUNK = 1024


class SourceConfig(Config):
    """What to take of a source."""

    cameras: tuple[str, ...] = ()
    """nersemble: serial numbers, by default the near-frontal ones; mead: views, by default front."""
    max_camera_angle: float = Field(default=20.0, gt=0, le=180)
    """nersemble: degrees between a near-frontal camera and the middle of all cameras."""


EVERYTHING = SourceConfig()


@dataclass(frozen=True)
class Source:
    """start_s, end_s: the span to use, seconds (None: to the end). stills: set where `uri` is a folder or zip of
    pictures. fingerprint: filled by `fingerprinted`. problem: "code: message" of an input that the reader already
    knows to be unusable."""

    uri: str
    identity: str
    emotion: str | None = None
    intensity: int | None = None
    start_s: float = 0.0
    end_s: float | None = None
    region: tuple[float, float, float, float] | None = None
    """Box in which the person is seen; faces elsewhere are somebody else's. Not used on square pictures, which are
    cut out already."""
    region_of: tuple[float, float] = (0.0, 0.0)
    """Width and height that `region` is measured in. Height 0: pixels of the video. Width 0: scaled as the height."""
    stills: Stills | None = None
    fingerprint: str = ""
    problem: str = ""


def fingerprinted(sources: Iterable[Source]) -> Iterator[Source]:
    """The same sources, in order, with a fingerprint of content and span: length, first and last 64 KiB.

    It names an input for planning without reading it whole; the full sha256 is taken when it is decoded. A file
    that cannot be read gets a problem instead.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rest = iter(sources)
        while chunk := list(islice(rest, _CHUNK)):
            yield from pool.map(_fingerprinted, chunk)


def _fingerprinted(source: Source) -> Source:
    if source.fingerprint or source.problem:
        return source
    span = f"{source.start_s} {source.end_s} {source.region or ''}".rstrip()
    try:
        content = _ends(source.uri) if source.stills is None else _listed(source.uri, source.stills)
    except Exception as error:  # each kind of store has errors of its own
        return replace(source, problem=f"unreachable: {source.uri} cannot be read ({type(error).__name__}: {error})")
    return replace(source, fingerprint=hashlib.sha256(content + span.encode()).hexdigest()[:32])


def _ends(uri: str) -> bytes:
    fs, path = storage.filesystem(uri)
    size = fs.size(path) or 0
    if size == 0:  # object stores refuse an empty range
        return b"0 "
    head = fs.cat_file(path, start=0, end=min(size, _EDGE))
    tail = fs.cat_file(path, start=max(0, size - _EDGE), end=size)
    return f"{size} ".encode() + head + tail


def _listed(uri: str, stills: Stills) -> bytes:
    """Names, sizes and, of a zip, checksums of the pictures; of a folder, the ends of the first and the last."""
    fs, path = storage.filesystem(uri)
    if uri.endswith(".zip"):
        with fs.open(path, "rb") as file:
            entries = stills.of_zip(zipfile.ZipFile(file))
            return repr([(entry.filename, entry.file_size, entry.CRC) for entry in entries]).encode()
    sizes = storage.sizes(uri)
    names = stills.among(sizes)
    edges = [_ends(storage.join(uri, name)) for name in {*names[:1], *names[-1:]}]
    return repr([(name, sizes[name]) for name in names]).encode() + b"".join(sorted(edges))


def zip_folders(uri: str) -> list[str]:
    """Folders inside a zip file that hold files, sorted. Raises zipfile.BadZipFile or OSError."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        names = zipfile.ZipFile(io.BufferedReader(file, 1 << 20)).namelist()
    return sorted({name.rpartition("/")[0] for name in names if not name.endswith("/")})


def as_plain(source: Source) -> dict[str, Any]:
    """A source as JSON can hold it."""
    plain = {key: value for key, value in vars(source).items() if value != getattr(Source, key, None)}
    return plain | ({"stills": vars(source.stills)} if source.stills else {})


def from_plain(plain: dict[str, Any]) -> Source:
    """What `as_plain` wrote."""
    stills = Stills(**plain["stills"]) if plain.get("stills") else None
    pairs = {key: tuple(plain[key]) for key in ("region", "region_of") if plain.get(key)}
    return Source(**(plain | pairs | {"stills": stills}))
