"""The order of training samples: a pure function of (seed, epoch, step), owned by nobody.

Sample ids count up for ever: step s of batch B trains on ids [s·B, (s+1)·B), and id i shows row
`order(seed, i // n, n)[i % n]`. So the whole state of the feed is the step. Neither a restart nor another
world size changes which sample comes next, nor its id, which also keys its noise.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from xnemo_platform.errors import PlatformError

T = TypeVar("T")


class Sample(NamedTuple):
    """One training sample: `id` never repeats (it keys the noise), `row` is a row of the data."""

    id: int
    row: int


@lru_cache(maxsize=2)  # a batch touches at most two epochs, unless the data is smaller than the batch
def order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The permutation of n rows that epoch `epoch` walks through. Read-only.

    Sorted raw bits rather than `Generator.permutation`: NumPy promises the former never to change.
    """
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(n)
    rows = np.argsort(bits, kind="stable")
    rows.flags.writeable = False
    return rows


def global_batch(seed: int, step: int, batch: int, n: int) -> list[Sample]:
    """The samples of one step over all ranks, in order; runs on into the next epoch, drops nothing."""
    if n < 1:
        raise PlatformError("the training data has no rows; check the data set and its split.")
    ids = range(step * batch, (step + 1) * batch)
    return [Sample(i, int(order(seed, i // n, n)[i % n])) for i in ids]


def rank_slice(samples: list[Sample], rank: int, world: int, accumulate: int = 1) -> list[list[Sample]]:
    """What rank `rank` of `world` computes: `accumulate` micro-batches of equal size."""
    micro = micro_batch(len(samples), world, accumulate)
    start = rank * micro * accumulate
    return [samples[start + i * micro : start + (i + 1) * micro] for i in range(accumulate)]


def micro_batch(batch: int, world: int, accumulate: int) -> int:
    """Samples per forward pass. Raises `PlatformError` unless the global batch divides evenly."""
    size, rest = divmod(batch, world * accumulate)
    if rest or not size:
        raise PlatformError(
            f"batch {batch} does not divide into {world} workers × {accumulate} accumulation steps; "
            f"choose a multiple of {world * accumulate}."
        )
    return size


def ahead(build: Callable[[int], T], steps: range) -> Iterator[tuple[int, T]]:
    """(step, build(step)) in order; the next one is built in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        coming = pool.submit(build, steps.start) if steps else None
        for step in steps:
            assert coming
            ready = coming.result()
            coming = pool.submit(build, step + 1) if step + 1 < steps.stop else None
            yield step, ready
