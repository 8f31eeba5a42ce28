"""A window of steps traced by torch's profiler: which operation takes the time, and where the device waits."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import Field

from xnemo_platform.config import Config

T = TypeVar("T")


class Profile(Config):
    """Steps that are traced. The trace is large and the steps are slowed: a few say enough."""

    start: int = Field(ge=0)  # the first of them, counted from 0
    steps: int = Field(default=3, ge=1, le=100)


def profiled(
    steps: Iterable[tuple[int, T]], window: Profile | None, folder: Path, rank: int
) -> Iterator[tuple[int, T]]:
    """The same (step, batches); what the caller does with those of the window is traced.

    Rank 0's trace appears as `artifacts/profile/steps-<first>-<last>.json.gz` (chrome://tracing, Perfetto), with a
    table of the most expensive operations beside it, and goes to MLflow with the other files.
    """
    profiler = None
    for step, batches in steps:
        if window and rank == 0 and step == window.start:
            profiler = torch.profiler.profile(record_shapes=False)
            profiler.start()
        yield step, batches
        if window and profiler and step == window.start + window.steps - 1:
            profiler.stop()
            _write(profiler, window, folder / "artifacts" / "profile")
            profiler = None
    if window and profiler:  # the run was shorter than its window
        profiler.stop()
        _write(profiler, window, folder / "artifacts" / "profile")


def _write(profiler: torch.profiler.profile, window: Profile, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"steps-{window.start}-{window.start + window.steps - 1}"
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    (folder / f"{name}.txt").write_text(profiler.key_averages().table(sort_by=order, row_limit=30))
    partial = folder / f".{name}.json.gz"
    profiler.export_chrome_trace(str(partial))
    partial.rename(folder / f"{name}.json.gz")
