"""Continuous batching: denoising windows of different requests go through the network together.

A request joins and leaves between any two calls. In each call every request has at most its share of windows, so a
short one never waits for a long one to end. Requests may differ in steps, guidance and length; only windows of one
length fit into one call. The result of a request is that of `xnemo.animate.sample` (up to the rounding of a batch).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xnemo.animate import guide, initial_latents, prepare
from xnemo.animation import Reference
from xnemo.attention import KeysValues
from xnemo.denoiser import Conditions
from xnemo.model import XNeMo
from xnemo.schedule import Schedule
from xnemo.windows import Window, open_windows


@dataclass(eq=False)
class Request:
    """One clip on its way: its own time steps, latents [1,C,F,h,w] and conditions."""

    id: str
    times: list[int]
    scale: float
    cond: Conditions
    uncond: Conditions | None
    latents: Tensor
    windows: list[Window]
    step: int = 0
    waiting: deque[Window] = field(default_factory=deque)
    received: list[Tensor] = field(default_factory=list)
    """Predictions of this step, in the order of its windows."""
    saved_step: int = 0
    saved_windows: int = 0
    """How far the windows are stored (`saved`)."""
    total: Tensor = field(init=False)
    weight: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._begin_step()

    @property
    def finished(self) -> bool:
        return self.step == len(self.times)

    @property
    def done_windows(self) -> int:
        return self.step * len(self.windows) + len(self.received)

    @property
    def all_windows(self) -> int:
        return len(self.times) * len(self.windows)

    @property
    def window_length(self) -> int:
        return len(self.windows[0].frames)

    def receive(self, window: Window, prediction: Tensor, schedule: Schedule) -> None:
        """Take in the guided prediction [1,C,f,h,w] of one window; the last of a step moves the latents on. Windows
        come in their order."""
        ids, weights = window.frames.to(self.latents.device), window.weights.to(self.latents)
        self.total[:, :, ids] += prediction.to(self.latents) * weights.view(-1, 1, 1)
        self.weight[ids] += weights
        self.received.append(prediction)
        if len(self.received) < len(self.windows):
            return
        before = [*self.times, -1][self.step + 1]
        mean = self.total / self.weight.view(-1, 1, 1)
        self.latents = schedule.ddim_step(mean, self.times[self.step], before, self.latents)
        self.resume(self.step + 1, self.latents)

    def resume(self, step: int, latents: Tensor) -> None:
        """Go on at the beginning of a step, with its latents."""
        self.step, self.latents = step, latents
        self._begin_step()

    def replay(self, predictions: Tensor, schedule: Schedule) -> bool:
        """Take in predictions [n,C,f,h,w] of the next windows that were made before; False if they do not fit."""
        fits = len(predictions) <= len(self.waiting) and predictions.shape[2] == self.window_length
        for prediction in predictions.split(1) if fits else ():
            self.receive(self.waiting.popleft(), prediction, schedule)
        return fits

    def _begin_step(self) -> None:
        self.received = []
        self.total, self.weight = torch.zeros_like(self.latents), self.latents.new_zeros(self.latents.shape[2])
        self.waiting = deque() if self.finished else deque(self.windows)


class Scheduler:
    """The requests in work and the order of their turns. One thread uses it, but for `prepare`."""

    def __init__(self, model: XNeMo, windows_per_batch: int) -> None:
        self.model, self.size = model, windows_per_batch
        self.schedule = Schedule(model.config.schedule)
        self.requests: deque[Request] = deque()
        self.last_batch = 0

    @torch.no_grad()
    def prepare(
        self, id: str, reference: Reference, motion: Tensor, noise: Tensor, steps: int, scale: float
    ) -> Request:
        """A clip ready to join: what its steps share (reference tokens, keys of the motion) is computed here, once.

        Any thread may call it. motion [1,F,L,c], noise [1,C,F,h,w].
        """
        cond, uncond = prepare(self.model, reference.latents, reference.context, motion, reference.null_motion, scale)
        times = self.schedule.ddim_timesteps(steps)
        latents = initial_latents(self.schedule, reference.latents, noise, times[0])
        return Request(id, times, scale, cond, uncond, latents, open_windows(noise.shape[2]))

    def join(self, request: Request) -> None:
        """Take part from the next call on."""
        self.requests.append(request)

    def leave(self, id: str) -> None:
        """Drop a request, finished or not."""
        self.requests = deque(request for request in self.requests if request.id != id)

    @torch.no_grad()
    def advance(self) -> list[Request]:
        """One call of the network; returns the requests that it finished (they have left)."""
        batch = self._next_batch()
        self.last_batch = len(batch)
        if not batch:
            return []
        latents = torch.cat([request.latents[:, :, window.frames] for request, window in batch])
        conds = [request.cond.frames(window.frames.to(latents.device)) for request, window in batch]
        predictions = self._denoise(latents, [request.times[request.step] for request, _ in batch], conds)
        guided = [at for at, (request, _) in enumerate(batch) if request.uncond is not None]
        if guided:
            unconds = [uncond for at in guided if (uncond := batch[at][0].uncond) is not None]
            free = self._denoise(latents[guided], [batch[at][0].times[batch[at][0].step] for at in guided], unconds)
            for at, null in zip(guided, free, strict=True):
                predictions[at] = guide(predictions[at], null, batch[at][0].scale)
        for at, (request, window) in enumerate(batch):
            request.receive(window, predictions[at : at + 1], self.schedule)
        finished = [request for request in self.requests if request.finished]
        for request in finished:
            self.leave(request.id)
        return finished

    def _next_batch(self) -> list[tuple[Request, Window]]:
        """Windows of one length, one per request in turn until the batch is full. Who had a turn goes to the back."""
        if not self.requests:
            return []
        length = self.requests[0].window_length
        taking = [request for request in self.requests if request.window_length == length]
        batch: list[tuple[Request, Window]] = []
        while len(batch) < self.size and any(request.waiting for request in taking):
            for request in taking:
                if request.waiting and len(batch) < self.size:
                    batch.append((request, request.waiting.popleft()))
        served = {request.id for request, _ in batch}
        self.requests = deque(sorted(self.requests, key=lambda request: request.id in served))
        return batch

    def _denoise(self, latents: Tensor, times: list[int], conditions: list[Conditions]) -> Tensor:
        denoiser = self.model.denoiser
        t = torch.tensor(times, device=latents.device)
        return denoiser.denoise(latents.to(denoiser.conv_in.weight.dtype), t, stack(conditions))


def stack(parts: Sequence[Conditions]) -> Conditions:
    """Conditions of several samples as those of one batch."""
    first = parts[0]
    if len(parts) == 1:
        return first
    placed = [part.place for part in parts if part.place is not None]
    return Conditions(
        place=torch.cat(placed) if placed else None,
        image={name: torch.cat([part.image[name] for part in parts]) for name in first.image},
        reference={name: _join([part.reference[name] for part in parts]) for name in first.reference},
        motion={
            name: [_join([part.motion[name][at] for part in parts]) for at in range(len(pairs))]
            for name, pairs in first.motion.items()
        },
    )


def _join(pairs: Sequence[KeysValues]) -> KeysValues:
    keys, values = zip(*pairs, strict=True)
    return torch.cat(keys), torch.cat(values)
