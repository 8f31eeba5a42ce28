"""Checkpoints written while the training goes on: the step waits for a copy in memory, not for the disk.

One save runs at a time, in a thread; the next one waits for it first, so that at most one copy is held. Its ranks
speak through a process group of their own, because the training uses the other meanwhile.
"""

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from xnemo_platform.checkpoint import Checkpoints, Ranks, State
from xnemo_platform.errors import PlatformError

Files = dict[str, Any]
"""What a rank saves: path in the checkpoint's folder -> what torch.save gets, in host memory."""
log = logging.getLogger(__name__)


class Saver:
    """Saves checkpoints in the background. A save that fails is reported; the one before stays, the run goes on."""

    def __init__(self, checkpoints: Checkpoints, ranks: Ranks):
        self.checkpoints, self.ranks = checkpoints, ranks
        self.thread: threading.Thread | None = None
        self.failed: str | None = None  # why the last save failed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()  # also on the way out of an error: what was committed is what the next start finds

    def save(self, state: State, take: Callable[[], Files]) -> None:
        """Every rank calls this. `take()` copies what is to be saved; it is written after this returns."""
        self.wait()
        files = take()
        self.thread = threading.Thread(target=self._work, args=(state, files), name="checkpoint", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until the save that runs, if any, is over."""
        if self.thread:
            self.thread.join()
            self.thread = None

    def _work(self, state: State, files: Files) -> None:
        try:
            self.checkpoints.save(state, lambda folder: _write(folder, files), self.ranks)
            self.failed = None
        except PlatformError as error:
            self.failed = str(error)
            if self.ranks.rank == 0:
                log.warning(
                    "the checkpoint of step %d could not be written (%s); the training goes on, and the checkpoint "
                    "before stays: make room in %s",
                    state.step,
                    error,
                    self.checkpoints.root,
                )


def on_host(value: Any) -> Any:
    """A copy of nested states that later steps cannot change: tensors in host memory, no larger than they are."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return type(value)((key, on_host(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return type(value)(on_host(each) for each in value)
    return copy.deepcopy(value)


def _write(folder: Path, files: Files) -> None:
    for name, state in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch, ending the file, complains louder than the disk
                raise error.__context__ or error from None
