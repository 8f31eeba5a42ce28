"""What an unfinished run leaves behind, so that the same command goes on where it stopped.

A hidden folder beside the result holds where the drivers' faces are, their motion as far as it was read, the latents of
all finished windows, and the state of the denoiser after the last of them. It is small (66 kB a frame at the released
shape), is bound by a fingerprint to everything that determines the result, and is removed once that exists.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.media.limits import LIMITS
from xnemo.prepare import Driving
from xnemo.stream import Stream

READ = 64  # frames of latents read back at once


class Work:
    """The folder of one run. Raises XNeMoError if another run uses it, or it belongs to another result."""

    def __init__(self, folder: Path, facts: Mapping[str, str], resume: bool) -> None:
        self.folder, self.facts = folder, dict(facts)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        if resume:
            self._check()
        else:
            self._empty()
        _replace(folder / "facts.json", json.dumps(self.facts, indent=1).encode())

    def part(self, name: str) -> Part:
        """What is kept of one animated face."""
        return Part(self.folder / name)

    def started(self) -> bool:
        """Whether something worth going on from is kept."""
        return any(self.folder.glob("*/state.safetensors"))

    def close(self, keep: bool) -> None:
        """Let go of the folder; without `keep` it is removed."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _locked(self) -> IO[str]:
        lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise XNeMoError(f"{self.folder} is in use: another run is writing this result") from None
        return lock

    def _check(self) -> None:
        path = self.folder / "facts.json"
        try:
            before = json.loads(path.read_text()) if path.exists() else self.facts
            differing = [name for name in {**before, **self.facts} if before.get(name) != self.facts.get(name)]
        except (ValueError, AttributeError):
            differing = ["its record"]
        if differing:
            self._lock.close()
            raise XNeMoError(
                f"the unfinished run in {self.folder} differs in {', '.join(sorted(differing))}: "
                "repeat its command to go on, or leave --resume out to begin again"
            )

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


class Part:
    """One face: its driver's place and motion, its finished latents, and the denoiser's state after them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._driving, self._codes, self._latents, self._state = (
            folder / name for name in ("driving.safetensors", "f_mot.f32", "latents.f32", "state.safetensors")
        )

    def driving(self, path: Path) -> Driving | None:
        """What is known of the driver, whose file is at `path`."""
        kept = self._loaded(self._driving)
        if kept is None:
            return None
        fps, start, has_audio = kept["facts"].tolist()
        return Driving(path, kept["boxes"].numpy(), kept["f_rts"].numpy(), fps, start, bool(has_audio), LIMITS)

    def keep_driving(self, driving: Driving) -> None:
        from safetensors.torch import save

        facts = torch.tensor([driving.fps, driving.start, driving.has_audio], dtype=torch.float64)
        boxes, f_rts = torch.from_numpy(driving.boxes), torch.from_numpy(driving.f_rts)
        _replace(self._driving, save({"facts": facts, "boxes": boxes, "f_rts": f_rts}))

    def codes(self) -> IO[bytes]:
        """The file for the driver's f_mot."""
        self._codes.touch()
        return self._codes.open("r+b")

    def finished(self, stream: Stream, like: Tensor) -> Iterator[Tensor]:
        """The stream's latents [1,C,n,h,w] from the first: those kept, then new ones, kept as they come.

        like [1,C,h,w]: one frame of them, on the device where they are wanted."""
        saved = self._loaded(self._state)
        if saved is not None:
            frames = int(saved.pop("frames"))
            if not self._latents.exists() or self._latents.stat().st_size < frames * like[0].numel() * 4:
                raise self._damaged()
            stream.go_on(saved)
            yield from self._kept(frames, like)
        with self._latents.open("r+b" if saved is not None else "wb") as file:
            if saved is not None:
                file.truncate(frames * like[0].numel() * 4)
                file.seek(0, os.SEEK_END)
            for latents in stream:
                file.write(latents[0].transpose(0, 1).float().cpu().contiguous().numpy().tobytes())
                file.flush()
                self._keep_state(stream.state(), file.tell() // (like[0].numel() * 4))
                yield latents

    def _kept(self, frames: int, like: Tensor) -> Iterator[Tensor]:
        each = like[0].numel() * 4
        with self._latents.open("rb") as file:
            for at in range(0, frames, READ):
                n = min(READ, frames - at)
                values = np.frombuffer(file.read(n * each), np.float32).copy()
                yield torch.from_numpy(values).view(n, *like.shape[1:]).transpose(0, 1)[None].to(like.device)

    def _keep_state(self, state: dict[str, Tensor], frames: int) -> None:
        from safetensors.torch import save

        _replace(self._state, save({**state, "frames": torch.tensor(frames)}))

    def _loaded(self, path: Path) -> dict[str, Tensor] | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not path.exists():
            return None
        try:
            return load(path.read_bytes())
        except SafetensorError:
            raise self._damaged() from None

    def _damaged(self) -> XNeMoError:
        return XNeMoError(f"{self.folder} is damaged: leave --resume out to begin again")


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(data)
    os.replace(partial, path)
