"""Parts that were encoded apart are one video: every frame once and in its place, the sound under it."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.xnemo.media.conftest import number_of, picture
from tests.xnemo.media.test_writing import clicks, heard
from xnemo.media.joining import join_videos
from xnemo.media.provenance import note, read_note
from xnemo.media.video import check, probe, read_frames, write_video


@pytest.mark.parametrize("lengths", [(30, 30, 15), (1, 40, 2, 3), (1,), (2, 1)])
@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 12.5])
def test_every_frame_of_every_part_is_there_once_in_its_place(
    tmp_path: Path, lengths: tuple[int, ...], fps: float
) -> None:
    starts = np.cumsum([0, *lengths])
    parts = [write_video(tmp_path / f"{a}.mp4", [picture(k) for k in range(a, b)], fps)
             for a, b in pairwise(starts)]  # fmt: skip
    whole = join_videos(tmp_path / "whole.mp4", [part.read_bytes() for part in parts], note("m"))
    check(whole)
    info = probe(whole)
    assert (info.frames, info.fps) == (starts[-1], pytest.approx(fps))
    np.testing.assert_allclose(info.times, np.arange(starts[-1]) / fps, atol=1e-4)
    frames = read_frames(whole)
    assert [number_of(frame) for frame in frames] == list(range(starts[-1]))
    np.testing.assert_array_equal(frames, np.concatenate([read_frames(part) for part in parts]))
    assert (read_note(whole) or {})["model"] == "m"


def test_the_sound_lies_under_the_joined_picture(tmp_path: Path) -> None:
    source = clicks(tmp_path / "s.mkv", 5, 0.9, 0.0)
    part = write_video(tmp_path / "part.mp4", [np.zeros((32, 32, 3), np.uint8)] * 25, 25).read_bytes()
    whole = join_videos(tmp_path / "whole.mp4", [part] * 3, {}, source, 0.6)
    np.testing.assert_allclose(heard(whole, 3), [0.3, 1.3, 2.3], atol=0.01)
