"""The sound of a video is cut where it is asked for."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from tests.xnemo.media.conftest import write
from xnemo.media.sound import cut_sound, read_sound


def test_samples_are_those_between_start_and_end(clip: Path) -> None:
    samples = np.concatenate(list(read_sound(clip, 0.5, 1.25)), axis=1)
    assert samples.shape == (1, 12_000)
    assert samples.std() == pytest.approx(0.25 / np.sqrt(2), rel=0.05)


def test_rate_and_channels_are_converted(clip: Path) -> None:
    samples = np.concatenate(list(read_sound(clip, 0, 1, rate=48_000, layout="stereo")), axis=1)
    assert samples.shape == (2, 48_000)


def test_a_cut_is_a_small_file_of_that_length(clip: Path) -> None:
    data = cut_sound(clip, 0.2, 1.2)
    assert data is not None
    with av.open(io.BytesIO(data)) as container:
        total = sum(frame.samples for frame in container.decode(audio=0))
        assert total / container.streams.audio[0].rate == pytest.approx(1.0, abs=0.13)


def test_a_silent_file_has_no_sound(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4", [0, 0.04])
    assert list(read_sound(silent, 0, 1)) == []
    assert cut_sound(silent, 0, 1) is None
