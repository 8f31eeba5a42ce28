"""Windows over long clips: the released ones as recorded, ours without wrap-around."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xnemo.errors import XNeMoError
from xnemo.windows import open_windows, order, released_windows

SHAPES = st.integers(1, 32).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


def test_released_windows_equal_the_recorded_ones(goldens: Path) -> None:
    for case in json.loads((goldens / "context_windows.json").read_text()):
        windows = released_windows(case["num_frames"], case["offset"], case["size"], case["overlap"])
        assert [window.frames.tolist() for window in windows] == case["windows"]
        assert all((window.weights == 1).all() for window in windows)


@given(frames=st.integers(1, 200), offset=st.integers(-50, 500), shape=SHAPES)
def test_open_windows_cover_every_frame_and_never_wrap(frames: int, offset: int, shape: tuple[int, int]) -> None:
    size, overlap = shape
    windows = open_windows(frames, offset, size, overlap)
    total = torch.zeros(frames)
    for window in windows:
        assert window.frames.diff().eq(1).all()
        assert len(window.frames) == len(window.weights) == min(size, frames)
        total[window.frames] += window.weights
    assert (total > 0).all()
    starts = [int(window.frames[0]) for window in windows]
    assert all(b - a <= size - overlap for a, b in pairwise(starts))
    assert int(windows[-1].frames[-1]) == frames - 1


def test_open_windows_fade_into_each_other() -> None:
    first, second, last = open_windows(60)
    assert first.frames[0] == 0
    assert second.frames.tolist() == list(range(20, 44))
    assert last.frames.tolist() == list(range(36, 60))
    assert first.weights.tolist() == [1, 2, 3, 4, *[5] * 16, 4, 3, 2, 1]


def test_a_short_clip_is_one_window() -> None:
    for windows in (open_windows(24, 7), released_windows(24, 7)):
        assert [window.frames.tolist() for window in windows] == [list(range(24))]


def test_an_overlap_as_long_as_the_window_is_refused() -> None:
    with pytest.raises(XNeMoError, match="overlap"):
        open_windows(100, size=8, overlap=8)


@given(frames=st.integers(1, 120), size=st.integers(1, 24), data=st.data(), steps=st.integers(1, 9))
def test_the_order_of_a_stream_meets_every_need(frames: int, size: int, data: st.DataObject, steps: int) -> None:
    windows = open_windows(frames, 0, size, data.draw(st.integers(0, size - 1)))
    frame_sets = [set(window.frames.tolist()) for window in windows]
    done = [0] * len(windows)
    for k, i in order(windows, steps):
        assert done[k] == i
        for other, shared in enumerate(frame_sets):
            if other != k and shared & frame_sets[k]:
                assert done[other] == i + (other < k)
        done[k] += 1
    assert done == [steps] * len(windows)


@pytest.mark.parametrize("overlap", [0, 4, 16])
def test_a_stream_has_few_windows_under_way(overlap: int) -> None:
    windows, steps = open_windows(2000, 0, 24, overlap), 10
    done, most = [0] * len(windows), 0
    for k, _ in order(windows, steps):
        done[k] += 1
        most = max(most, sum(0 < each < steps for each in done))
    assert most <= 1 + steps * 24 // (24 - overlap)
