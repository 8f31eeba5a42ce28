"""VFHQ: folders or zips of frames, clips encoded again as video, or the meta files beside whole YouTube videos.

All are named Clip+<video>+P<person>+C<clip>+F<first>-<last>. Frame rates differ from video to video and stand in
the meta file only; without it 30 is assumed. Two groups can hold folders of the same name, so a clip is known by
its path, and a copy by its content.
"""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipelines.sources.files import VIDEO_ENDINGS, by_stem, lines, missing
from pipelines.sources.source import EVERYTHING, Source, SourceConfig, zip_folders
from xnemo.media.stills import Stills
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

FPS = 30.0  # of a clip without a meta file
log = logging.getLogger(__name__)


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """Clips in whatever form they are there; of a meta file without frames or clip, the span of its video."""
    meta: dict[str, str] = {}
    found: set[str] = set()
    for name in storage.walk(uri, whole=is_clip):
        path = PurePosixPath(name)
        if is_clip(path.stem) and path.suffix == ".txt":
            meta[path.stem] = name
    for name in storage.walk(uri, whole=is_clip):
        path = PurePosixPath(name)
        if name.endswith("/") and is_clip(path.name):
            found.add(path.name)
            yield _stills(storage.join(uri, str(path)), "*", path.name, uri, meta)
        elif path.suffix == ".zip":
            for source in _zipped(uri, name, meta):
                found.add(PurePosixPath(source.stills.pattern).parent.name if source.stills else "")
                yield source
        elif is_clip(path.stem) and path.suffix.lower() in VIDEO_ENDINGS:
            found.add(path.stem)
            yield Source(storage.join(uri, name), identity(path.stem))
    whole = by_stem(uri) if meta.keys() - found else {}
    for name in sorted(meta.keys() - found):
        yield _span(uri, name, meta[name], whole)


def is_clip(name: str) -> bool:
    """Whether a name has the five parts of a clip."""
    return name.startswith("Clip+") and len(name.split("+")) == 5


def identity(name: str) -> str:
    """Video and person: the same person of another video cannot be known."""
    _, video, person, _, _ = name.split("+")
    return f"{video}+{person}"


def _stills(uri: str, pattern: str, name: str, root: str, meta: dict[str, str]) -> Source:
    fps = FPS
    if name in meta:
        try:
            fps = _facts(storage.join(root, meta[name]))["fps"]
        except PlatformError as error:
            return Source(uri, identity(name), problem=f"annotation: {error}")
    else:
        log.warning("%s: no meta file says its frame rate; %g is assumed", name, FPS)
    return Source(uri, identity(name), stills=Stills(pattern, fps))


def _zipped(uri: str, name: str, meta: dict[str, str]) -> Iterator[Source]:
    path = storage.join(uri, name)
    try:
        folders = zip_folders(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        yield Source(path, "", problem=f"format: the zip file cannot be read ({error})")
        return
    for folder in folders:
        if is_clip(PurePosixPath(folder).name):
            yield _stills(path, f"{folder}/*", PurePosixPath(folder).name, uri, meta)


def _facts(uri: str) -> dict[str, Any]:
    """Numbers of a meta file: {"width", "height", "fps", "crop": 4 floats}."""
    last = {words[0].rstrip(":").upper(): words[1:] for words in lines(uri)}
    try:
        crop = tuple(float(word.strip("[](),")) for word in last["CROP"][-4:])
        facts = {key: float(last[word][-1]) for key, word in (("width", "W"), ("height", "H"), ("fps", "FPS"))}
    except (KeyError, IndexError, ValueError) as error:
        raise PlatformError(f"{uri} is no VFHQ meta file ({error!r}): fetch it again") from error
    if len(crop) != 4 or min(facts.values()) <= 0:
        raise PlatformError(f"{uri} is no VFHQ meta file (numbers out of range): fetch it again")
    return {**facts, "crop": crop}


def _span(uri: str, name: str, meta: str, whole: dict[str, str]) -> Source:
    _, video, _, _, frames = name.split("+")
    if video not in whole:
        return missing(uri, f"{video}.mp4", identity(name))
    path = storage.join(uri, whole[video])
    try:
        facts = _facts(storage.join(uri, meta))
        first, last = (int(part) for part in frames.removeprefix("F").split("-"))
    except (PlatformError, ValueError) as error:
        return Source(path, identity(name), problem=f"annotation: {error}")
    return Source(
        path,
        identity(name),
        start_s=(first + 1) / facts["fps"],  # the official cut takes frames first + 1 to last - 1
        end_s=last / facts["fps"],
        region=facts["crop"],
        region_of=(facts["width"], facts["height"]),
    )
