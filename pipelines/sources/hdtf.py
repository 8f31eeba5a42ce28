"""HDTF (MRzzm/HDTF): whole videos with the annotation files beside them, or clips that are cut already.

`{RD,WDA,WRA}_annotion_time.txt` says which spans of a video are used, `_crop_wh.txt` where the face is (pixels
at the height that `_resolution.txt` names; x w y h, in this order). Some spans have no crop row, some heights
are 0, and one file begins with a byte order mark.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.sources.files import by_stem, lines, missing
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo_platform import storage

SETS = ("RD", "WDA", "WRA")
_SPAN = re.compile(r"^(?:(\d+):)?(\d+):(\d+)-(?:(\d+):)?(\d+):(\d+)$")


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """Spans of whole videos where annotations are there; every other video is a clip as it lies."""
    here = by_stem(uri)
    tables = {PurePosixPath(name).name: name for name in storage.walk(uri) if name.endswith(".txt")}
    for group in SETS:
        if f"{group}_annotion_time.txt" in tables:
            yield from _annotated(uri, group, tables, here)
    for stem, path in here.items():
        yield Source(storage.join(uri, path), person(re.sub(r"_\d+$", "", stem)))


def _annotated(uri: str, group: str, tables: dict[str, str], here: dict[str, str]) -> Iterator[Source]:
    """Sources of one set; takes the videos that it knows out of `here`."""

    def table(kind: str) -> list[list[str]]:
        name = tables.get(f"{group}_{kind}.txt")
        return lines(storage.join(uri, name)) if name else []

    crops = {_stem(row[0]): row[1:] for row in table("crop_wh")}
    heights = {_stem(row[0]): row[1] for row in table("resolution") if len(row) > 1}
    used = set()
    for name, *spans in table("annotion_time"):
        stem = _stem(name)
        path = next((here[key] for key in (stem, f"{group}_{stem}") if key in here), None)
        cut = any(re.fullmatch(rf"(?:{group}_)?{re.escape(stem)}_\d+", key) for key in here)
        if path is None and not cut:
            yield missing(uri, f"{stem}.mp4", person(stem))
        if path is None:
            continue
        used.add(PurePosixPath(path).stem)
        for number, text in enumerate(spans):
            source = Source(storage.join(uri, path), person(stem))
            yield _span(source, text, crops.get(f"{stem}_{number}"), heights.get(stem, "0"))
    for stem in used:
        del here[stem]


def _span(source: Source, text: str, crop: list[str] | None, height: str) -> Source:
    match = _SPAN.match(text)
    if match is None:
        return Source(source.uri, source.identity, problem=f"annotation: the span {text[:40]!r} is no MM:SS-MM:SS")
    h1, m1, s1, h2, m2, s2 = (int(part or 0) for part in match.groups())
    start, end = float(h1 * 3600 + m1 * 60 + s1), float(h2 * 3600 + m2 * 60 + s2)
    if end <= start:
        return Source(source.uri, source.identity, problem=f"annotation: the span {text[:40]!r} ends before it begins")
    region, listed = None, float(height) if height.isdigit() else 0.0
    if crop and len(crop) == 4 and all(value.isdigit() for value in crop) and listed:
        x, w, y, h = (float(value) for value in crop)
        region = (x, y, x + w, y + h)
    return Source(source.uri, source.identity, start_s=start, end_s=end, region=region, region_of=(0.0, listed))


def person(name: str) -> str:
    """Who is seen: the name without its set and number, since BenCardin1 and BenCardin2 are one person. The radio
    speakers have nothing but a number."""
    bare = re.sub(rf"^({'|'.join(SETS)})_", "", name)
    return bare if bare.startswith("Radio") else re.sub(r"\d+$", "", bare) or bare


def _stem(name: str) -> str:
    return name.removesuffix(".mp4")
