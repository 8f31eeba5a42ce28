"""What a training tells while it runs: means of the losses, where the time goes, and one line with the ETA."""

import contextlib
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from xnemo_platform.spans import Spans
from xnemo_platform.trainee import TorchRanks

if TYPE_CHECKING:
    from xnemo_platform.loop import LoopConfig

LINE_EVERY_S = 5.0


class Progress:
    """Collects the numbers of the steps since the last record. Only rank 0 prints."""

    def __init__(self, config: "LoopConfig", first: int, ranks: TorchRanks, spans: Spans, folder: Path):
        self.config, self.ranks, self.first, self.spans, self.folder = config, ranks, first, spans, folder
        self.step_s = 0.0  # of the steps of the last record, waiting for data included
        self.last: dict[str, float] = {}
        self.started = self.told = self.mark = time.perf_counter()
        if ranks.rank == 0 and first:
            print(f"resumed at step {first} of {config.steps}", flush=True)
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.waiting, self.working = 0, 0.0, 0.0
        self.spans.seconds()  # what validation spent is none of a step's

    def loaded(self) -> None:
        """The batch of a step is there: what passed since the last step was waiting for data."""
        now = time.perf_counter()
        self.waiting += now - self.mark
        self.mark = now

    def stepped(self, done: int, losses: dict[str, Tensor], norms: dict[str, float]) -> None:
        """A step is over. Losses stay on their device until they are asked for."""
        now = time.perf_counter()
        self.working += now - self.mark
        self.mark = now
        self.steps += 1
        for name, value in losses.items():
            self.sums[f"loss/{name}"] = self.sums.get(f"loss/{name}", torch.zeros(())) + value.float()
        for name, norm in norms.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + norm
        if self.ranks.rank == 0 and (self.mark - self.told >= LINE_EVERY_S or done == self.config.steps):
            self.told = self.mark
            print(self._line(done, float(losses["loss"])), flush=True)

    def metrics(self) -> dict[str, float]:
        """Means since the last call, over steps and ranks. Every rank calls this at the same steps."""
        means = self.ranks.mean({name: total.cpu() / self.steps for name, total in self.sums.items()})
        self.step_s = (self.waiting + self.working) / self.steps
        parts = {f"time/{name}_ms": 1e3 * spent / self.steps for name, spent in self.spans.seconds().items()}
        self.last = (
            means
            | parts
            | {
                "samples_per_s": self.config.batch / self.step_s,
                "time/step_ms": 1e3 * self.step_s,
                "time/waiting_for_data_ms": 1e3 * self.waiting / self.steps,
            }
            | _system(self.folder)
        )
        self._reset()
        return self.last

    def paused(self) -> None:
        """Something between two steps is over (validation, a save): its time is none of theirs."""
        self.mark = time.perf_counter()

    def _line(self, done: int, loss: float) -> str:
        seconds = (time.perf_counter() - self.started) / (done - self.first)
        left = seconds * (self.config.steps - done)
        rate = self.config.batch / seconds
        return (
            f"step {done}/{self.config.steps}  loss {loss:.4f}  {rate:.1f} samples/s  "
            f"ETA {int(left // 60)}:{int(left % 60):02d}"
        )


def _system(folder: Path) -> dict[str, float]:
    """How full and how busy this worker's machine is; rank 0 speaks for all."""
    found = {
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "system/cpu_percent": psutil.cpu_percent(),
        "system/memory_percent": psutil.virtual_memory().percent,
        "system/disk_free_gb": shutil.disk_usage(folder).free / 1e9,
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found |= {
            "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
            "system/gpu_memory_percent": 100 * (1 - free / total),
        }
        with contextlib.suppress(ModuleNotFoundError, RuntimeError):  # NVIDIA's library may not be there
            found["system/gpu_busy_percent"] = float(torch.cuda.utilization())
    return found
