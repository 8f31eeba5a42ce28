"""What an ingestion would do and cost, measured on a few of its inputs. Nothing is written."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipelines import clips, ingest, preprocess
from pipelines.preprocess import IngestConfig
from pipelines.sources.source import Source
from xnemo_platform import storage
from xnemo_platform.sandbox import Limits, Sandbox

_LOOKED_AT, _COPIED = 20, 4  # inputs whose headers are read; fewer where each has to be copied here first
_TRIED, _TRIED_S = 3, 4.0  # inputs that are worked on, seconds of each, from its middle


@dataclass
class _Trial:
    """What was worked on, and what came of it. seconds: of one worker."""

    inputs: int = 0
    frames: int = 0
    bytes: int = 0
    seconds: float = 0.0


def estimate(config: IngestConfig) -> dict[str, Any]:
    """What `preprocess.run` would do; same errors. "seconds" (without the start of Ray, some ten) and "bytes" scale
    what a few seconds of up to three inputs took and gave; they are None where none of those could be used."""
    work = preprocess.planned(config, preprocess.check_output(config, preprocess.describe(config)))
    clips.check_networks(config.clips)
    most = _LOOKED_AT if storage.is_local(config.source) else _COPIED
    todo = (source for group in work.units.values() for source in group)
    sample = list(islice(todo, 0, None, max(1, work.pending // most)))[:most]
    lengths: list[float] = []
    trial, copy = _Trial(), ingest.Copy()
    with Sandbox(Limits(seconds=config.timeout_s, memory=int(config.memory_gb * 2**30))) as box:
        box.call(clips.check_networks, config.clips)  # loading them is not the work
        for source in sample:
            path = str(copy.of(source.uri))
            looked = box.call(clips.examine, path, ingest.limits(config), source.stills)
            if looked.kind != "ok":
                continue
            end = min(looked.value["duration"], source.end_s or looked.value["duration"])
            lengths.append(max(0.0, end - source.start_s))
            if trial.inputs < _TRIED:
                _try(box, config, source, path, looked.value, lengths[-1], trial)
    frames = round(sum(lengths) / max(1, len(lengths)) * config.clips.fps * work.pending)
    speed = trial.frames / trial.seconds if trial.seconds else 0.0
    return {
        "inputs": work.pending,
        "known": work.known,
        "units": len(work.units),
        "finished_units": len(work.records),
        "refused": dict(sorted(Counter(row["code"] for row in work.refused).items())),
        "unreadable_in_sample": len(sample) - len(lengths),
        "hours": round(frames / config.clips.fps / 3600, 3),
        "frames": frames,
        "bytes": round(frames * trial.bytes / trial.frames) if trial.frames else None,
        "seconds": round(frames / speed / min(config.workers, os.cpu_count() or 1)) if speed else None,
        "measured": {"inputs": trial.inputs, "frames": trial.frames, "frames_per_s_of_a_worker": round(speed, 1)},
    }


def _try(
    box: Sandbox, config: IngestConfig, source: Source, path: str, info: dict[str, Any], length: float, trial: _Trial
) -> None:
    """Make clips of some seconds out of the middle of an input, and add them to the trial."""
    start = source.start_s + max(0.0, (length - _TRIED_S) / 2)
    person = clips.Person(source.region, source.region_of, source.stills)
    end = min(start + _TRIED_S, source.start_s + length)
    done = box.call(clips.extract, path, info, start, end, config.clips, ingest.limits(config), person)
    if done.kind == "ok":
        trial.inputs += 1
        trial.frames += done.value["frames"]
        trial.bytes += sum(len(frame) for clip in done.value["clips"] for frame in clip["frames"])
        trial.seconds += done.seconds
