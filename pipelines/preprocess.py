"""Ingestion: videos to shards of clips. Read `run` top to bottom; each step is a function of its own.

    plan      list the inputs, leave out what the data set holds           pipelines/plan.py
    ingest    Ray Data: decode, find faces, crop, publish shards           pipelines/ingest.py, clips.py, tracks.py
    publish   quarantine, manifest, summary, in this order, all or nothing       pipelines/summary.py

A run that is stopped is started again with the same command: finished units are kept, and the result is the
one an unbroken run gives. Bad videos are rows of the quarantine, not errors, until they are too many.
"""

import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import Field, field_validator

from pipelines import clips, ingest, plan, quarantine, schema
from pipelines.clips import ClipConfig
from pipelines.sources import READERS
from pipelines.sources.source import SourceConfig
from pipelines.summary import summarise
from xnemo_platform import manifest, storage
from xnemo_platform.config import Config, diff, fingerprint
from xnemo_platform.errors import PlatformError

SUMMARY = "summary.json"
Progress = Callable[[str, int, int], None]  # what, done, total
_ROUND = 512  # units handed to Ray Data at once: the driver's memory does not grow with the number of videos


class IngestConfig(Config):
    """What to read, where to write, how to cut. Only `clips`, `dataset` and the shares change the result."""

    source: str
    """Folder or URI of the videos."""
    output: str
    """Folder or URI of the data set."""
    reader: str = "folder"
    """How the source is laid out: a key of pipelines.sources.READERS."""
    reader_options: SourceConfig = SourceConfig()
    dataset: str = ""
    """Name in the rows; the reader's by default."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first inputs."""
    retry: bool = False
    """Try again what is in quarantine and brought no clip."""
    clips: ClipConfig = ClipConfig()
    val_share: float = Field(default=0.05, ge=0, lt=1)
    test_share: float = Field(default=0.0, ge=0, lt=1)
    max_quarantine: float = Field(default=0.2, ge=0, le=1)
    """The run fails, and publishes nothing, when a larger share of the inputs cannot be used."""
    workers: int = Field(default=2, ge=1)
    cpus: float = Field(default=0.5, gt=0)
    """Logical CPUs of a worker: little, so that two workers never starve a machine with two cores."""
    inputs_per_unit: int = Field(default=16, ge=1)
    shard_mb: int = Field(default=128, ge=1, le=1024)
    part_s: float = Field(default=60.0, ge=1)
    """Longer videos are worked on in parts of this length."""
    max_minutes: float = Field(default=30.0, gt=0)
    """Longer videos are quarantined."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Wall clock for one part."""
    memory_gb: float = Field(default=6.0, ge=1)
    attempts: int = Field(default=2, ge=1)
    """How often a video that kills or hangs the decoder is tried."""
    ray_progress: bool = False
    """Show Ray Data's own bars (tasks, actors, queues, memory) beside our count of videos."""

    @field_validator("reader")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in READERS:
            raise ValueError(f"no such reader; known are {', '.join(sorted(READERS))}")
        return name


@dataclass
class Tally:
    """What is known of a run so far. seconds: of the workers, by stage."""

    total: int
    clips: int = 0
    frames: int = 0
    sources: int = 0
    units: set[str] = field(default_factory=set)
    unusable: set[str] = field(default_factory=set)
    codes: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def add(self, record: dict[str, Any]) -> None:
        """Count a finished unit."""
        self.units.add(record["unit"])
        self.clips += sum(shard["rows"] for shard in record["shards"])
        self.frames += record["frames"]
        self.sources += len(record["sources"])
        self.seconds.update(record.get("seconds", {}))
        self.dropped.update(record["dropped"])
        for row in record["quarantine"]:
            self.unusable.add(row["fingerprint"])
            self.codes[row["code"]] += 1
            self.first = self.first or f"{row['source_uri']}: {row['message']}"

    def numbers(self, seconds: float) -> dict[str, float]:
        """The same as flat metrics; `seconds`: wall clock of the run."""
        return {
            "videos": self.sources,
            "clips": self.clips,
            "frames": self.frames,
            "quarantined": len(self.unusable),
            "frames_per_s": self.frames / max(seconds, 1e-9),
            **{f"quarantined/{code}": count for code, count in self.codes.items()},
            **{f"dropped_frames/{reason}": count for reason, count in self.dropped.items()},
            **{f"worker_seconds/{stage}": value for stage, value in self.seconds.items()},
        }


def run(
    config: IngestConfig, progress: Progress | None = None, watch: Callable[[Tally], None] | None = None
) -> dict[str, Any]:
    """Ingest and return the summary, with "new_clips", "seconds" and "frames_per_s" of this run.

    Uses the Ray this process is connected to, else a private one. `watch` is told the counts of this run after
    each unit. Raises PlatformError, and leaves the data set as it was: source missing or empty, output made in
    another way or in use, too much quarantined.
    """
    began = time.monotonic()
    about = describe(config)
    version = check_output(config, about)
    work = planned(config, version)
    now, all_of_it = Tally(work.pending), Tally(work.pending + sum(len(record["sources"]) for record in work.records))
    made = storage.exists(storage.join(config.output, manifest.NAME))
    if not work.units and not work.records and (made or not work.refused):
        return {**_known_summary(config.output), "new_clips": 0, "frames_per_s": 0.0, "seconds": _since(began)}
    clips.check_networks(config.clips)
    with storage.lock(
        storage.join(config.output, ".ingest.lock"),
        wait_s=0,
        busy="another ingestion is writing this data set; wait for it or choose another output",
    ):
        for record in work.records:
            all_of_it.add(record)
        for record in _ingested(config, version, work):
            all_of_it.add(record)
            now.add(record)
            _report(progress, now, all_of_it, began)
            _check_quarantine(config, all_of_it)
            if watch is not None:
                watch(now)
        _check_quarantine(config, all_of_it)
        summary = publish(config, about, work, plan.records(config.output, version, all_of_it.units))
    seconds = _since(began)
    return {**summary, "new_clips": all_of_it.clips, "seconds": seconds, "frames_per_s": now.frames / seconds}


def _since(began: float) -> float:
    return time.monotonic() - began


def planned(config: IngestConfig, version: str) -> plan.Plan:
    """The plan of a config. Raises PlatformError as `plan.make`."""
    return plan.make(
        config.reader,
        config.source,
        config.output,
        config.limit,
        config.inputs_per_unit,
        version,
        config.reader_options,
        config.retry,
    )


def describe(config: IngestConfig) -> dict[str, Any]:
    """What decides the content of the data set; kept in its manifest and never mixed."""
    return {
        "kind": f"clips/{schema.VERSION}",
        "code": ingest.CODE_VERSION,
        "dataset": config.dataset or config.reader,
        "val_share": config.val_share,
        "test_share": config.test_share,
        "clips": config.clips.model_dump(mode="json"),
    }


def check_output(config: IngestConfig, about: dict[str, Any]) -> str:
    """The version of the treatment (a digest). Raises PlatformError if the output was made in another way."""
    made = manifest.description(config.output)
    if made and made != about:
        changes = "; ".join(diff(made, about)[:3])
        raise PlatformError(f"{config.output} was made in another way ({changes}): choose another output")
    return fingerprint(_Described(about=about))


class _Described(Config):
    about: dict[str, Any]


def _ingested(config: IngestConfig, version: str, work: plan.Plan) -> Iterator[dict[str, Any]]:
    """Run the units as one Ray Data stream; yield their records as they finish."""
    if not work.units:
        return
    with _ray(config):
        import ray

        items = iter(work.units.items())
        while some := list(islice(items, _ROUND)):
            rows = [{"unit": plan.encode(name, group)} for name, group in some]
            data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                ingest.Ingest,
                fn_constructor_args=(config, version),
                num_cpus=config.cpus,
                compute=ray.data.ActorPoolStrategy(size=min(config.workers, len(rows))),
            )
            for row in data.iter_rows():
                if row["error"]:
                    raise PlatformError(row["error"])
                yield json.loads(row["record"])


@contextlib.contextmanager
def _ray(config: IngestConfig) -> Iterator[None]:
    """A Ray to run on: the one this process is connected to, that of RAY_ADDRESS (as in a Ray job), or a private
    one that ends with the run."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
        os.environ.setdefault(name, value)
    import ray

    # ours count videos over all rounds, with an ETA; Ray's begin anew with each round and tell where it waits
    ray.data.DataContext.get_current().enable_progress_bars = config.ray_progress
    logging.getLogger("ray.data").setLevel(logging.INFO if config.ray_progress else logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # how to enable them in Python
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        ray.init(address="local", num_cpus=max(2, config.workers), include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _report(progress: Progress | None, now: Tally, all_of_it: Tally, began: float) -> None:
    if progress is not None:
        progress("videos", now.sources, now.total)
        return
    left = _since(began) / now.sources * (now.total - now.sources)
    print(
        f"videos {now.sources}/{now.total}  clips {all_of_it.clips}  quarantined {len(all_of_it.unusable)}  "
        f"ETA {int(left // 60)}:{int(left % 60):02d}",
        flush=True,
    )


def _check_quarantine(config: IngestConfig, tally: Tally) -> None:
    """Stop as soon as too many inputs are known to be unusable, whatever is still to come."""
    unusable = len(tally.unusable)
    if unusable > config.max_quarantine * tally.total:
        codes = ", ".join(f"{code} {count}" for code, count in tally.codes.most_common(5))
        raise PlatformError(
            f"{unusable} of {tally.total} inputs cannot be used ({codes}; first: {tally.first}); nothing was "
            f"published. Mend the source or the filters, or raise max_quarantine={config.max_quarantine}"
        )


def publish(
    config: IngestConfig, about: dict[str, Any], work: plan.Plan, records: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Enter finished units: quarantine first, then the manifest (which makes them exist), then the summary."""
    rows: list[dict[str, Any]] = []
    rejected = list(work.refused)
    for record in records:
        rejected += record["quarantine"]
        rows += _manifest_rows(record)
    if rejected or work.retried or not storage.exists(storage.join(config.output, quarantine.NAME)):
        quarantine.enter(config.output, rejected, instead_of=work.retried)
    manifest.append(config.output, rows, about, inputs_once=True)
    return _finish(config.output)


def _finish(output: str) -> dict[str, Any]:
    summary = summarise(output)
    storage.publish_bytes(storage.join(output, SUMMARY), json.dumps(summary, indent=1).encode())
    plan.clear_journal(output)
    return summary


def _known_summary(output: str) -> dict[str, Any]:
    """The summary on disk; a run that was killed after entering its manifest is finished here."""
    path = storage.join(output, SUMMARY)
    if storage.list_files(storage.join(output, plan.JOURNAL)) or not storage.exists(path):
        return _finish(output)
    return dict(json.loads(storage.read_bytes(path)))


def _manifest_rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    notes = json.dumps({"frames": record["frames"], "dropped": record["dropped"]}, sort_keys=True)
    for shard in record["shards"] or [{"shard": "", "split": "", "rows": 0, "bytes": 0, "sha256": ""}]:
        yield {**shard, "unit": record["unit"], "sources": record["sources"], "notes": notes}
        notes = "{}"
