"""A motion file survives its round trip; anything else is refused with one sentence."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from xnemo.errors import XNeMoError
from xnemo.tokens.motion_file import FORMAT, Motion, load_motion, save_motion, still_rts, to_bytes


def motion(frames: int = 10, features: int = 6, model: str = "abc") -> Motion:
    return Motion(np.random.default_rng(0).normal(size=(frames, features)), still_rts(frames), 25.0, model)


def test_round_trip(tmp_path: Path) -> None:
    path = save_motion(motion(), tmp_path / "deep" / "a.safetensors")
    back = load_motion(path, model="abc", features=6)
    assert (back.f_mot == motion().f_mot).all()
    assert (back.f_rts == motion().f_rts).all()
    assert (back.fps, back.model) == (25.0, "abc")
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_equal_motions_make_equal_bytes_and_load_from_bytes() -> None:
    assert to_bytes(motion()) == to_bytes(motion())
    assert load_motion(to_bytes(motion())).seconds == 0.4


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_motion(motion(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_motion(motion(20), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_another_model_or_width_is_refused_by_name() -> None:
    with pytest.raises(XNeMoError, match="model abc"):
        load_motion(to_bytes(motion()), model="other")
    with pytest.raises(XNeMoError, match="width 6"):
        load_motion(to_bytes(motion()), features=512)


META = {"format": FORMAT, "fps": 25.0, "model": ""}


@pytest.mark.parametrize(
    ("change", "meta", "word"),
    [
        ({"f_mot": np.zeros((0, 6), np.float32), "f_rts": np.zeros((0, 3), np.float32)}, {}, "at least one frame"),
        ({"f_mot": np.full((4, 6), np.nan, np.float32)}, {}, "NaN"),
        ({"f_rts": np.zeros((4, 3), np.float32)}, {}, "s > 0"),
        ({"f_rts": np.ones((5, 3), np.float32)}, {}, r"\[4,3\]"),
        ({"f_mot": np.ones((4, 6), np.int64)}, {}, "floating point"),
        ({}, {"fps": 0}, "fps"),
        ({}, {"fps": float("nan")}, "fps"),
        ({}, {"format": "other/9"}, "other/9"),
        ({}, {"fps": "many"}, "not a motion file"),
    ],
)
def test_unsound_content_is_refused(change: dict, meta: dict, word: str) -> None:
    tensors = {"f_mot": np.ones((4, 6), np.float32), "f_rts": still_rts(4), **change}
    with pytest.raises(XNeMoError, match=word):
        load_motion(save(tensors, metadata={"motion": json.dumps({**META, **meta})}))


def test_missing_tensors_metadata_and_files_are_refused(tmp_path: Path) -> None:
    for data in (
        save({"f_mot": np.ones((4, 6), np.float32)}, metadata={"motion": json.dumps(META)}),
        save({"f_mot": np.ones((4, 6), np.float32), "f_rts": still_rts(4)}),
        b"",
        b"[]" * 20,
    ):
        with pytest.raises(XNeMoError, match="not a motion file"):
            load_motion(data)
    with pytest.raises(XNeMoError, match="check the path"):
        load_motion(tmp_path / "absent.safetensors")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 400))
def test_damaged_files_never_raise_anything_else(noise: bytes, start: int, cut: int) -> None:
    sound = to_bytes(motion())
    damaged = sound[:start] + noise + sound[start + cut :]
    with contextlib.suppress(XNeMoError):
        load_motion(damaged)
