"""The order of samples is a pure function that neither restarts nor world sizes change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import BLOCK, Source, global_batch, mixed_batch, order, rank_slice

sizes = st.integers(1, 200)
seeds = st.integers(0, 2**32)


@given(seeds, st.integers(0, 50), sizes)
def test_an_epoch_is_a_permutation(seed, epoch, n):
    assert sorted(order(seed, epoch, n)) == list(range(n))


@given(seeds, sizes, st.integers(1, 16))
def test_an_epoch_shows_every_row_once_whatever_the_batch(seed, n, batch):
    steps = -(-n // batch) + 1
    stream = [sample for step in range(steps) for sample in global_batch(seed, step, batch, n)]
    assert [sample.id for sample in stream] == list(range(steps * batch))
    assert sorted(sample.row for sample in stream[:n]) == list(range(n))


@given(seeds, st.integers(0, 10**6), st.integers(1, 100), st.sampled_from([(1, 12), (2, 6), (3, 4), (4, 1)]))
def test_the_world_size_changes_neither_order_nor_ids(seed, step, n, shape):
    world, accumulate = shape
    whole = global_batch(seed, step, 12, n)
    parts = [rank_slice(whole, rank, world, accumulate) for rank in range(world)]
    assert [sample for rank in parts for micro in rank for sample in micro] == whole
    assert {len(micro) for rank in parts for micro in rank} == {12 // (world * accumulate)}


def test_the_order_never_changes_between_releases():
    assert order(7, 0, 8).tolist() == [6, 3, 4, 0, 2, 7, 5, 1]


def test_epochs_and_seeds_differ():
    assert not np.array_equal(order(0, 0, 100), order(0, 1, 100))
    assert not np.array_equal(order(0, 0, 100), order(1, 0, 100))


def test_a_batch_that_does_not_divide_is_refused_with_the_mend():
    with pytest.raises(PlatformError, match="multiple of 4"):
        rank_slice(global_batch(0, 0, 6, 10), 0, 2, 2)


def test_no_data_is_an_error_before_the_first_step():
    with pytest.raises(PlatformError, match="no rows"):
        global_batch(0, 0, 4, 0)


MIXED = [Source(7, 0.5), Source(300, 0.3), Source(40, 0.2)]


def whose(row):
    return 0 if row < 7 else 1 if row < 307 else 2


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(8, 64))
def test_a_mixture_keeps_the_shares_and_walks_through_each_source_in_epochs(seed, batch):
    stream = [s for step in range(-(-2 * BLOCK // batch)) for s in mixed_batch(seed, step, batch, MIXED)][: 2 * BLOCK]
    assert [sample.id for sample in stream] == list(range(2 * BLOCK))
    for which, share in enumerate((0.5, 0.3, 0.2)):
        rows = [sample.row for sample in stream if whose(sample.row) == which]
        assert len(rows) == share * 2 * BLOCK
        n = MIXED[which].rows
        for start in range(0, len(rows) - n + 1, n):
            assert len(set(rows[start : start + n])) == n


@given(st.integers(0, 2**32), st.integers(0, 10**6))
def test_a_mixtures_step_depends_on_nothing_before_it(seed, step):
    twice = [mixed_batch(seed, 2 * step + half, 6, MIXED) for half in (0, 1)]
    assert twice[0] + twice[1] == mixed_batch(seed, step, 12, MIXED)


def test_one_source_is_no_mixture():
    assert mixed_batch(3, 5, 8, [Source(50)]) == global_batch(3, 5, 8, 50)


def test_the_order_of_a_mixture_never_changes_between_releases():
    assert [sample.row for sample in mixed_batch(7, 0, 8, MIXED)] == [6, 111, 3, 4, 0, 242, 319, 2]
