"""Sequences: seeded, in range, lively, and with the emotion they are given."""

import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.synthetic.motion import EMOTIONS, MOTION, PLACEMENT, RANGES, random_motion, sequence


def track(name: str, seed: int = 0, frames: int = 100, emotion: str | None = None, intensity: int | None = None):  # type: ignore[no-untyped-def]
    motion, placement = sequence(seed, frames, emotion, intensity)
    return torch.cat([motion, placement], 1)[:, (MOTION + PLACEMENT).index(name)]


def test_a_seed_is_always_the_same_sequence() -> None:
    assert torch.equal(sequence(3, 40)[0], sequence(3, 40)[0])
    assert not torch.equal(sequence(3, 40)[0], sequence(4, 40)[0])


@pytest.mark.parametrize("emotion", [None, *EMOTIONS])
def test_parameters_stay_in_their_ranges(emotion: str | None) -> None:
    motion, placement = sequence(1, 300, emotion)
    values = torch.cat([motion, placement], 1)
    low, high = torch.tensor([RANGES[name] for name in MOTION + PLACEMENT]).T
    assert bool(((values >= low - 1e-6) & (values <= high + 1e-6)).all())


@pytest.mark.parametrize("name", ["yaw", "pitch", "roll", "x", "y", "log_scale"])
def test_within_two_seconds_heads_travel_through_half_their_range(name: str) -> None:
    travelled = torch.stack([track(name, seed, 50).max() - track(name, seed, 50).min() for seed in range(20)])
    assert travelled.mean() > 0.5 * (RANGES[name][1] - RANGES[name][0])


def test_motion_is_smooth() -> None:
    assert track("yaw", frames=500).diff().abs().max() < 12  # degrees from frame to frame


def test_eyes_blink_together_and_open_again() -> None:
    left, right = (track(f"blink_{side}", frames=250, emotion="neutral") for side in ("left", "right"))
    shut = (left > 0.9) & (right > 0.9)
    assert 0.02 < shut.float().mean() < 0.4


def test_the_jaw_talks_at_three_to_five_hertz() -> None:
    jaw = torch.stack([track("jaw", seed, 500, "neutral") for seed in range(8)])
    spectrum = torch.fft.rfft(jaw - jaw.mean(1, keepdim=True)).abs().square().mean(0)
    hertz = torch.fft.rfftfreq(500, 1 / 25)
    assert 2.5 < hertz[(spectrum * (hertz > 1.5)).argmax()] < 5.5


def test_emotions_show_and_grow_with_intensity() -> None:
    smiles = [track("smile", 5, 200, "happy", level).mean() for level in (1, 2, 3)]
    assert smiles[0] < smiles[1] < smiles[2]
    assert smiles[0] > track("smile", 5, 200, "sad", 1).mean() + 0.2
    assert track("brow_left", 5, 200, "surprised").mean() > track("brow_left", 5, 200, "angry").mean() + 1


def test_contempt_is_lopsided() -> None:
    assert (track("brow_left", 2, 200, "contempt") - track("brow_right", 2, 200, "contempt")).mean() > 0.3


def test_random_motion_fills_the_ranges() -> None:
    motion, placement = random_motion(0, 2000)
    values = torch.cat([motion, placement], 1)
    low, high = torch.tensor([RANGES[name] for name in MOTION + PLACEMENT]).T
    assert torch.allclose(values.mean(0), 0.5 * (low + high), atol=0.03 * 80)
    assert bool(((values.amax(0) - values.amin(0)) > 0.98 * (high - low)).all())


@pytest.mark.parametrize(("emotion", "intensity", "message"), [("bored", None, "no emotion"), ("sad", 4, "1, 2 or 3")])
def test_unknown_emotions_and_intensities_are_refused(emotion: str, intensity: int | None, message: str) -> None:
    with pytest.raises(XNeMoError, match=message):
        sequence(0, 10, emotion, intensity)


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(XNeMoError, match="at least one"):
        sequence(0, 0)
