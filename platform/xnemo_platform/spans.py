"""Where the time of a training step goes, and how much arithmetic it is: what the speed of a run is judged by."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Size = torch.Size
PEAK_SIZE = {"cpu": 512, "cuda": 8192}  # of the square matrices whose product measures a device
PEAK_RUNS = 5


def _attention(q: Size, k: Size, v: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(grad: Size, q: Size, k: Size, v: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


ATTENTION = {  # the CPU's fused attention, which torch's own table leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def counter() -> FlopCounterMode:
    """Counts the floating-point operations of what runs inside the block."""
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)


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


class Arithmetic:
    """FLOPs of one step of this rank, counted now and then (`counting`), and the peak they are held against."""

    def __init__(self, device: torch.device, bf16: bool, peak_tflops: float | None):
        self.device, self.bf16, self.given = device, bf16, peak_tflops
        self.flops, self.stale = 0.0, True
        self._peak = 1e12 * peak_tflops if peak_tflops else 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the step inside the block, if it has not been counted since `stale` was set; else costs nothing."""
        mode: AbstractContextManager[Any] = counter() if self.stale else nullcontext()
        with mode as counted:
            yield
        if counted is not None:
            self.flops, self.stale = float(counted.get_total_flops()), False

    def utilisation(self, seconds: float) -> float:
        """The part of the device's peak that a step of that many seconds reached (MFU; recomputed work counts)."""
        self._peak = self._peak or measured_peak(self.device, self.bf16)
        return self.flops / (seconds * self._peak)


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
