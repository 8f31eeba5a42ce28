"""Interpolation passes exactly through its keys, on time, straight or on the sphere."""

import numpy as np
import pytest

from xnemo.errors import XNeMoError
from xnemo.tokens.interpolate import Curve, Key, interpolate, parse_key, slerp
from xnemo.tokens.motion_file import Motion, still_rts


def motion(seed: int, features: int = 8, model: str = "") -> Motion:
    rng = np.random.default_rng(seed)
    return Motion(rng.normal(size=(50, features)), still_rts(50) + rng.uniform(0, 0.3, (50, 3)), 25.0, model)


@pytest.mark.parametrize("curve", ["linear", "spherical"])
def test_ends_are_the_keys_exactly(curve: Curve) -> None:
    a, b = motion(0), motion(1)
    result = interpolate([Key(a, 0.4), Key(b, 1.2)], 50, curve=curve)
    assert len(result) == 50
    for got, want in (
        (result.f_mot[0], a.f_mot[10]),
        (result.f_mot[-1], b.f_mot[30]),
        (result.f_rts[0], a.f_rts[10]),
        (result.f_rts[-1], b.f_rts[30]),
    ):
        np.testing.assert_array_equal(got, want)


def test_linear_steps_are_equal_and_a_key_is_met_at_its_time() -> None:
    keys = [Key(motion(seed), 0) for seed in range(3)]
    result = interpolate(keys, 41, times=[0, 1, 4])
    np.testing.assert_allclose(result.f_mot[10], keys[1].motion.f_mot[0], atol=1e-6)
    steps = np.linalg.norm(np.diff(result.f_mot, axis=0), axis=1)
    np.testing.assert_allclose(steps[:10], steps[0], rtol=1e-4)
    np.testing.assert_allclose(steps[10:], steps[10], rtol=1e-4)


def test_the_sphere_is_travelled_at_constant_angle_and_length() -> None:
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in np.random.default_rng(0).normal(size=(2, 1, 16)))
    alpha = np.linspace(0, 1, 9)[:, None]
    path = slerp(np.repeat(a, 9, 0), np.repeat(b, 9, 0), alpha)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1, atol=1e-9)
    angles = np.arccos(np.clip((path[1:] * path[:-1]).sum(1), -1, 1))
    np.testing.assert_allclose(angles, angles[0], atol=1e-6)


@pytest.mark.parametrize("other", [np.zeros((1, 4)), np.array([[-1.0, 0, 0, 0]]), np.array([[1.0, 0, 0, 0]])])
def test_directions_without_an_arc_are_mixed_linearly(other: np.ndarray) -> None:
    a = np.array([[1.0, 0, 0, 0]])
    np.testing.assert_allclose(slerp(a, other, np.array([[0.25]])), 0.75 * a + 0.25 * other, atol=1e-6)


def test_a_moment_between_frames_is_between_their_values() -> None:
    a = motion(0)
    result = interpolate([Key(a, 0.02), Key(a, 1.0)], 10)
    np.testing.assert_allclose(result.f_mot[0], (a.f_mot[0] + a.f_mot[1]) / 2, atol=1e-6)


def test_moments_are_written_file_at_seconds() -> None:
    assert parse_key("a.safetensors@0.4s") == ("a.safetensors", 0.4)
    assert parse_key("b@c.safetensors@2") == ("b@c.safetensors", 2.0)
    assert parse_key("a.safetensors") == ("a.safetensors", 0.0)
    with pytest.raises(XNeMoError, match="FILE@SECONDS"):
        parse_key("a.safetensors@soon")


def test_impossible_requests_are_refused() -> None:
    a = motion(0, model="one")
    for keys, frames, times, word in (
        ([Key(a, 0)], 10, None, "two keys"),
        ([Key(a, 0), Key(a, 9)], 10, None, "outside"),
        ([Key(a, 0), Key(motion(1, features=5), 0)], 10, None, "widths 8 and 5"),
        ([Key(a, 0), Key(motion(1, model="two"), 0)], 10, None, "models one and two"),
        ([Key(a, 0), Key(a, 1)], 1, None, "more frames"),
        ([Key(a, 0), Key(a, 1)], 9, [1, 1], "increasing"),
        ([Key(a, 0), Key(a, 1)], 9, [1, 2, 3], "2 increasing"),
        ([Key(a, 0), Key(a, 1)], 9, [0, float("inf")], "increasing"),
        ([Key(a, 0), Key(a, float("nan"))], 9, None, "outside"),
        ([Key(a, 0), Key(a, 1)], 10**12, None, "too long"),
    ):
        with pytest.raises(XNeMoError, match=word):
            interpolate(keys, frames, times=times)
