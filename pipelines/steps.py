"""Steps that are remembered: what was finished under the same settings is not done again.

A step's result is a small record on disk, keyed by its settings and by the results it depends on. `Jobs` runs a
step as a job of a Ray cluster; a job that is already running under that key is followed, not started twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xnemo_platform import submit
from xnemo_platform.errors import PlatformError

PREFIX = re.compile(r"\x1b\[[0-9;]*m|^\([\w() ]+pid=\d+[^)]*\)\s*")  # colours, and Ray's "(Worker pid=1)"
PROGRESS = re.compile(r"\bETA\b")
QUIET_S = 5.0  # seconds between two progress lines where they cannot overwrite each other


@dataclass
class Line:
    """Runs steps in order, remembers what is done, and says so."""

    folder: Path
    total: int
    say: Callable[[str], None] = print
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        """A numbered line for something that is neither kept nor repeated."""
        self.done[text] = {}
        self.say(f"[{len(self.done)}/{self.total}] {text}")

    def step(self, name: str, does: str, work: Callable[[], dict[str, Any]], *depends: Any) -> dict[str, Any]:
        """Do a step, or take its result from disk if its settings and all it depends on are the same."""
        key = hashlib.sha256(json.dumps([name, depends], sort_keys=True, default=str).encode()).hexdigest()
        record = self.folder / "steps" / f"{name}.json"
        known = json.loads(record.read_text()) if record.exists() else {}
        label = f"[{len(self.done) + 1}/{self.total}] {does}"
        if known.get("key") == key and all(Path(path).exists() for path in known["result"].get("keeps", [])):
            self.say(f"{label}: done before")
            self.done[name] = known["result"]
            return self.done[name]
        self.say(f"{label} …")
        start = time.monotonic()
        result = work() | {"seconds": round(time.monotonic() - start, 1)}
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(".part")
        temporary.write_text(json.dumps({"key": key, "result": result}, indent=1))
        temporary.replace(record)
        self.say(f"    {result['seconds']:.0f} s ({time.monotonic() - self.began:.0f} s since the start)")
        self.done[name] = result
        return result


@dataclass
class Jobs:
    """Runs steps through Ray's job API, as a user of a cluster would."""

    line: Line
    address: str
    env: Mapping[str, str]
    overrides: Mapping[str, Sequence[str]]

    def step(self, name: str, does: str, output: Path, words: Sequence[str], *depends: Any) -> dict[str, Any]:
        """A step whose work is `xnemo <words> --output <output>` as a job; its result names the output."""
        words = [*words, "--output", str(output), *self.overrides.get(name, [])]

        def work() -> dict[str, Any]:
            self._submit(name, words, (words, depends))
            run_id = output / "run_id"
            return {
                "folder": str(output),
                "export": str(output / "export"),
                "run_id": run_id.read_text() if run_id.exists() else None,
                "keeps": [str(output)],
            }

        return self.line.step(name, does, work, words, depends)

    def run(self, name: str, does: str, words: Sequence[str]) -> list[str]:
        """A job that is wanted every time, such as a service; its log."""
        self.line.note(does)
        return self._submit(name, [*words, *self.overrides.get(name, [])], time.time())

    def _submit(self, name: str, words: Sequence[str], key: Any) -> list[str]:
        digest = hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:8]
        job_id, log = f"{name}-{digest}", self.line.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        submit.submit([f"jobs.{words[0]}", *words[1:]], job_id, self.address, env=self.env)
        lines: list[str] = []
        shown = Shown(self.line.say)
        with log.open("w") as file:

            def on_line(raw: str) -> None:
                text = PREFIX.sub("", PREFIX.sub("", raw)).rstrip()
                file.write(text + "\n")
                lines.append(text)
                shown.line(text)

            job = submit.follow(job_id, self.address, on_line)
        shown.end()
        if job.status != "SUCCEEDED":
            said = [text for text in lines if text.startswith("error: ")] or [job.message]
            raise PlatformError(
                f"job {job_id}: {said[-1].removeprefix('error: ')} Log: {log}; the same command goes on."
            )
        return lines


class Shown:
    """Progress lines: overwritten on a terminal, one every few seconds elsewhere."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.live, self.last = say, sys.stdout.isatty(), 0.0

    def line(self, text: str) -> None:
        if not PROGRESS.search(text):
            return
        if self.live:
            print(f"\r    {text[:100]:<100}", end="", flush=True)
        elif time.monotonic() - self.last > QUIET_S:
            self.last = time.monotonic()
            self.say(f"    {text}")

    def count(self, what: str) -> Callable[[int, int], None]:
        """A callback (done, total) that shows how far a work of this process is."""
        began = time.monotonic()

        def update(done: int, total: int) -> None:
            left = (time.monotonic() - began) / max(done, 1) * (total - done)
            self.line(f"{what} {done}/{total}  ETA {left:.0f} s")
            if done >= total:
                self.end()

        return update

    def end(self) -> None:
        if self.live:
            print("\r" + " " * 104 + "\r", end="", flush=True)
