"""DFEW: numbered clips of films, and lists `video_name,label` of their emotion. Who is seen is not told.

The set is handed out in several sizes: of one number, the copy that was not shrunk to 224 pixels is taken.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.sources.files import lines, videos
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo_platform import storage

EMOTIONS = ("happy", "sad", "neutral", "angry", "surprised", "disgusted", "fear")  # labels 1 to 7


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """All clips; the emotion of those that have one label. Names are numbers, with or without leading zeros."""
    labels: dict[str, str] = {}
    for name in storage.walk(uri):
        if name.endswith(".csv"):
            labels |= _labels(storage.join(uri, name))
    best: dict[str, PurePosixPath] = {}
    for path in videos(uri):
        number = path.stem.lstrip("0")
        best[number] = min(best.get(number, path), path, key=lambda path: ("224" in str(path.parent), path))
    for number, path in best.items():
        yield Source(storage.join(uri, str(path)), path.stem, emotion=labels.get(number))


def _labels(uri: str) -> dict[str, str]:
    text = "\n".join(" ".join(words) for words in lines(uri))
    found = {}
    for row in csv.DictReader(io.StringIO(text)):
        name, label = (row.get("video_name") or "").split(".")[0], row.get("label") or ""
        if name and label.isdigit() and 1 <= int(label) <= len(EMOTIONS):
            found[name.lstrip("0")] = EMOTIONS[int(label) - 1]
    return found
