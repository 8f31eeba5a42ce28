"""Workers that take one task after the other; one that dies costs its task, not the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any


class WorkerDied(RuntimeError):
    """The process that had the task is gone; the task may succeed another time."""


def work(
    actor: type, arguments: Sequence[Any], tasks: Sequence[Any], count: int, done: Callable[[Any, Any], None],
    what: str = "clips", gpus: float = 0.0,
) -> None:  # fmt: skip
    """`actor(*arguments).do(task)` for every task on at most `count` workers of a running Ray.

    `done(task, result)` is called as results come, with the exception where a worker raised or died; a dead worker is
    replaced. Prints progress with ETA.
    """
    import ray

    remote = ray.remote(num_cpus=0.5, num_gpus=gpus)(actor)
    waiting, pending = list(tasks), {}
    for _ in range(min(count, len(waiting))):
        worker, task = remote.remote(*arguments), waiting.pop(0)
        pending[worker.do.remote(task)] = (worker, task)
    began, finished = time.monotonic(), 0
    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        worker, task = pending.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayError as error:
            result = cause(error)
            if isinstance(error, ray.exceptions.RayActorError):
                worker = remote.remote(*arguments)
        done(task, result)
        finished += 1
        if waiting:
            following = waiting.pop(0)
            pending[worker.do.remote(following)] = (worker, following)
        left = (time.monotonic() - began) / finished * (len(tasks) - finished)
        print(f"{what} {finished}/{len(tasks)}  ETA {left:.0f} s", flush=True)


def cause(error: Exception) -> Exception:
    """What the worker raised, or a sentence that says it died."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return WorkerDied(f"the worker died: {lines[-1 if 'creation task' in lines[0] else 0].strip()}")
