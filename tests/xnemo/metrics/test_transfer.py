"""Regressions of the drawn pairs: coefficients that are put in come out."""

import numpy as np
import pytest

from xnemo.metrics.intervals import resamples
from xnemo.metrics.transfer import coefficients, emotion, invariance, retrieval, ridge_r2, slopes

RNG = np.random.default_rng(0)


def test_coefficients_that_were_put_in_come_out_inside_their_intervals():
    driver, portrait = RNG.normal(size=(2, 400))
    found = coefficients(0.7 * driver + 0.2 * portrait + 5 + 0.1 * RNG.normal(size=400), driver, portrait)
    assert found.alpha == pytest.approx(0.7, abs=0.03)
    assert found.beta == pytest.approx(0.2, abs=0.03)
    assert found.alpha_low < 0.7 < found.alpha_high
    assert found.beta_low < 0.2 < found.beta_high
    exact = np.linalg.lstsq(np.stack([driver, portrait, np.ones(400)], 1), 3 * driver + 1, rcond=None)[0]
    again = coefficients(3 * driver + 1, driver, portrait)
    assert (again.alpha, again.beta) == pytest.approx(exact[:2], abs=1e-6)


def test_a_linear_code_is_read_and_noise_is_not():
    motion = RNG.normal(size=(600, 3))
    assert ridge_r2(motion @ RNG.normal(size=(3, 10)), motion) == pytest.approx([1, 1, 1], abs=0.01)
    assert (ridge_r2(RNG.normal(size=(600, 10)), motion) < 0.1).all()


def test_a_code_of_motion_alone_is_invariant_and_tells_nobody():
    motion = np.repeat(RNG.normal(size=(1, 6, 8)), 40, 0)
    person = np.repeat(RNG.normal(size=(40, 1, 8)), 6, 1)
    assert invariance(motion) == 0
    assert invariance(person + 1e-9 * RNG.normal(size=person.shape)) > 1e3
    assert retrieval(person + 0.01 * RNG.normal(size=person.shape)) == 1
    assert retrieval(RNG.normal(size=(40, 6, 8))) < 0.15


def test_more_numbers_than_people_do_not_look_like_knowledge():
    """The penalty is chosen on people that were not fitted: noise in many dimensions does no harm."""
    motion = RNG.normal(size=(300, 3))
    noise = RNG.normal(size=(300, 128))
    assert (ridge_r2(noise, motion) > -0.1).all()
    assert (ridge_r2(noise, motion) < 0.1).all()
    weak = np.concatenate([motion[:, :1], noise], 1)
    assert ridge_r2(weak, motion)[0] > 0.5


def test_slopes_of_a_sample_are_those_of_its_pairs():
    x, y = RNG.normal(size=(2, 30))
    counts = resamples(30, 3)
    found = slopes(y, x[:, None], counts)
    for row, each in zip(found, counts, strict=True):
        drawn = np.repeat(np.arange(30), each.astype(int))
        assert row[0] == pytest.approx(np.polyfit(x[drawn], y[drawn], 1)[0], abs=1e-6)


def test_emotion_by_hand():
    track = {
        "jaw": [1.0],
        "smile": [0.5],
        "brow_left": [1.0],
        "brow_right": [0.0],
        "blink_left": [1.0],
        "blink_right": [1.0],
    }
    assert emotion(track)[0] == pytest.approx([0.7 * 0.5 - 0.3 * 0.5 / 2, 0.5 + 0.3 * 0.5 + 0.0])
