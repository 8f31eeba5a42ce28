"""A data set made by ingest as evaluation data: its clips become video files of the stored JPEGs, untouched.

Protocol self (and temporal) takes every clip; cross lets every clip drive the first frame of a clip of somebody else,
drawn by the seed from the sorted clip ids, so that the same data set gives the same pairs.
"""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipelines.evaluation.pairs import Pair, sha256
from pipelines.shards import Clip, ClipReader
from xnemo_platform.errors import PlatformError

HELD_OUT = ("val", "test")


def is_dataset(place: Path) -> bool:
    """Whether a folder holds shards, by its manifest."""
    return (place / "manifest.parquet").is_file()


def load(uri: str, protocol: str, seed: int, folder: Path, limit: int | None, split: str | None) -> list[Pair]:
    """Pairs of a data set; the files they name are written below `folder` where they are not there yet.

    split: one of the data set's; None: what was held out of training (val and test), or all where nothing was. Raises
    PlatformError where there is no clip, or for cross fewer than two people.
    """
    chosen = choose(uri, protocol, seed, limit, split)
    reader = ClipReader(uri)
    folder = folder / f"data-{reader.digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[int, tuple[Path, str]] = {}
    pairs = []
    for driver, portrait in chosen:
        video, digest = _once(files, driver, folder, reader)
        name, group = video.stem, str(reader.read(driver, ["emotion"])["emotion"] or "")
        if portrait is None:
            pairs.append(Pair(name, "", str(video), group, "", digest))
            continue
        picture = folder / f"{_once(files, portrait, folder, reader)[0].stem}.jpg"
        if not picture.exists():
            _publish(picture, reader[portrait].frames[0])
        pairs.append(Pair(f"{picture.stem}-{name}", str(picture), str(video), group, sha256(picture), digest))
    return pairs


def choose(uri: str, protocol: str, seed: int, limit: int | None, split: str | None) -> list[tuple[int, int | None]]:
    """(driving clip, clip of the portrait or None) by number in the data set; nothing is written."""
    facts = ClipReader(uri).table(["clip_id", "identity", "split"]).to_pylist()
    wanted = {split} if split else {row["split"] for row in facts} & set(HELD_OUT) or {row["split"] for row in facts}
    clips = sorted((i for i, row in enumerate(facts) if row["split"] in wanted), key=lambda i: facts[i]["clip_id"])
    if not clips:
        raise PlatformError(f"{uri}: no clip{f' of split {split}' if split else ''} in this data set.")
    if protocol != "cross":
        return [(clip, None) for clip in clips[:limit]]
    if len({facts[clip]["identity"] for clip in clips}) < 2:
        raise PlatformError(f"{uri}: one person only; protocol cross needs clips of two (or name another split=).")
    rng = np.random.default_rng([seed, 43])
    found: list[tuple[int, int | None]] = []
    for clip in clips:
        others = [other for other in clips if facts[other]["identity"] != facts[clip]["identity"]]
        found.append((clip, others[int(rng.integers(len(others)))]))
    return found[:limit]


def _once(files: dict[int, tuple[Path, str]], number: int, folder: Path, reader: ClipReader) -> tuple[Path, str]:
    """The video of a clip and its sha256."""
    if number not in files:
        clip = reader[number]
        path = folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', clip.facts['clip_id'])}.mp4"
        if not path.exists():
            write(path, clip)
        files[number] = path, sha256(path)
    return files[number]


def write(path: Path, clip: Clip) -> None:
    """The clip's JPEG files as the packets of a Motion JPEG video: nothing is compressed again."""
    import av

    trial, rate = (
        path.with_name(f".{path.name}.{os.getpid()}.part"),
        Fraction(clip.facts["fps"]).limit_denominator(1000),
    )
    with av.open(str(trial), "w", format="mp4", options={"fflags": "+bitexact"}) as out:  # the same clip, the same file
        stream = out.add_stream("mjpeg", rate=rate)
        stream.width = stream.height = clip.facts["size"]
        stream.pix_fmt = "yuvj420p"
        for at, data in enumerate(clip.frames):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = at
            packet.duration, packet.is_keyframe = 1, True
            out.mux(packet)
    os.replace(trial, path)


def _publish(path: Path, data: bytes) -> None:
    from xnemo_platform import storage

    storage.publish_bytes(str(path), data)
