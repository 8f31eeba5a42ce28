"""CelebV-HQ: celebvhq_info.json, with processed/<clip>.mp4 (cut already) or raw/<video>.mp4 (whole) beside it.

Boxes are shares of the picture in CelebV-HQ and pixels in CelebV-Text; a value above 1 tells. Many videos are dead.
"""

from collections.abc import Iterator
from typing import Any

from pipelines.sources.files import by_stem, missing, read_json
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """The listed clips."""
    return listed(uri, "celebvhq_info.json")


def listed(uri: str, info: str) -> Iterator[Source]:
    """Clips of an info file, with "clips" around them or not: as cut, else as a span of the whole video."""
    found = read_json(storage.join(uri, info))
    entries = found.get("clips", found)
    if not isinstance(entries, dict):
        raise PlatformError(f"{storage.join(uri, info)} lists no clips by name: fetch it again")
    here = by_stem(uri)
    for name, entry in entries.items():
        if name != "meta_info":
            yield _source(uri, name, entry, here)


def _source(uri: str, name: str, entry: Any, here: dict[str, str]) -> Source:
    video = name.rpartition("_")[0] or name
    try:
        video = str(entry["ytb_id"])
        start, end = _span(entry["duration"])
        region = tuple(float(entry["bbox"][side]) for side in ("left", "top", "right", "bottom"))
        if not (0 <= start < end and region[0] < region[2] and region[1] < region[3]):
            raise ValueError("span or box is empty")
    except (KeyError, TypeError, ValueError) as error:
        return Source(
            storage.join(uri, f"{name}.mp4"), video, problem=f"annotation: the entry {name} is damaged ({error!r})"
        )
    facts: dict[str, Any] = {
        "emotion": _emotion(entry),
        "region": region,
        "region_of": (0.0, 0.0) if max(region) > 1 else (1.0, 1.0),
    }
    if name in here:
        return Source(storage.join(uri, here[name]), video, **facts)
    if video in here:
        return Source(storage.join(uri, here[video]), video, start_s=start, end_s=end, **facts)
    return missing(uri, f"{video}.mp4", video)


def _span(duration: dict[str, Any]) -> tuple[float, float]:
    """Seconds, also where the keys say frames."""
    start = duration["start_sec"] if "start_sec" in duration else duration["start_frame"]
    end = duration["end_sec"] if "end_sec" in duration else duration["end_frame"]
    return float(start), float(end)


def _emotion(entry: dict[str, Any]) -> str | None:
    """The emotion where the whole clip has one."""
    emotion = (entry.get("attributes") or {}).get("emotion") or {}
    labels = emotion.get("labels") if isinstance(emotion, dict) else None
    return labels if isinstance(labels, str) and not emotion.get("sep_flag") else None
