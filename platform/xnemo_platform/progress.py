"""What a training tells while it runs: means of the losses, where the time goes, and one line with the ETA."""

import resource
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xnemo_platform.trainee import TorchRanks

if TYPE_CHECKING:
    from xnemo_platform.engine import LoopConfig

LINE_EVERY_S = 5.0


class Progress:
    """Collects the numbers of the steps since the last record. Only rank 0 prints."""

    def __init__(self, config: "LoopConfig", first: int, ranks: TorchRanks):
        self.config, self.ranks, self.first = config, ranks, first
        self.last: dict[str, float] = {}
        self.started = self.told = self.mark = time.perf_counter()
        if ranks.rank == 0 and first:
            print(f"resumed at step {first} of {config.steps}", flush=True)
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.waiting, self.since = 0, 0.0, time.perf_counter()

    def loaded(self) -> None:
        """The batch of a step is there: what passed since the last step was waiting for data."""
        now = time.perf_counter()
        self.waiting += now - self.mark
        self.mark = now

    def stepped(self, done: int, losses: dict[str, Tensor], norms: dict[str, float]) -> None:
        """A step is over. Losses stay on their device until they are asked for."""
        self.mark = time.perf_counter()
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
        elapsed = time.perf_counter() - self.since
        means = self.ranks.mean({name: total.cpu() / self.steps for name, total in self.sums.items()})
        self.last = means | {
            "samples_per_s": self.steps * self.config.batch / elapsed,
            "time/step_ms": 1e3 * elapsed / self.steps,
            "time/waiting_for_data_ms": 1e3 * self.waiting / self.steps,
            "memory_gb": _memory_gb(),
        }
        self._reset()
        return self.last

    def _line(self, done: int, loss: float) -> str:
        seconds = (time.perf_counter() - self.started) / (done - self.first)
        left = seconds * (self.config.steps - done)
        rate = self.config.batch / seconds
        return (
            f"step {done}/{self.config.steps}  loss {loss:.4f}  {rate:.1f} samples/s  "
            f"ETA {int(left // 60)}:{int(left % 60):02d}"
        )


def _memory_gb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
