"""The one training loop: any `Task`, under DeepSpeed ZeRO 0-3, resumable to the bit.

Every training of this project (three stages, tokenizer, generator) is this loop with another task. The task
brings networks, losses and data; the loop owns order, gradients, averages, checkpoints and records. Read
`train` first.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xnemo_platform import feed, tracking
from xnemo_platform.checkpoint import Checkpoints, State, require_same
from xnemo_platform.config import diff
from xnemo_platform.errors import PlatformError
from xnemo_platform.loop import LoopConfig, lr_factor
from xnemo_platform.mirror import Mirror
from xnemo_platform.profiling import profiled
from xnemo_platform.progress import Progress
from xnemo_platform.saving import Files, Saver, on_host
from xnemo_platform.spans import Spans, measured_peak
from xnemo_platform.trainee import Group, TorchRanks, Trainee, gathered

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """What a task found on its held-out data: numbers, and files by name, each with what writes it to a path."""

    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, Callable[[Path], object]] = field(default_factory=dict)


class Average(Protocol):
    """A moving average of the trained weights."""

    def update(self) -> None: ...
    def swap(self) -> AbstractContextManager[None]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Task(Protocol):
    """What is trained. Modules lie on their device when the loop gets them."""

    module: nn.Module  # forward(batch) -> {"loss": scalar, ...}; "loss" is minimised, the others are recorded
    groups: list[Group]  # the trained parameters of `module`; nothing frozen
    adversary: nn.Module | None  # likewise, after each backward of `module`, which must leave it no gradient
    adversary_groups: list[Group]
    average: Average | None
    sources: Sequence[feed.Source]  # of the training data

    def flops(self, step: int) -> float:
        """Floating-point operations of one sample, forward and backward, in the step; 0 where nobody counted them."""

    def batch(self, samples: list[feed.Sample]) -> Any:
        """The batch of these samples, on the device. Called in another thread; depends on nothing else."""

    def validate(self, step: int) -> Validation:
        """Every rank calls this with the averaged weights in place, in evaluation mode or not as it sees fit."""

    def export(self, folder: Path) -> None:
        """Write the finished model. Rank 0 calls it with the averaged weights in place."""


@dataclass(frozen=True)
class Run:
    """Where a run lives and what it was asked to be."""

    folder: Path
    config: dict[str, Any]  # the whole configuration, for the record
    fingerprint: str  # of what must not change


def train(task: Task, config: LoopConfig, run: Run) -> dict[str, float]:
    """Train from the newest checkpoint of `run`, or from the task's fresh weights, to `config.steps`.

    Every rank calls this; Ray Train, torchrun or nobody may have set up the process group. Returns the last
    metrics, the same on every rank. Raises `PlatformError` after `config.bad_steps` non-finite steps in a row.
    """
    ranks = TorchRanks()
    loop = _Loop(task, config, run, ranks)
    first = loop.resume()
    found = loop.validate(first) if first == config.steps else {}
    progress = Progress(config, first, ranks, loop.spans, run.folder)
    with loop.saver, tracking.Outbox(run.folder, active=ranks.rank == 0) as outbox:
        for step, batches in profiled(_batches(task, config, first, ranks), config.profile, run.folder, ranks.rank):
            progress.loaded()
            losses, norms = loop.update(step, batches)
            done = step + 1
            progress.stepped(done, losses, norms)
            if _due(done, config.log_every, config):
                outbox.metrics(done, progress.metrics() | loop.utilisation(done, progress.step_s))
            if validated := _due(done, config.validate_every, config):
                outbox.metrics(done, found := loop.validate(done))
            better = validated and loop.is_best(found)
            if better or _due(done, config.save_every, config):
                outbox.metrics(done, loop.save(done, found if validated else {}))
            progress.paused()
    loop.export()
    return progress.last | found


class _Loop:
    """The state of one training on one rank: engines, average, checkpoints."""

    def __init__(self, task: Task, config: LoopConfig, run: Run, ranks: TorchRanks):
        device = next(task.module.parameters()).device
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self.task, self.config, self.run, self.ranks, self.device = task, config, run, ranks, device
        self.spans = Spans(device)
        self.main = Trainee(task.module, task.groups, config, ranks.world, self.bf16, self.spans)
        self.adversary = (
            Trainee(task.adversary, task.adversary_groups, config, ranks.world, self.bf16, self.spans)
            if task.adversary
            else None
        )
        mirror = Mirror(config.mirror) if config.mirror else None
        self.checkpoints = Checkpoints(run.folder / "checkpoints", config.keep, mirror)
        self.saver = Saver(self.checkpoints, ranks.apart())
        self.bad, self.best, self.peak = 0, math.inf, 1e12 * (config.peak_tflops or 0.0)

    def update(self, step: int, batches: list[Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One optimizer step of each module over the micro-batches, and the average after it; losses (means) and
        gradient norms."""
        losses, norms = self._step(step, batches)
        self._guard(step, losses, norms)
        if self.task.average:
            with self.spans.part("average"), gathered(self.main.params):
                self.task.average.update()
        return losses, norms

    def _step(self, step: int, batches: list[Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
        factor = lr_factor(self.config, step)
        losses: dict[str, Tensor] = {}
        norms: dict[str, float] = {}
        for i, batch in enumerate(batches):
            last = i + 1 == len(batches)
            # Dropout draws from torch's own generator: keyed like all noise, so that resuming repeats it.
            torch.manual_seed(hash((self.config.seed, step, i, self.ranks.rank)))
            found = self.main.backward(batch)
            norms["grad_norm"] = self.main.step(factor, last)
            if self.adversary:
                judged = self.adversary.backward(batch)
                norms["adversary_grad_norm"] = self.adversary.step(factor, last)
                found |= {f"adversary_{name}": loss for name, loss in judged.items()}
            for name, loss in found.items():
                losses[name] = losses.get(name, 0.0) + loss / len(batches)
        return losses, norms

    def _guard(self, step: int, losses: dict[str, Tensor], norms: dict[str, float]) -> None:
        """Count steps that were skipped for a non-finite gradient; the norm is the same on every rank."""
        self.bad = 0 if all(map(math.isfinite, norms.values())) else self.bad + 1
        if self.bad > self.config.bad_steps:
            values = ", ".join(f"{name} {float(loss):.4g}" for name, loss in losses.items())
            raise PlatformError(
                f"step {step}: gradients were not finite {self.bad} times in a row ({values}); the weights of "
                "the last good step are kept: lower loop.lr, or look at the samples of this step."
            )

    def resume(self) -> int:
        """Load the newest whole checkpoint; the step to begin with. Rank 0 chooses for all."""
        newest = self.checkpoints.newest() if self.ranks.rank == 0 else None
        best = self.checkpoints.best() if self.ranks.rank == 0 else None
        found, best = self.ranks.gather((newest, best))[0]
        if best and best.state.figure is not None:
            self.best = best.state.figure
        if not found:
            return 0
        state = found.state
        if state.zero and (state.world, state.zero) != (self.ranks.world, self.config.zero):
            raise PlatformError(
                f"{found.folder} was written by {state.world} workers under ZeRO {state.zero}, whose shards fit "
                f"nothing else; resume with loop.workers={state.world} loop.zero={state.zero}."
            )
        folder = self.checkpoints.at(found.folder)
        require_same(state, self.run.fingerprint, diff(state.config, self.run.config), folder)
        self.main.load(folder / "main")
        if self.adversary:
            self.adversary.load(folder / "adversary")
        if self.task.average:
            saved = torch.load(folder / "average.pt", weights_only=True, map_location=self.device)
            self.task.average.load_state_dict(saved)
        return state.step

    def save(self, step: int, found: dict[str, float]) -> dict[str, float]:
        """Begin a checkpoint after `step` steps, with what the validation found there; what the step waited."""
        began = time.perf_counter()
        state = State(
            step=step,
            epoch=step * self.config.batch // sum(source.rows for source in self.task.sources),
            fingerprint=self.run.fingerprint,
            config=self.run.config,
            run_id=tracking.run_id(self.run.folder),
            world=self.ranks.world,
            zero=self.config.zero,
            figure=self._figure(found),
        )
        self.saver.save(state, self._snapshot)
        return {"checkpoint/waited_ms": 1e3 * (time.perf_counter() - began)}

    def _snapshot(self) -> Files:
        parts = {"main": self.main.snapshot()} | ({"adversary": self.adversary.snapshot()} if self.adversary else {})
        files = {f"{part}/{name}": state for part, files in parts.items() for name, state in files.items()}
        if self.task.average and self.ranks.rank == 0:
            files["average.pt"] = on_host(self.task.average.state_dict())
        return files

    def is_best(self, found: dict[str, float]) -> bool:
        """Whether the figure of `config.best` is the lowest so far; rank 0 decides for all."""
        figure = self._figure(found)
        better = self.ranks.gather(figure is not None and figure < self.best)[0]
        if better and figure is not None:
            self.best = figure
        return bool(better)

    def _figure(self, found: dict[str, float]) -> float | None:
        figure = found.get(self.config.best, math.nan)
        return figure if math.isfinite(figure) else None

    def utilisation(self, step: int, seconds: float) -> dict[str, float]:
        """The arithmetic of a step that took so long, and the part of the worker's peak that it is (MFU)."""
        flops = 0.0 if self.ranks.rank else self.task.flops(step) * self.config.batch / self.ranks.world
        if not flops:
            return {}
        self.peak = self.peak or measured_peak(self.device, self.bf16)
        return {"tflops_per_worker": flops / seconds / 1e12, "mfu": flops / seconds / self.peak}

    def validate(self, step: int) -> dict[str, float]:
        """The task's own view of the averaged weights; its files go to the run's folder."""
        with self.averaged(), torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            found = self.task.validate(step)
        if self.ranks.rank == 0:
            self._write_files(step, found.files)
        return found.metrics

    def _write_files(self, step: int, files: dict[str, Callable[[Path], object]]) -> None:
        folder = self.run.folder / "artifacts" / "samples"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, write in files.items():
                write(folder / f"{Path(name).stem}-{step:08d}{Path(name).suffix}")
        except (OSError, ValueError) as error:  # a full disk: the training does not need them
            log.warning("what the validation of step %d shows could not be written: %s", step, error)

    def export(self) -> None:
        """Write the finished model below the run's folder."""
        with self.averaged(), gathered(list(self.task.module.parameters())):
            if self.ranks.rank == 0:
                self.task.export(self.run.folder / "export")
        self.ranks.barrier()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the networks hold the averaged weights, whatever the ZeRO stage."""
        if not self.task.average:
            yield
            return
        swap = self.task.average.swap()
        with gathered(self.main.params, write=True):
            swap.__enter__()
        try:
            yield
        finally:
            with gathered(self.main.params, write=True):
                swap.__exit__(None, None, None)


def _batches(task: Task, config: LoopConfig, first: int, ranks: TorchRanks) -> Iterator[tuple[int, list[Any]]]:
    """(step, this rank's micro-batches), built one step ahead."""

    def build(step: int) -> list[Any]:
        samples = feed.mixed_batch(config.seed, step, config.batch, task.sources)
        return [task.batch(part) for part in feed.rank_slice(samples, ranks.rank, ranks.world, config.accumulate)]

    return feed.ahead(build, range(first, config.steps))


def _due(done: int, every: int, config: LoopConfig) -> bool:
    return done % every == 0 or done == config.steps
