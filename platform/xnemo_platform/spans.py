"""Where the time of a training step goes, and what its device could do: what the speed of a run is judged by."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PEAK_SIZE = {"cpu": 512, "cuda": 8192}  # of the square matrices whose product measures a device
PEAK_RUNS = 5


class Spans:
    """Seconds spent in named parts of the steps since they were last asked for.

    On a GPU the parts are marked in its own stream and read only when asked, so that measuring waits for nothing.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.sums: dict[str, float] = {}
        self.marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside the block belongs to `name`."""
        start = self._now()
        try:
            yield
        finally:
            self.marks.append((name, start, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        if self.cuda and self.marks:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for name, start, end in self.marks:
            lasted = start.elapsed_time(end) / 1e3 if self.cuda else end - start
            found[name] = found.get(name, 0.0) + lasted
        self.marks = []
        return found

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def measured_peak(device: torch.device, bf16: bool) -> float:
    """FLOP/s of a large matrix product on the device, the best of some: what a step can reach at most."""
    n = PEAK_SIZE.get(device.type, 1024)
    matrix = torch.ones(n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    spans, best = Spans(device), float("inf")
    for _ in range(PEAK_RUNS):
        with spans.part("product"):
            matrix @ matrix
        best = min(best, spans.seconds()["product"])
    return 2 * n**3 / best
