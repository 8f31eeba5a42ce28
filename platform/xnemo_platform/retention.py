"""What may go: found first, told, then removed. Nothing that a run, a reader or an alias still names.

checkpoints   of runs that ended more than `days` ago (what they exported stays)
half-written  files and folders that a killed writer left, older than a day
cached models that no alias of the registry means any more
orphans       shards of the given data sets that no manifest row names, older than `days`
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError

DAY_S = 86400.0
ENDED = "result.json"  # what a finished training leaves in its folder (trainer.py)


@dataclass(frozen=True)
class Leftover:
    """Something that may go: where it is, why, and how many bytes it takes."""

    place: str
    why: str
    size: int


def leftovers(
    home: Path, days: float, datasets: Sequence[str] = (), kept: frozenset[str] | None = None
) -> list[Leftover]:
    """What may be removed below `home` and in the data sets. `kept`: "name/version" of models that aliases mean;
    None where the registry could not be asked, and then no cached model goes."""
    now = time.time()
    return [
        *_checkpoints(home, now - days * DAY_S),
        *_half_written(home, now - DAY_S),
        *(_cached(home, kept) if kept is not None else []),
        *(found for uri in datasets for found in _orphans(uri, now - days * DAY_S)),
    ]


def _checkpoints(home: Path, before: float) -> Iterator[Leftover]:
    for result in home.rglob(ENDED):
        folder = result.parent / "checkpoints"
        if folder.is_dir() and (result.parent / "export").is_dir() and result.stat().st_mtime < before:
            yield Leftover(str(folder), "checkpoints of a finished run", _size(folder))


def _half_written(home: Path, before: float) -> Iterator[Leftover]:
    for path in home.rglob(".*"):
        temporary = path.name.endswith(".part") or path.name.startswith((".download-", ".doctor-"))
        if temporary and path.stat().st_mtime < before:
            yield Leftover(str(path), "left half-written", _size(path))


def _cached(home: Path, kept: frozenset[str]) -> Iterator[Leftover]:
    for folder in home.glob("model-cache/*/*/"):
        if not folder.name.startswith(".") and f"{folder.parent.name}/{folder.name}" not in kept:
            yield Leftover(str(folder), "no alias means this version", _size(folder))


def _orphans(uri: str, before: float) -> Iterator[Leftover]:
    if not storage.exists(storage.join(uri, manifest.NAME)):
        raise PlatformError(f"{uri} holds no {manifest.NAME}: it is no data set; check --dataset")
    for name in manifest.orphans(uri):
        place = storage.join(uri, name)
        written, size = storage.written(place)
        if written < before:
            yield Leftover(place, "no manifest names it", size)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)
