"""Windows over long clips: the released ones as recorded, ours without wrap-around."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xnemo.errors import XNeMoError
from xnemo.windows import open_windows, released_windows

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
