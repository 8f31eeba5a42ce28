"""Clips on disk: size, marks, and sound that stays in sync."""

from pathlib import Path

import numpy as np
import pytest

from xnemo.clip import Clip, side_by_side
from xnemo.media import provenance
from xnemo.media.sound import mux_sound, read_sound
from xnemo.media.video import probe, read_frames, write_video

RATE = 16_000


def frames(count: int, size: int = 64) -> np.ndarray:
    ramp = np.linspace(40, 200, size, dtype=np.uint8)
    return np.stack([np.roll(np.stack([ramp[None] + 0 * ramp[:, None]] * 3, -1), n, 1) for n in range(count)])


def clicking(path: Path, at: float, seconds: float) -> Path:
    """A sound file with one burst of noise."""
    import av

    sound = np.zeros((1, round(seconds * RATE)), np.float32)
    burst = np.random.default_rng(0).uniform(-0.8, 0.8, 800).astype(np.float32)
    sound[0, round(at * RATE) : round(at * RATE) + 800] = burst
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=RATE, layout="mono")
        mux_sound(out, stream, iter([sound]))
    return path


def burst_at(path: Path) -> float:
    sound = np.concatenate(list(read_sound(path, 0, 10)), axis=1)[0]
    return float(np.argmax(np.abs(sound) > 0.2)) / RATE


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_sound_stays_in_sync(tmp_path: Path, start: float) -> None:
    clip = Clip(frames(50), 25.0, clicking(tmp_path / "s.m4a", 1.2, 3.0), start)
    saved = clip.save(tmp_path / "v.mp4")
    assert burst_at(saved) == pytest.approx(1.2 - start, abs=0.04)
    assert probe(saved).has_audio


def test_a_silent_driver_gives_a_silent_clip(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "d.mp4", frames(20), 25)
    saved = Clip(frames(10), 25.0, silent, 0.2).save(tmp_path / "v.mp4")
    assert not probe(saved).has_audio


def test_a_small_clip_is_enlarged_and_marked(tmp_path: Path) -> None:
    saved = Clip(frames(8), 30.0, model="m").save(tmp_path / "v.mp4")
    info, marks = probe(saved), provenance.inspect(saved)
    assert (info.width, info.height, info.frames, info.fps) == (256, 256, 8, 30.0)
    assert marks.watermark > provenance.THRESHOLD
    assert not marks.label
    assert marks.note
    assert marks.note["model"] == "m"


def test_marks_can_be_left_out(tmp_path: Path) -> None:
    assert not provenance.inspect(Clip(frames(8), 25.0).save(tmp_path / "v.mp4", provenance=False)).synthetic


def test_side_by_side_has_one_height() -> None:
    shown = list(side_by_side(np.zeros((30, 20, 3), np.uint8), np.full((5, 90, 120, 3), 100, np.uint8), frames(4)))
    assert len(shown) == 4
    assert shown[0].shape == (256, 171 + 341 + 256, 3)


def test_a_large_clip_keeps_its_size(tmp_path: Path) -> None:
    saved = Clip(frames(3, 300), 25.0).save(tmp_path / "v.mp4")
    assert read_frames(saved).shape == (3, 300, 300, 3)
