"""Checkpoints that are either whole or invisible.

A checkpoint is a folder `step-00000100`. It counts only when it holds COMMIT.json, which lists the digest
of every other file and the state of the run (step, config, tracking run). It is written under a temporary
name, flushed to disk, and renamed last. Readers take the newest valid one; a damaged one is skipped with a
warning. Kept are the newest few and the best by the validation's figure. A mirror holds the same ones elsewhere.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xnemo_platform.errors import PlatformError
from xnemo_platform.mirror import Mirror

COMMIT = "COMMIT.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a run needs besides its tensors. Noise and order are keyed by the step: no generator is here."""

    step: int  # steps done
    epoch: int
    fingerprint: str  # of the config, less the keys that may change
    config: dict[str, Any]
    run_id: str | None  # tracking run
    world: int
    zero: int
    figure: float | None = None  # what the validation at this step found; the lowest is the best


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder and its state."""

    folder: Path
    state: State


class Checkpoints:
    """The checkpoints of one run, below `root`. Loads nothing from anywhere else.

    DeepSpeed's files are pickles, that is, code: only files that this run wrote and committed are ever read.
    """

    def __init__(self, root: Path, keep: int = 2, mirror: Mirror | None = None):
        self.root = root
        self.keep = max(1, keep)
        self.mirror = mirror

    def save(self, state: State, write: Callable[[Path], None], ranks: "Ranks | None" = None) -> Path:
        """Every rank calls this; `write(folder)` puts each rank's files; rank 0 commits after all have.

        Returns the committed folder. Raises PlatformError on every rank if one of them cannot write (disk full):
        then nothing becomes visible and nothing is left behind.
        """
        ranks = ranks or Ranks()
        final = self.root / f"step-{state.step:08d}"
        temporary = self.root / f".{final.name}.tmp"
        try:
            _agree(ranks, lambda: self._begin(temporary) if ranks.rank == 0 else None)
            _agree(ranks, lambda: write(temporary))
            mine = _files(temporary)[ranks.rank :: ranks.world]  # digests are shared out: they cost a full read
            parts = _agree(ranks, lambda: {name: _flushed_digest(temporary / name) for name in mine})
            files = {name: entry for part in parts for name, entry in part.items()}
            _agree(ranks, lambda: self._commit(temporary, final, state, files) if ranks.rank == 0 else None)
        except PlatformError:
            if ranks.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def _begin(self, temporary: Path) -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def _commit(self, temporary: Path, final: Path, state: State, files: dict[str, dict[str, Any]]) -> None:
        _write_commit(temporary, state, files)
        if final.exists():  # a damaged one of the same step, or resume would have started after it
            shutil.rmtree(final)
        os.rename(temporary, final)
        _flush_folder(self.root)
        self._retain()
        if self.mirror:
            self.mirror.follow([folder for folder in self._folders() if _is_sound(folder)], last=COMMIT)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose digests hold, here or in the mirror; damaged ones are skipped with a warning."""
        here, there = {folder.name for folder in self._folders()}, set(self.mirror.names() if self.mirror else ())
        for name in sorted(here | there, reverse=True):
            for fetch in (False, True):
                if name not in (there if fetch else here):
                    continue
                try:
                    folder = self._fetched(name) if fetch else self.root / name
                    return Checkpoint(folder, verify(folder))
                except PlatformError as error:
                    log.warning("skipping a damaged checkpoint: %s", error)
        return None

    def best(self) -> Checkpoint | None:
        """The one with the lowest figure among those that were committed."""
        sound = [Checkpoint(folder, _read_commit(folder)[0]) for folder in self._folders() if _is_sound(folder)]
        judged = [(each.state.figure, each.state.step, each) for each in sound if each.state.figure is not None]
        return min(judged, key=lambda one: one[:2])[2] if judged else None

    def _fetched(self, name: str) -> Path:
        """The mirror's checkpoint of that name, put where it was written first."""
        assert self.mirror
        final, temporary = self.root / name, self.root / f".{name}.tmp"
        self._begin(temporary)
        self.mirror.fetch(name, temporary)
        verify(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        return final

    def at(self, folder: Path) -> Path:
        """`folder` itself, if it lies below this run's root. Raises `PlatformError` otherwise."""
        if self.root.resolve() not in folder.resolve().parents:
            raise PlatformError(f"{folder} is no checkpoint of this run ({self.root}); not loading it.")
        return folder

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted((f for f in self.root.iterdir() if re.fullmatch(r"step-\d{8}", f.name)), reverse=True)

    def _retain(self) -> None:
        """Keep the newest `keep` sound ones and the best; what is damaged or half-written is not counted, and goes."""
        kept, best = 0, self.best()
        for folder in self._folders():
            kept += (sound := _is_sound(folder))
            if not sound or (kept > self.keep and not (best and folder == best.folder)):
                (folder / COMMIT).unlink(missing_ok=True)  # first: a half-deleted one must not look valid
                shutil.rmtree(folder, ignore_errors=True)
        for leftover in self.root.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


class Ranks:
    """One process alone; `engine` gives the version that speaks to the other ranks."""

    rank, world = 0, 1

    def barrier(self) -> None:
        """Wait for every rank."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        return [value]


def _agree(ranks: Ranks, work: Callable[[], Any]) -> list[Any]:
    """What each rank's `work` returned. Raises PlatformError on all of them if it fails on one, for whatever reason:
    a rank that only raised would leave the others waiting."""
    found, wrong = None, None
    try:
        found = work()
    except Exception as error:
        wrong = f"rank {ranks.rank}: {getattr(error, 'strerror', None) or error}"
    told = ranks.gather((found, wrong))
    if said := [wrong for _, wrong in told if wrong]:
        raise PlatformError("; ".join(said))
    return [found for found, _ in told]


def verify(folder: Path) -> State:
    """Check every digest and return the state. Raises `PlatformError` naming what is wrong."""
    state, files = _read_commit(folder)
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise PlatformError(f"{path} is missing or has the wrong size.")
        if _digest(path) != entry["sha256"]:
            raise PlatformError(f"{path} does not match its digest.")
    return state


def require_same(state: State, fingerprint: str, changes: Iterable[str], folder: Path) -> None:
    """Refuse to continue a run under another config, and say what differs."""
    if state.fingerprint != fingerprint:
        what = "; ".join(changes) or "the code that reads the config changed"
        raise PlatformError(
            f"{folder} was written under another configuration ({what}); "
            "restore the old values, or start a new run under another name."
        )


def _is_sound(folder: Path) -> bool:
    """Committed and of the right sizes; digests are left to `verify`, which reads everything."""
    try:
        _, files = _read_commit(folder)
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (PlatformError, OSError):
        return False


def _read_commit(folder: Path) -> tuple[State, dict[str, dict[str, Any]]]:
    try:
        data = json.loads((folder / COMMIT).read_text())
        return State(**data["state"]), data["files"]
    except FileNotFoundError:
        raise PlatformError(f"{folder} was never committed.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PlatformError(f"{folder / COMMIT} is unreadable ({error}).") from None


def _write_commit(folder: Path, state: State, files: dict[str, dict[str, Any]]) -> None:
    with open(folder / COMMIT, "w") as out:
        json.dump({"state": asdict(state), "files": files}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    for inner in {folder, *(path.parent for path in folder.rglob("*"))}:
        _flush_folder(inner)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _flushed_digest(path: Path) -> dict[str, Any]:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return {"sha256": _digest(path), "bytes": path.stat().st_size}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
