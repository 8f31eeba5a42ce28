"""One unit of an ingestion, in one Ray actor: its videos through the sandbox, its clips into shards.

Pixels never travel through Ray: a row in is a list of sources, a row out says what was published.
"""

import hashlib
import json
import math
import shutil
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import clips, ingest_meters, plan, shards
from pipelines.sources.source import Source
from xnemo.media.limits import LIMITS, Limits
from xnemo_platform import sandbox, storage
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from pipelines.preprocess import IngestConfig

CODE_VERSION = "3"  # raise it when the same video would give other clips


class Ingest:
    """A Ray Data actor. Holds one sandboxed child for all its videos."""

    def __init__(self, config: "IngestConfig", version: str):
        self.config, self.version, self.limits = config, version, limits(config)
        self.box = sandbox.Sandbox(sandbox.Limits(seconds=config.timeout_s, memory=int(config.memory_gb * 2**30)))
        self.copy, self.dataset = Copy(), config.dataset or config.reader
        self._new()

    def _new(self) -> None:
        """Counts of a unit."""
        self.rejected: list[dict[str, Any]] = []
        self.dropped: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.frames = 0

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """{"unit": text} to {"record": text}; {"error": sentence} if the output cannot be written."""
        unit, group = plan.decode(row["unit"])
        try:
            record = self.ingest(unit, group)
            plan.publish_record(self.config.output, self.version, record)
            return {"record": json.dumps(record), "error": ""}
        except PlatformError as error:  # what went wrong is ours, not the data's: the run must stop
            return {"record": "", "error": str(error)}

    def ingest(self, unit: str, group: list[Source]) -> dict[str, Any]:
        """Publish the shards of a unit and return its record."""
        self._new()
        began = time.monotonic()
        rows = (row for source in group for row in self._rows(source))
        published = shards.write(self.config.output, rows, self.config.shard_mb << 20)
        spent = time.monotonic() - began
        self._spend("write", spent - sum(self.seconds.values()))  # what is left: the way there, shards
        return {
            "unit": unit,
            "sources": [source.fingerprint for source in group],
            "shards": published,
            "quarantine": self.rejected,
            "dropped": dict(self.dropped),
            "frames": self.frames,
            "seconds": {**self.seconds, "unit": spent},
        }

    def _rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """Rows of schema.CLIP for one video. A video that cannot be used becomes a quarantine row."""
        began = time.monotonic()
        try:
            path = self.copy.of(source.uri)
            digest = _sha256(path, source)
        except Exception as error:  # each kind of store has errors of its own
            self._reject(source, "fetch", "unreachable", str(error) or type(error).__name__)
            return
        finally:
            self._spend("fetch", time.monotonic() - began)
        rejected, dropped, found = len(self.rejected), Counter[str](), 0
        for part in self._parts(source, str(path), digest):
            dropped.update(part["dropped"])
            self.frames += part["frames"]
            kept = sum(len(clip["frames"]) for clip in part["clips"])
            ingest_meters.count("frames", {**part["dropped"], "kept": kept}, self.dataset)
            for clip in part["clips"]:
                found += 1
                yield self._row(source, digest, part["fps"], clip)
        self.dropped.update(dropped)
        if len(self.rejected) > rejected:
            return
        if found:
            ingest_meters.count("videos", {"used": 1}, self.dataset)
        else:
            reasons = dropped.most_common()
            said = ", ".join(f"{reason}: {count} frames" for reason, count in reasons)
            code = reasons[0][0] if reasons else "empty"
            self._reject(source, "filter", code, f"no clip passed the filters ({said})", digest)

    def _spend(self, stage: str, seconds: float) -> None:
        self.seconds[stage] += seconds  # type: ignore[assignment]  # fractions are counted too
        ingest_meters.count("seconds", {stage: seconds}, self.dataset)

    def _reject(self, source: Source, stage: str, code: str, message: str, digest: str = "", attempts: int = 1) -> None:
        self.rejected.append(plan.rejection(source, stage, code, message, digest, attempts))
        ingest_meters.count("videos", {code: 1}, self.dataset)

    def _parts(self, source: Source, path: str, digest: str) -> Iterator[dict[str, Any]]:
        """What `clips.extract` found, part by part: a part is short, so that time and memory are bounded."""
        info = self._call(source, digest, "probe", clips.examine, path, self.limits, source.stills)
        if info is None:
            return
        config = self.config.clips
        if info["fps"] < config.min_source_fps:
            said = f"{info['fps']:.1f} frames per second, fewer than {config.min_source_fps}"
            self._reject(source, "probe", "low_fps", said, digest)
            return
        end = min(info["duration"], source.end_s or math.inf)
        count = max(1, math.ceil((end - source.start_s) / self.config.part_s))
        # borders on whole frames of the clip rate, so that parts neither share nor miss one
        total = math.floor((end - source.start_s) * config.fps + 1e-3)
        borders = [source.start_s + round(total * k / count) / config.fps for k in range(count)] + [end]
        person = clips.Person(source.region, source.region_of, source.stills)
        for start, stop in pairwise(borders):
            asked = (path, info, start, stop, config, self.limits, person)
            part = self._call(source, digest, "decode", clips.extract, *asked)
            if part is not None:
                yield {**part, "fps": info["fps"]}

    def _call(self, source: Source, digest: str, stage: str, function: Any, *args: Any) -> Any:
        """The function's answer from the sandbox, or None and a quarantine row. What stopped the child is tried
        again, since the machine may have been at fault; an exception is final."""
        attempt, outcome = 1, self.box.call(function, *args)
        while outcome.kind not in ("ok", "error") and attempt < self.config.attempts:
            attempt, outcome = attempt + 1, self.box.call(function, *args)
        if outcome.kind == "ok":
            stages = outcome.value.get("seconds") if isinstance(outcome.value, dict) else None
            for name, seconds in (stages or {stage: outcome.seconds}).items():
                self._spend(name, seconds)
            return outcome.value
        self._spend(stage, outcome.seconds)
        code = outcome.code or outcome.kind  # an exception without a code is a fault of ours: name its class
        message = f"{outcome.error}: {outcome.message}" if code == "error" else outcome.message
        self._reject(source, stage, code, message, digest, attempt)
        return None

    def _row(self, source: Source, digest: str, fps: float, clip: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        start_ms = round(clip["span"][0] * 1000)
        # two people of one span are two sources, each with a face number 0
        place = hashlib.sha256(repr(source.region).encode()).hexdigest()[:4] if source.region else ""
        return {
            "clip_id": f"{digest[:16]}-{start_ms:07d}-{clip['face']}{place and '-'}{place}",
            "dataset": self.dataset,
            "identity": source.identity,
            "split": split_of(self.dataset, source.identity, config.val_share, config.test_share),
            "source_uri": source.uri,
            "source_sha256": digest,
            "source_span_s": clip["span"],
            "source_fps": fps,
            "fps": config.clips.fps,
            "n_frames": len(clip["frames"]),
            "size": config.clips.size,
            "emotion": source.emotion,
            "intensity": source.intensity,
            "code_version": CODE_VERSION,
            **{name: clip[name] for name in ("crop_box", "frames", "audio", "quality", "detector")},
            "face_boxes": list(clip["face_boxes"]),
            "landmarks": None if clip["landmarks"] is None else list(clip["landmarks"]),
        }


def limits(config: "IngestConfig") -> Limits:
    """What a video may ask for: the usual limits, those on length as configured."""
    times = config.max_minutes * 60 / LIMITS.seconds
    return replace(
        LIMITS,
        seconds=LIMITS.seconds * times,
        frames=round(LIMITS.frames * times),
        total_pixels=round(LIMITS.total_pixels * times),
    )


def split_of(dataset: str, identity: str, val_share: float, test_share: float) -> str:
    """ "train", "val" or "test" by a hash of who is seen: no identity is in two, and added data moves nothing."""
    digest = hashlib.sha256(f"{dataset}/{identity}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "val" if place < val_share else "test" if place < val_share + test_share else "train"


class Copy:
    """The last remote input, copied to this machine: the spans of a video and the clips of a zip come in a row."""

    def __init__(self) -> None:
        self.uri, self.folder = "", tempfile.TemporaryDirectory(prefix="xnemo-video-")

    def of(self, uri: str) -> Path:
        """A path on this machine to a file or folder."""
        fs, path = storage.filesystem(uri)
        if storage.is_local(uri):
            return Path(path)
        copy = Path(self.folder.name, "input")
        if uri != self.uri:
            self.uri = ""
            shutil.rmtree(copy, ignore_errors=True)
            copy.unlink(missing_ok=True)
            fs.get(path, str(copy), recursive=fs.isdir(path))
            self.uri = uri
        return copy


def _sha256(path: Path, source: Source) -> str:
    """Of the file; of pictures, over their names and contents (in a zip file, the checksums it keeps)."""
    if source.stills is None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if path.is_dir():
        names = source.stills.among(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        parts = [(name, hashlib.sha256((path / name).read_bytes()).hexdigest()) for name in names]
    else:
        with zipfile.ZipFile(path) as archive:
            parts = [(entry.filename, f"{entry.file_size} {entry.CRC}") for entry in source.stills.of_zip(archive)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
