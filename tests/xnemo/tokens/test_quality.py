"""Figures of motion quality against cases that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnemo.errors import XNeMoError
from xnemo.tokens import quality


def cloud(shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((4000, 3))
    return scale * points + shift * np.array([1.0, 0.0, 0.0])


def test_equal_sets_are_no_distance_apart():
    assert quality.frechet(cloud(), cloud()) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_squared_in_units_of_the_total_deviation():
    # three unit variances: the total deviation is √3, so a shift of 3 is 3²/3
    assert quality.frechet(cloud(), cloud(shift=3.0)) == pytest.approx(3.0, rel=0.05)


def test_a_wider_set_differs_by_its_deviations():
    # Gaussians of deviation 1 and 2 in three axes: 3·(2 − 1)², divided by 3
    assert quality.frechet(cloud(), cloud(scale=2.0)) == pytest.approx(1.0, rel=0.05)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6))
def test_windows_are_the_slices_they_name(frames, length, stride):
    motion = np.arange(frames * 2, dtype=float).reshape(frames, 2)
    if frames < length:
        with pytest.raises(XNeMoError, match="no motion has"):
            quality.windows([motion], length, stride)
        return
    cut = quality.windows([motion], length, stride)
    assert len(cut) == (frames - length) // stride + 1
    assert np.array_equal(cut[-1].reshape(length, 2)[0], motion[(len(cut) - 1) * stride])


def test_centred_windows_hold_the_movement_alone():
    rng = np.random.default_rng(0)
    motions = [rng.standard_normal((20, 3)) for _ in range(5)]
    elsewhere = [motion + rng.standard_normal(3) for motion in motions]
    a, b = (quality.windows(each, 8, 4, centred=True) for each in (motions, elsewhere))
    np.testing.assert_allclose(a, b, atol=1e-9)
    assert quality.frechet(a, 2 * a) > 0.1


def test_speeds_are_apart_by_their_quantiles():
    speeds = np.random.default_rng(0).uniform(0, 2, 5000)
    assert quality.speeds_apart(speeds, speeds[::-1]) == pytest.approx(0, abs=1e-9)
    assert quality.speeds_apart(speeds, 0 * speeds) == pytest.approx(1, rel=0.02)
    assert quality.speeds_apart(speeds, 1.5 * speeds) == pytest.approx(0.5, rel=0.02)


def test_a_blink_counts_once_however_it_trembles():
    eye = np.tile([0.0, 0.2, 0.7, 0.45, 0.8, 0.1, 0.0, 0.4, 0.1, 0.0], 5)  # one blink and one flutter in ten frames
    assert quality.blinks(eye, 25.0) == pytest.approx(5 / 2 * 60)
    assert quality.blinks(np.ones(50), 25.0) == pytest.approx(30)  # shut from the start
    assert quality.blinks(np.zeros(50), 25.0) == 0


def test_labels_are_read_where_the_features_tell_them_and_guessed_where_not():
    rng = np.random.default_rng(0)
    labels = list("abcd" * 50)
    telling = np.array([[label == "a", label == "b", label == "c", 0] for label in labels], float)
    noise = rng.standard_normal((200, 4))
    features = np.concatenate([3 * telling + 0.3 * noise, noise], axis=1)

    def share(names: list[str]) -> float:
        return sum(name == label for name, label in zip(names, labels[120:], strict=True)) / 80

    reader = quality.LabelReader.fit(features[:120], labels[:120])
    assert share(reader.read(features[120:])) > 0.95
    blind = quality.LabelReader.fit(noise[:120], labels[:120])
    assert share(blind.read(noise[120:])) < 0.5  # chance is a quarter


def test_a_straight_track_is_monotone_and_linear():
    line = np.linspace(3, -5, 20)
    assert quality.monotony(line) == pytest.approx(1)
    assert quality.linearity(line) == pytest.approx(1)
    assert quality.speed(line) == pytest.approx(8 / 19)


def test_a_bent_track_is_monotone_but_not_linear():
    bent = np.linspace(0, 1, 50) ** 6
    assert quality.monotony(bent) == pytest.approx(1)
    assert quality.linearity(bent) < 0.8


def test_a_track_to_and_fro_is_neither():
    there_and_back = np.concatenate([np.arange(10.0), np.arange(10.0)[::-1]])
    assert quality.monotony(there_and_back) == 0
    assert quality.linearity(there_and_back) == pytest.approx(0, abs=1e-9)


def test_what_stands_still_has_no_figures_but_zero():
    still = np.full(10, 4.2)
    assert (quality.speed(still), quality.autocorrelation(still, 2), quality.monotony(still)) == (0, 0, 0)


def test_a_wave_correlates_with_itself_by_its_phase():
    wave = np.sin(np.arange(400) * 2 * np.pi / 40)
    assert quality.autocorrelation(wave, 40) == pytest.approx(1, abs=1e-3)
    assert quality.autocorrelation(wave, 20) == pytest.approx(-1, abs=1e-3)
