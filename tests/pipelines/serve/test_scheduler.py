"""Continuous batching gives every request what it would get alone, and lets none wait for another to end."""

import torch
from torch import Tensor

from pipelines.serve.scheduler import Request, Scheduler
from xnemo.animate import sample
from xnemo.animation import Reference
from xnemo.model import XNeMo


def ask(model: XNeMo, seed: int, frames: int) -> tuple[Reference, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    side, config = model.config.latent_size, model.config
    tokens = config.motion_shape
    reference = Reference(
        torch.randn(1, config.codec.channels, side, side, generator=draw),
        model.null_context(1) + 0.1,
        torch.randn(1, 1, *tokens, generator=draw),
    )
    noise = torch.randn(1, config.codec.channels, frames, side, side, generator=draw)
    return reference, torch.randn(1, frames, *tokens, generator=draw), noise


def alone(model: XNeMo, seed: int, frames: int, steps: int, scale: float) -> Tensor:
    reference, motion, noise = ask(model, seed, frames)
    return sample(model, reference.latents, reference.context, motion, reference.null_motion,
                  steps=steps, guidance_scale=scale, noise=noise)  # fmt: skip


def join(scheduler: Scheduler, name: str, how: tuple[int, int, int, float]) -> Request:
    seed, frames, steps, scale = how
    request = scheduler.prepare(name, *ask(scheduler.model, seed, frames), steps, scale)
    scheduler.join(request)
    return request


def test_requests_that_join_and_leave_get_what_they_would_get_alone(model: XNeMo) -> None:
    asked = {"a": (1, 6, 3, 3.5), "b": (2, 6, 2, 1.0), "c": (3, 30, 2, 2.0), "d": (4, 6, 4, 3.5), "e": (5, 30, 1, 1.5)}
    scheduler, done, waiting = Scheduler(model, 3), {}, list(asked)
    while waiting or scheduler.requests:
        if waiting:
            name = waiting.pop(0)
            join(scheduler, name, asked[name])
        done.update({request.id: request.latents for request in scheduler.advance()})
    assert done.keys() == asked.keys()
    for name, how in asked.items():
        torch.testing.assert_close(done[name], alone(model, *how), rtol=1e-4, atol=1e-4)


def test_a_short_request_ends_long_before_a_long_one(model: XNeMo) -> None:
    scheduler = Scheduler(model, 2)
    join(scheduler, "long", (1, 64, 3, 1.0))
    scheduler.advance()
    short = join(scheduler, "short", (2, 24, 3, 1.0))
    calls = 0
    while not short.finished:
        scheduler.advance()
        calls += 1
    assert calls == 3
    assert [request.id for request in scheduler.requests] == ["long"]


def test_windows_of_other_lengths_take_turns(model: XNeMo) -> None:
    scheduler = Scheduler(model, 4)
    join(scheduler, "a", (1, 24, 3, 1.0))
    join(scheduler, "b", (2, 5, 3, 1.0))
    finished = [request.id for _ in range(6) for request in scheduler.advance()]
    assert sorted(finished) == ["a", "b"]


def test_a_request_that_leaves_frees_its_place_at_once(model: XNeMo) -> None:
    scheduler = Scheduler(model, 2)
    join(scheduler, "a", (1, 5, 3, 3.5))
    scheduler.advance()
    scheduler.leave("a")
    assert scheduler.advance() == []


def test_windows_are_counted(model: XNeMo) -> None:
    scheduler = Scheduler(model, 2)
    request = join(scheduler, "a", (1, 30, 2, 1.0))
    assert (request.done_windows, request.all_windows) == (0, 4)
    scheduler.advance()
    assert request.done_windows == 2
