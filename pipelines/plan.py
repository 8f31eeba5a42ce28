"""What an ingestion has to do: the inputs that are not in the data set yet, in units of work.

A unit is a few inputs that become shards together. Units are consecutive inputs in the reader's order, so the
same inputs give the same units however often the run was stopped. A finished unit leaves a record in the
journal beside the shards; records enter the manifest all at once when the whole run is done.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.sources import READERS
from pipelines.sources.source import Source, fingerprinted
from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError

JOURNAL = "journal"
_MIN_UNITS = 8  # a small source is divided further, so that all workers have something to do


@dataclass(frozen=True)
class Plan:
    """units: lists of sources still to be done, by unit name; records: units that are done but not entered;
    duplicates: quarantine rows of inputs whose content came before; known: inputs already in the manifest."""

    units: dict[str, list[Source]]
    records: list[dict[str, Any]]
    duplicates: list[dict[str, Any]]
    known: int

    @property
    def pending(self) -> int:
        """Inputs still to be read."""
        return sum(len(unit) for unit in self.units.values())


def make(reader: str, source: str, output: str, limit: int | None, per_unit: int, version: str) -> Plan:
    """List, fingerprint, leave out what is done, group by at most `per_unit`. Raises PlatformError if the source
    is missing or holds no video; reads only, writes nothing."""
    if not storage.exists(source):
        raise PlatformError(f"source {source} does not exist: check the path or URI")
    listed = fingerprinted(list(READERS[reader](source))[:limit])
    if not listed:
        raise PlatformError(f"source {source} holds no video for the reader {reader!r}: check the folder and reader")
    unique: dict[str, Source] = {}
    duplicates = []
    for item in listed:
        first = unique.setdefault(item.fingerprint, item)
        if first is not item:
            duplicates.append(rejection(item, "plan", "duplicate", f"same content as {first.uri}"))
    known = {name for names in manifest.read(output)["sources"].to_pylist() for name in names}
    pending = {name: item for name, item in unique.items() if name not in known}
    records = []
    for record in _records(output, version):
        if pending.keys() >= set(record["sources"]):
            records.append(record)
            for name in record["sources"]:
                del pending[name]
    left = list(pending.values())
    size = max(1, min(per_unit, len(unique) // _MIN_UNITS))
    units = {unit_name(group, version): group for group in (left[at : at + size] for at in range(0, len(left), size))}
    return Plan(units, records, duplicates, len(unique.keys() & known))


def unit_name(group: list[Source], version: str) -> str:
    """Name of a unit: a digest of its inputs and of how they are treated."""
    return hashlib.sha256("\n".join([version, *(item.fingerprint for item in group)]).encode()).hexdigest()[:24]


def rejection(
    source: Source, stage: str, code: str, message: str, sha256: str = "", attempts: int = 1
) -> dict[str, Any]:
    """A quarantine row."""
    return {
        "source_uri": source.uri,
        "fingerprint": source.fingerprint,
        "sha256": sha256,
        "stage": stage,
        "code": code,
        "message": message[:500],
        "attempts": attempts,
    }


def encode(unit: str, group: list[Source]) -> str:
    """A unit as text, for a row of Ray Data."""
    return json.dumps({"unit": unit, "sources": [asdict(source) for source in group]})


def decode(text: str) -> tuple[str, list[Source]]:
    """What `encode` wrote."""
    value = json.loads(text)
    return value["unit"], [Source(**source) for source in value["sources"]]


def publish_record(output: str, version: str, record: dict[str, Any]) -> None:
    """Note in the journal that a unit is done."""
    data = json.dumps({"version": version, **record}).encode()
    storage.publish_bytes(storage.join(output, JOURNAL, f"{record['unit']}.json"), data)


def _records(output: str, version: str) -> list[dict[str, Any]]:
    folder = storage.join(output, JOURNAL)
    records = []
    for name in storage.list_files(folder):
        record = json.loads(storage.read_bytes(storage.join(folder, name)))
        if record["version"] == version:
            records.append(record)
    return records


def clear_journal(output: str) -> None:
    """Forget the records, once they are entered."""
    fs, path = storage.filesystem(storage.join(output, JOURNAL))
    if fs.exists(path):
        fs.rm(path, recursive=True)
