"""Which portrait goes with which driving video: the benchmark's manifest, and the builder of a pairing.

A manifest is JSON: {"protocol", "seed", "pairs": [{"id", "portrait", "driving", "group", …_sha256}]}, paths relative to
its own folder. The builder goes by the files' content, so two people with the same files get the same pairs, whatever
they are called.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

PICTURES, VIDEOS = {".png", ".jpg", ".jpeg", ".webp"}, {".mp4", ".mov", ".avi", ".mkv", ".webm"}
PAIRS, MATRIX = 300, 10  # training recipe G: random pairs, and portraits that meet every driver


@dataclass(frozen=True)
class Pair:
    """portrait "" means the first frame of the driving video (self-reenactment). Digests "" are not checked."""

    id: str
    portrait: str
    driving: str
    group: str = ""
    portrait_sha256: str = ""
    driving_sha256: str = ""

    def check(self) -> None:
        """Raises PlatformError where a file is missing or another than the manifest's."""
        for path, digest in ((self.portrait, self.portrait_sha256), (self.driving, self.driving_sha256)):
            if path and not Path(path).is_file():
                raise PlatformError(f"{path} is missing")
            if path and digest and sha256(Path(path)) != digest:
                raise PlatformError(f"{path} is not the file of the manifest (its sha256 differs)")


def load(
    data: str, protocol: str, seed: int, limit: int | None = None, split: str | None = None, work: Path | None = None
) -> list[Pair]:
    """Pairs of a manifest, of a data set made by ingest, of a folder of videos (self, temporal), or of portraits/ and
    driving/ in a folder (cross).

    split: of a data set. work: where its clips are laid as files; without it they are only counted. Raises
    PlatformError, naming what is missing.
    """
    from pipelines.evaluation import dataset

    place = Path(data).expanduser()
    if place.is_file():
        found = _from_manifest(place)
    elif dataset.is_dataset(place) and work is None:
        return [Pair(str(n), "", "") for n, _ in dataset.choose(str(place), protocol, seed, limit, split)]
    elif dataset.is_dataset(place):
        assert work is not None
        return dataset.load(str(place), protocol, seed, work, limit, split)
    elif not place.is_dir():
        raise PlatformError(f"--data {data}: neither a folder nor a manifest (see `xnemo evaluate pairs --help`).")
    elif protocol == "cross":
        found = build(files(place / "portraits", PICTURES), files(place / "driving", VIDEOS), seed)
    else:
        found = [Pair(path.stem, "", str(path), driving_sha256=sha256(path)) for path in files(place, VIDEOS)]
    twice = [name for name, count in Counter(pair.id for pair in found).items() if count > 1]
    if twice:
        raise PlatformError(f"--data {data}: several pairs have the id {min(twice)!r}; rename the files.")
    if protocol == "cross" and (alone := [pair.id for pair in found if not pair.portrait]):
        raise PlatformError(f"--data {data}: pair {alone[0]!r} names no portrait, which protocol cross needs.")
    return found[:limit]


def files(folder: Path, kinds: set[str]) -> list[Path]:
    """Files of these endings in a folder, sorted by name. Raises PlatformError if there is none."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in kinds) if folder.is_dir() else []
    if not found:
        raise PlatformError(f"{folder}: no files of kind {', '.join(sorted(kinds))} here.")
    return found


def build(
    portraits: Sequence[Path], driving: Sequence[Path], seed: int, count: int = PAIRS, matrix: int = MATRIX
) -> list[Pair]:
    """`count` random pairs (group "random"), every driver before any comes again, and the full matrix of `matrix`
    portraits with all drivers (group "matrix"); fewer where there are fewer files."""
    faces = sorted((sha256(path), str(path)) for path in portraits)
    drivers = sorted((sha256(path), str(path)) for path in driving)
    rng = np.random.default_rng([seed, 31])
    chosen: list[tuple[int, int, str]] = []
    while len(chosen) < min(count, len(faces) * len(drivers)):
        round_ = rng.permutation(len(drivers))
        chosen += [(int(rng.integers(len(faces))), int(d), "random") for d in round_]
        chosen = list(dict.fromkeys(chosen))
    whole = rng.permutation(len(faces))[:matrix]
    crossed = [(int(f), d, "matrix") for f, d in itertools.product(whole, range(len(drivers)))]
    taken = {pair[:2] for pair in chosen[:count]}
    every = chosen[:count] + [pair for pair in crossed if pair[:2] not in taken]
    return [
        Pair(f"{faces[f][0][:8]}-{drivers[d][0][:8]}", faces[f][1], drivers[d][1], group, faces[f][0], drivers[d][0])
        for f, d, group in every
    ]


def write(path: Path, pairs: Sequence[Pair], about: dict[str, Any]) -> None:
    """The manifest, with file names relative to its folder."""
    here = path.resolve().parent
    rows = [asdict(pair) for pair in pairs]
    for row in rows:
        for key in ("portrait", "driving"):
            row[key] = row[key] and os.path.relpath(Path(row[key]).resolve(), here)
    storage.publish_bytes(str(path.resolve()), json.dumps(about | {"pairs": rows}, indent=1).encode())


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_manifest(path: Path) -> list[Pair]:
    try:
        rows = json.loads(path.read_text())["pairs"]
        pairs = [Pair(**row) for row in rows]
        if not all(isinstance(each, str) for pair in pairs for each in astuple(pair)):
            raise TypeError("every entry of a pair is text")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise PlatformError(f"{path}: not a manifest of pairs ({error}); `xnemo evaluate pairs` writes one.") from None
    if not pairs:
        raise PlatformError(f"{path}: the manifest holds no pairs.")
    here = path.resolve().parent
    for pair in pairs:
        if not pair.driving:
            raise PlatformError(f"{path}: pair {pair.id!r} names no driving video.")
        if not pair.id or Path(pair.id).name != pair.id or pair.id.startswith("."):
            raise PlatformError(f"{path}: pair id {pair.id!r} is no plain name.")
    return [
        Pair(
            **asdict(pair)
            | {"portrait": pair.portrait and str(here / pair.portrait), "driving": str(here / pair.driving)}
        )
        for pair in pairs
    ]
