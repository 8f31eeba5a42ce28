"""Means with intervals: by hand, whatever the order, and nothing invented for a video that has no figure."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnemo.metrics.intervals import difference, mean


def test_by_hand():
    assert mean([1.0, 2.0, 6.0]).mean == 3
    assert mean([4.0]).low == mean([4.0]).high == 4
    found = mean([0.0, 1.0])  # of two drawn twice: 0, ½ or 1, the ends each with probability ¼
    assert (found.low, found.high) == (0, 1)


def test_a_video_without_a_figure_is_left_out_and_not_a_zero():
    found = mean([1.0, float("nan"), None, float("inf"), 3.0])
    assert (found.mean, found.count) == (2, 2)
    assert mean([]).count == 0
    assert math.isnan(mean([float("nan")]).mean)


@given(st.permutations([0.3, 1.7, 2.2, 8.0, 9.5]))
def test_the_order_of_videos_does_not_matter(values):
    assert mean(values) == mean([0.3, 1.7, 2.2, 8.0, 9.5])


def test_differences_are_paired():
    a = {str(k): float(k) for k in range(20)}
    b = {k: v + 0.5 for k, v in a.items()} | {"other": 100.0, "0": float("nan")}
    found = difference(a, b)
    assert found.count == 19
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
