"""The order of training samples: a pure function of (seed, epoch, step), owned by nobody.

Sample ids count up for ever: step s of batch B trains on ids [s·B, (s+1)·B), and id i shows row
`order(seed, i // n, n)[i % n]`. So the whole state of the feed is the step. Neither a restart nor another
world size changes which sample comes next, nor its id, which also keys its noise.

Several sources are mixed by share: of every `BLOCK` ids each source has its share, at places that depend on the seed
and the block, and walks through its own rows in its own epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from xnemo_platform.errors import PlatformError

T = TypeVar("T")
BLOCK = 1000  # ids over which shares are exact, to a thousandth


class Sample(NamedTuple):
    """One training sample: `id` never repeats (it keys the noise), `row` is a row of the data."""

    id: int
    row: int


class Source(NamedTuple):
    """Rows that are drawn together; of all samples, `share` are theirs (shares of a mixture add up to 1)."""

    rows: int
    share: float = 1.0


@lru_cache(maxsize=16)  # a batch touches at most two epochs a source, unless the data is smaller than the batch
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


def mixed_batch(seed: int, step: int, batch: int, sources: Sequence[Source]) -> list[Sample]:
    """`global_batch` over several sources; rows count through them in their order."""
    if len(sources) == 1:
        return global_batch(seed, step, batch, sources[0].rows)
    starts = np.cumsum([0, *(source.rows for source in sources)])
    samples = []
    for i in range(step * batch, (step + 1) * batch):
        which, nth = _turn(seed, i, tuple(source.share for source in sources))
        n = sources[which].rows
        row = order(seed + which, nth // n, n)[nth % n]
        samples.append(Sample(i, int(starts[which] + row)))
    return samples


def _turn(seed: int, i: int, shares: tuple[float, ...]) -> tuple[int, int]:
    """Whose sample id i is, and how many that source had before."""
    block, place = divmod(i, BLOCK)
    turns, before = _block(seed, block, shares)
    which = int(turns[place])
    return which, block * int((turns == which).sum()) + int(before[place])


@lru_cache(maxsize=2)
def _block(seed: int, block: int, shares: tuple[float, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each id of a block: its source, and how many of the block's ids before it are that source's."""
    ends = np.round(np.cumsum(shares) / sum(shares) * BLOCK).astype(int)
    turns = np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0))[order(seed ^ 0x6D6978, block, BLOCK)]
    before = np.zeros(BLOCK, np.int64)
    for which in range(len(shares)):
        mine = turns == which
        before[mine] = np.arange(mine.sum())
    return turns, before


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
