"""What an ingestion has to do: the inputs that are not in the data set yet, in units of work.

A unit is a few inputs that become shards together. Units are consecutive inputs in the order of their paths, so
the same inputs give the same units however often the run was stopped. A finished unit leaves a record in the
journal beside the shards; records enter the manifest all at once when the whole run is done.

The list of inputs lies in a temporary SQLite file: a million of them take no more memory than a hundred.
"""

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines import quarantine
from pipelines.sources import READERS
from pipelines.sources.source import EVERYTHING, Source, SourceConfig, as_plain, fingerprinted, from_plain
from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError

JOURNAL = "journal"
RETRY = "~"  # a retried input is known by its fingerprint, this, and the number of the retry
_MIN_UNITS = 8  # a small source is divided further, so that all workers have something to do
_TABLES = """
create table listed (uri, start, number integer primary key, source);
create table inputs (fingerprint text primary key, number integer, source) without rowid;
create table units (number integer primary key, name unique, size, sources);
"""


@dataclass(frozen=True)
class Plan:
    """units: lists of sources still to be done, by unit name; records: units that are done but not entered;
    refused: quarantine rows of inputs that need no reading (copies, links, dead entries); known: inputs already in
    the manifest; retried: (uri, fingerprint) of quarantine rows that are being tried again."""

    units: "Units"
    records: list[dict[str, Any]]
    refused: list[dict[str, Any]]
    known: int
    retried: list[tuple[str, str]]

    @property
    def pending(self) -> int:
        """Inputs still to be read."""
        return self.units.inputs

    @property
    def duplicates(self) -> list[dict[str, Any]]:
        """The refused inputs whose content came before."""
        return [row for row in self.refused if row["code"] == "duplicate"]


class Units(Mapping[str, list[Source]]):
    """Lists of sources by the name of their unit, in order, read from the database when they are asked for."""

    def __init__(self, base: sqlite3.Connection):
        self._base = base
        self.inputs = int(base.execute("select coalesce(sum(size), 0) from units").fetchone()[0])

    def __len__(self) -> int:
        return int(self._base.execute("select count(*) from units").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        return (name for (name,) in self._base.execute("select name from units order by number"))

    def __getitem__(self, name: str) -> list[Source]:
        row = self._base.execute("select sources from units where name = ?", [name]).fetchone()
        if row is None:
            raise KeyError(name)
        return [from_plain(plain) for plain in json.loads(row[0])]


def make(
    reader: str,
    source: str,
    output: str,
    limit: int | None,
    per_unit: int,
    version: str,
    options: SourceConfig = EVERYTHING,
    retry: bool = False,
) -> Plan:
    """List, fingerprint, leave out what is done, group by at most `per_unit`; with `retry`, take what is in
    quarantine again. Raises PlatformError if the source is missing or holds no video; reads only, writes nothing."""
    if not storage.exists(source):
        raise PlatformError(f"source {source} does not exist: check the path or URI")
    base = sqlite3.connect("", isolation_level=None)  # a file of its own that vanishes with the connection
    base.executescript(f"pragma journal_mode = off; pragma synchronous = off; begin; {_TABLES}")
    base.executemany(
        "insert into listed (uri, start, source) values (?, ?, ?)",
        ((item.uri, item.start_s, json.dumps(as_plain(item))) for item in _named(READERS[reader](source, options))),
    )
    refused = _identify(base, source, limit)
    unique = int(base.execute("select count(*) from inputs").fetchone()[0])
    if not unique and not refused:
        raise PlatformError(f"source {source} holds no video for the reader {reader!r}: check the folder and reader")
    retried = _take_again(base, output) if retry else []
    known = 0
    for names in manifest.read(output)["sources"].to_pylist():
        known += base.executemany("delete from inputs where fingerprint = ?", ([name] for name in names)).rowcount
    done = [record for record in records(output, version) if _all_pending(base, record["sources"])]
    _group(base, max(1, min(per_unit, unique // _MIN_UNITS)), version)
    return Plan(Units(base), done, refused, known, retried)


def _identify(base: sqlite3.Connection, root: str, limit: int | None) -> list[dict[str, Any]]:
    """Fill the table of inputs from the first `limit` listed ones; the quarantine rows of those that are none."""
    listed = base.execute(
        f"select source from listed order by uri, start, number limit {-1 if limit is None else limit}"
    )
    refused = []
    sources = (from_plain(json.loads(text)) for (text,) in listed)
    for number, item in enumerate(fingerprinted(_inside(sources, root))):
        if item.problem:
            code, _, message = item.problem.partition(": ")
            refused.append(rejection(item, "plan", code, message))
            continue
        row = [item.fingerprint, number, json.dumps(as_plain(item))]
        if not base.execute("insert or ignore into inputs values (?, ?, ?)", row).rowcount:
            (first,) = base.execute("select source from inputs where fingerprint = ?", row[:1]).fetchone()
            refused.append(rejection(item, "plan", "duplicate", f"same content as {json.loads(first)['uri']}"))
    return refused


def _named(sources: Iterable[Source]) -> Iterator[Source]:
    """The sources; one whose name is no text gets a readable name and a problem, since no table could hold it."""
    for item in sources:
        try:
            item.uri.encode()
        except UnicodeEncodeError:
            readable = item.uri.encode("utf-8", "backslashreplace").decode()
            item = Source(readable, "", problem="name: the name holds bytes that are no UTF-8 text; rename it")
        yield item


def _inside(sources: Iterable[Source], root: str) -> Iterator[Source]:
    """The sources, with a problem where a link leads out of the place that was given, or to no file at all."""
    for item in sources:
        if not item.problem and storage.leads_out(item.uri, root):
            item = replace(
                item, problem=f"outside_root: it leads out of {root}; ingest its place as a source of its own"
            )
        elif not item.problem and storage.is_special(item.uri):
            item = replace(item, problem="format: it is a pipe, a socket or a device, not a file")
        yield item


def _take_again(base: sqlite3.Connection, output: str) -> list[tuple[str, str]]:
    """Give inputs in quarantine that brought no clip the fingerprint of a retry, so that they are done anew."""
    from pipelines.shards import ClipReader

    used = set()
    if storage.exists(storage.join(output, manifest.NAME)):
        used = set(ClipReader(output).table(["source_sha256"])["source_sha256"].to_pylist())
    retried = []
    for row in quarantine.read(output):
        name, _, number = row["fingerprint"].partition(RETRY)
        again = f"{name}{RETRY}{int(number or 0) + 1}"
        if row["stage"] == "plan" or row["sha256"] in used:
            continue
        if base.execute("update inputs set fingerprint = ? where fingerprint = ?", [again, name]).rowcount:
            retried.append((row["source_uri"], row["fingerprint"]))
    return retried


def _all_pending(base: sqlite3.Connection, names: list[str]) -> bool:
    """Take a finished unit's inputs out of those to be done; False, and nothing taken, if one is none of them."""
    marks = ", ".join("?" * len(names))
    count = base.execute(f"select count(*) from inputs where fingerprint in ({marks})", names).fetchone()[0]
    if count == len(names):
        base.execute(f"delete from inputs where fingerprint in ({marks})", names)
    return bool(count == len(names))


def _group(base: sqlite3.Connection, size: int, version: str) -> None:
    """Divide what is left into units of `size`."""
    left = base.execute("select fingerprint, source from inputs order by number")
    while rows := left.fetchmany(size):
        name = _unit_name([fingerprint for fingerprint, _ in rows], version)
        sources = [json.loads(text) | {"fingerprint": fingerprint} for fingerprint, text in rows]
        values = [name, len(rows), json.dumps(sources)]
        base.execute("insert into units (name, size, sources) values (?, ?, ?)", values)


def _unit_name(fingerprints: list[str], version: str) -> str:
    """Name of a unit: a digest of its inputs and of how they are treated."""
    return hashlib.sha256("\n".join([version, *fingerprints]).encode()).hexdigest()[:24]


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
    return json.dumps({"unit": unit, "sources": [as_plain(source) for source in group]})


def decode(text: str) -> tuple[str, list[Source]]:
    """What `encode` wrote."""
    value = json.loads(text)
    return value["unit"], [from_plain(source) for source in value["sources"]]


def publish_record(output: str, version: str, record: dict[str, Any]) -> None:
    """Note in the journal that a unit is done."""
    data = json.dumps({"version": version, **record}).encode()
    storage.publish_bytes(storage.join(output, JOURNAL, f"{record['unit']}.json"), data)


def records(output: str, version: str, units: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Records of the journal, of these units or of all."""
    folder = storage.join(output, JOURNAL)
    names = [name for name in storage.list_files(folder) if units is None or name.removesuffix(".json") in units]
    for data in storage.read_many(folder, names):
        record = json.loads(data)
        if record["version"] == version:
            yield record


def clear_journal(output: str) -> None:
    """Forget the records, once they are entered."""
    storage.remove(storage.join(output, JOURNAL))
