"""The order of samples is a pure function that neither restarts nor world sizes change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import global_batch, order, rank_slice

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
