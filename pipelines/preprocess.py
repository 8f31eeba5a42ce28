"""Ingestion: videos to shards of clips. Read `run` top to bottom; each step is a function of its own.

    plan      list the inputs, leave out what the data set holds           pipelines/plan.py
    ingest    Ray Data: decode, find faces, crop, publish shards           pipelines/ingest.py, clips.py, tracks.py
    publish   quarantine, manifest, summary, in this order, all or nothing

A run that is stopped is started again with the same command: finished units are kept, and the result is the
one an unbroken run gives. Bad videos are rows of the quarantine, not errors, until they are too many.
"""

import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field, field_validator

from pipelines import clips, ingest, plan, quarantine, schema, shards
from pipelines.clips import ClipConfig
from pipelines.sources import READERS
from xnemo_platform import manifest, storage
from xnemo_platform.config import Config, diff, fingerprint
from xnemo_platform.errors import PlatformError

SUMMARY = "summary.json"
Progress = Callable[[str, int, int], None]  # what, done, total


class IngestConfig(Config):
    """What to read, where to write, how to cut. Only `clips`, `dataset` and the shares change the result."""

    source: str
    """Folder or URI of the videos."""
    output: str
    """Folder or URI of the data set."""
    reader: str = "folder"
    """How the source is laid out: a key of pipelines.sources.READERS."""
    dataset: str = ""
    """Name in the rows; the reader's by default."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first inputs."""
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

    @field_validator("reader")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in READERS:
            raise ValueError(f"no such reader; known are {', '.join(sorted(READERS))}")
        return name


def run(config: IngestConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Ingest and return the summary, with "new_clips", "seconds" and "frames_per_s" of this run.

    Uses the Ray this process is connected to, else a private one. Raises PlatformError, and leaves the data
    set as it was: source missing or empty, output made in another way or in use, too much quarantined.
    """
    began = time.monotonic()
    about = describe(config)
    version = check_output(config, about)
    work = plan.make(config.reader, config.source, config.output, config.limit, config.inputs_per_unit, version)
    if not work.units and not work.records:
        return {
            **_known_summary(config.output),
            "new_clips": 0,
            "frames_per_s": 0.0,
            "seconds": time.monotonic() - began,
        }
    clips.check_detector(config.clips)
    with storage.lock(
        storage.join(config.output, ".ingest.lock"),
        wait_s=0,
        busy="another ingestion is writing this data set; wait for it or choose another output",
    ):
        records = list(work.records)
        for record in _ingested(config, version, work):
            records.append(record)
            _report(progress, records, work, began)
            _check_quarantine(config, records, work)
        summary = publish(config, about, records, work)
    seconds = time.monotonic() - began
    frames = sum(record["frames"] for record in records[len(work.records) :])
    new = sum(shard["rows"] for record in records for shard in record["shards"])
    return {**summary, "new_clips": new, "seconds": seconds, "frames_per_s": frames / seconds}


def estimate(config: IngestConfig) -> dict[str, Any]:
    """What `run` would do, from the headers of up to 20 inputs; writes nothing. Same errors as `run`."""
    from xnemo_platform.sandbox import Sandbox

    version = check_output(config, describe(config))
    work = plan.make(config.reader, config.source, config.output, config.limit, config.inputs_per_unit, version)
    todo = [source for group in work.units.values() for source in group]
    sample = todo[:: max(1, len(todo) // 20)][:20]
    with Sandbox() as box:
        found = [
            box.call(clips.examine, storage.filesystem(source.uri)[1], ingest.limits(config))
            for source in sample
            if storage.is_local(source.uri)
        ]
    lengths = [outcome.value["duration"] for outcome in found if outcome.kind == "ok"]
    frames = round(sum(lengths) / max(1, len(lengths)) * config.clips.fps * len(todo))
    pixels = (config.clips.size / 512) ** 2
    return {
        "inputs": len(todo),
        "known": work.known,
        "units": len(work.units),
        "finished_units": len(work.records),
        "duplicates": len(work.duplicates),
        "unreadable_in_sample": len(found) - len(lengths),
        "frames": frames,
        "bytes": round(frames * 45_000 * pixels),  # measured: q95, talking heads
        "seconds": round(frames / (100 * min(config.workers, os.cpu_count() or 1))),
    }


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

        rows = [{"unit": plan.encode(name, group)} for name, group in work.units.items()]
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

    ray.data.DataContext.get_current().enable_progress_bars = False  # ours count videos, with an ETA
    logging.getLogger("ray.data").setLevel(logging.WARNING)
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


def _report(progress: Progress | None, records: list[dict[str, Any]], work: plan.Plan, began: float) -> None:
    done = sum(len(record["sources"]) for record in records[len(work.records) :])
    if progress is not None:
        progress("videos", done, work.pending)
        return
    clip_count = sum(shard["rows"] for record in records for shard in record["shards"])
    bad = sum(len(record["quarantine"]) for record in records)
    left = (time.monotonic() - began) / done * (work.pending - done)
    print(
        f"videos {done}/{work.pending}  clips {clip_count}  quarantined {bad}  "
        f"ETA {int(left // 60)}:{int(left % 60):02d}",
        flush=True,
    )


def _check_quarantine(config: IngestConfig, records: list[dict[str, Any]], work: plan.Plan) -> None:
    """Stop as soon as too many inputs are known to be unusable, whatever is still to come."""
    rejected = [row for record in records for row in record["quarantine"]]
    total = work.pending + sum(len(record["sources"]) for record in work.records)
    unusable = len({row["fingerprint"] for row in rejected})
    if unusable > config.max_quarantine * total:
        codes = ", ".join(f"{code} {count}" for code, count in Counter(r["code"] for r in rejected).most_common(5))
        first = rejected[0]
        raise PlatformError(
            f"{unusable} of {total} inputs cannot be used ({codes}; first: {first['source_uri']}: {first['message']}); "
            f"nothing was published. Mend the source or the filters, or raise max_quarantine={config.max_quarantine}"
        )


def publish(
    config: IngestConfig, about: dict[str, Any], records: list[dict[str, Any]], work: plan.Plan
) -> dict[str, Any]:
    """Enter finished units: quarantine first, then the manifest (which makes them exist), then the summary."""
    _check_quarantine(config, records, work)
    rejected = [*work.duplicates, *(row for record in records for row in record["quarantine"])]
    if rejected or not storage.exists(storage.join(config.output, quarantine.NAME)):
        quarantine.enter(config.output, rejected)
    manifest.append(
        config.output, [row for record in records for row in _manifest_rows(record)], about, inputs_once=True
    )
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


def summarise(output: str) -> dict[str, Any]:
    """Counts of a data set, from its manifest, shards and quarantine alone."""
    table = manifest.read(output)
    reader = shards.ClipReader(output)
    facts = reader.table(["identity", "split", "n_frames", "fps"]).to_pylist()
    notes = [json.loads(text) for text in table["notes"].to_pylist() if text]
    dropped: Counter[str] = Counter()
    for note in notes:
        dropped.update(note.get("dropped", {}))
    splits = sorted({row["split"] for row in facts})
    return {
        "output": output,
        "dataset": manifest.description(output)["dataset"],
        "clips": len(reader),
        "frames": sum(row["n_frames"] for row in facts),
        "hours": round(sum(row["n_frames"] / row["fps"] for row in facts) / 3600, 4),
        "identities": len({row["identity"] for row in facts}),
        "splits": {
            name: {
                "clips": sum(row["split"] == name for row in facts),
                "identities": len({row["identity"] for row in facts if row["split"] == name}),
            }
            for name in splits
        },
        "decoded_frames": sum(note.get("frames", 0) for note in notes),
        "dropped_frames": dict(sorted(dropped.items())),
        "quarantined": dict(sorted(Counter(row["code"] for row in quarantine.read(output)).items())),
        "shards": sum(bool(name) for name in table["shard"].to_pylist()),
        "bytes": sum(table["bytes"].to_pylist()),
        "manifest_sha256": reader.digest,
    }
