"""Flicker and warping error: zero where nothing flickers, the analytic amount where something does."""

import numpy as np
import pytest

from xnemo.metrics.temporal import Flicker, WarpingError


def _run(meter, frames):
    for frame in frames:
        meter.add(frame.astype(np.float32))
    return meter.value()


def _texture(size=96):
    rng = np.random.default_rng(0)
    rough = rng.uniform(0, 1, (size // 8 + 4, size // 8 + 4, 3))
    import cv2

    return cv2.resize(rough, (size + 32, size + 32), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def test_a_still_video_and_a_steady_fade_do_not_flicker():
    grey = np.full((8, 8, 3), 0.5)
    assert _run(Flicker(), [grey] * 6) == 0
    assert _run(Flicker(), [grey + 0.02 * t for t in range(6)]) == pytest.approx(0, abs=1e-7)
    assert _run(WarpingError(), [_texture()] * 3) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("amplitude", [0.01, 0.2])
def test_alternation_gives_its_amplitude(amplitude):
    frames = [np.full((8, 8, 3), 0.5) + amplitude * (-1) ** t for t in range(7)]
    assert _run(Flicker(), frames) == pytest.approx(amplitude, rel=1e-4)


def test_motion_warps_back_and_noise_does_not():
    picture = _texture()
    moving = [picture[t : t + 96, 2 * t : 2 * t + 96] for t in range(4)]
    rng = np.random.default_rng(1)
    noisy = [(frame + 0.1 * rng.normal(size=frame.shape)).clip(0, 1) for frame in moving]
    calm, restless = _run(WarpingError(), moving), _run(WarpingError(), noisy)
    apart = np.mean([(a - b) ** 2 for a, b in zip(moving[1:], moving, strict=False)])
    assert calm < 0.05 * apart
    assert restless > 10 * calm


def test_too_few_frames_have_no_figure():
    assert np.isnan(_run(Flicker(), [np.zeros((4, 4, 3))] * 2))
    assert np.isnan(_run(WarpingError(), [np.zeros((4, 4, 3))]))
