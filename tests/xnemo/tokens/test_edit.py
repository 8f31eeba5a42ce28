"""Edits do what their names say and nothing to the rest."""

from pathlib import Path

import numpy as np
import pytest

from xnemo.errors import XNeMoError
from xnemo.tokens import edit
from xnemo.tokens.motion_file import Motion, still_rts


def wave(frames: int = 50, phase: float = 0.0, model: str = "") -> Motion:
    t = np.arange(frames) / 25 + phase
    return Motion(np.stack([np.sin(3 * t), np.cos(2 * t)], axis=1), still_rts(frames), 25.0, model)


def largest_step(motion: Motion) -> float:
    return float(np.abs(np.diff(motion.f_mot, axis=0)).max())


def test_scale_changes_the_amplitude_about_the_mean() -> None:
    a = wave()
    b = edit.scale(a, 2.0)
    np.testing.assert_allclose(b.f_mot.mean(0), a.f_mot.mean(0), atol=1e-5)
    np.testing.assert_allclose(b.f_mot.std(0), 2 * a.f_mot.std(0), rtol=1e-5)
    np.testing.assert_allclose(edit.scale(a, 0.0, neutral=np.array([1.0, 2.0])).f_mot[7], [1, 2])


def test_hold_freezes_one_frame() -> None:
    a, b = wave(), edit.hold(wave(), at=0.4, seconds=1.0)
    assert len(b) == 75
    np.testing.assert_array_equal(b.f_mot[10:36], np.tile(a.f_mot[10], (26, 1)))
    np.testing.assert_array_equal(b.f_mot[36:], a.f_mot[11:])


def test_concatenation_fades_without_a_jump() -> None:
    joined = edit.concatenate([wave(), wave(phase=2.0)], blend=12)
    assert len(joined) == 88
    np.testing.assert_array_equal(joined.f_mot[:38], wave().f_mot[:38])
    np.testing.assert_array_equal(joined.f_mot[50:], wave(phase=2.0).f_mot[12:])
    assert largest_step(joined) < 3 * largest_step(wave())


def test_a_loop_has_no_jump_at_any_seam() -> None:
    looped = edit.loop(wave(), times=3, blend=12)
    assert len(looped) == 3 * 38
    assert largest_step(looped) < 3 * largest_step(wave())
    np.testing.assert_array_equal(looped.f_mot[12:38], wave().f_mot[12:38])


def test_smoothing_calms_noise_and_keeps_a_constant() -> None:
    noisy = Motion(np.random.default_rng(0).normal(size=(200, 2)), still_rts(200), 25.0)
    assert edit.smooth(noisy, 2.0).f_mot.std() < 0.5 * noisy.f_mot.std()
    np.testing.assert_allclose(edit.smooth(noisy, 2.0).f_rts, noisy.f_rts, atol=1e-6)
    assert edit.smooth(noisy, 0.0) is noisy


def test_edits_keep_the_model_and_rate() -> None:
    a = wave(model="abc")
    for b in (edit.scale(a, 2), edit.hold(a, 0, 1), edit.loop(a, 2), edit.smooth(a), edit.concatenate([a, a])):
        assert (b.model, b.fps) == ("abc", 25.0)


@pytest.mark.parametrize("frames", [1, 2, 50])
def test_plot_writes_a_picture(tmp_path: Path, frames: int) -> None:
    path = edit.plot(wave(frames), tmp_path / "motion.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_impossible_edits_are_refused() -> None:
    with pytest.raises(XNeMoError, match="lasts 2 s"):
        edit.hold(wave(), 5.0, 1.0)
    for at, seconds in ((float("nan"), 1.0), (0.0, float("nan")), (0.0, -1.0)):
        with pytest.raises(XNeMoError, match="cannot hold"):
            edit.hold(wave(), at, seconds)
    with pytest.raises(XNeMoError, match="too long"):
        edit.hold(wave(), 0.0, 1e12)
    with pytest.raises(XNeMoError, match="times"):
        edit.loop(wave(), 0)
    with pytest.raises(XNeMoError, match="too long"):
        edit.loop(wave(), 10**9)
    with pytest.raises(XNeMoError, match="blend"):
        edit.loop(wave(), 2, blend=-1)
    with pytest.raises(XNeMoError, match="at least one"):
        edit.concatenate([])
    with pytest.raises(XNeMoError, match="models a and b"):
        edit.concatenate([wave(model="a"), wave(model="b")])
    with pytest.raises(XNeMoError, match="models a and b"):
        edit.concatenate([wave(), wave(model="a"), wave(model="b")])
    with pytest.raises(XNeMoError, match="frames per second"):
        edit.concatenate([wave(), Motion(wave().f_mot, wave().f_rts, 30.0)])
    with pytest.raises(XNeMoError, match="sigma"):
        edit.smooth(wave(), -1)
