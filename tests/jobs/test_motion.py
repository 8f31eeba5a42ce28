"""`xnemo motion`: every word turns motion files into motion files, and refuses in one sentence."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from jobs import cli
from jobs.motion import _outpaint_options, main
from xnemo.tokens.generator import TOP_P
from xnemo.tokens.motion_file import Motion, load_motion, save_motion
from xnemo.tokens.outpaint import SIGMA


@pytest.fixture
def motion(tmp_path: Path) -> Path:
    codes = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    rts = np.tile(np.array([0, 0, 1], np.float32), (50, 1))
    return save_motion(Motion(codes, rts, 25.0, "m" * 64), tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("words", "frames"),
    [
        (["scale", "--factor", "1.5"], 50),
        (["hold", "--at", "1", "--seconds", "2"], 100),
        (["loop", "--times", "3", "--blend", "10"], 120),
        (["smooth", "--sigma", "2"], 50),
    ],
)
def test_an_edit_writes_a_motion_of_the_same_model(words: list[str], frames: int, motion: Path, tmp_path: Path) -> None:
    assert main([words[0], str(motion), *words[1:], "-o", str(tmp_path / "new.safetensors")]) == 0
    edited = load_motion(tmp_path / "new.safetensors")
    assert (len(edited), edited.model, edited.fps) == (frames, "m" * 64, 25.0)


def test_motions_are_joined_in_the_order_given(motion: Path, tmp_path: Path) -> None:
    words = ["concatenate", str(motion), str(motion), "--blend", "5", "-o", str(tmp_path / "both.safetensors")]
    assert main(words) == 0
    both, one = load_motion(tmp_path / "both.safetensors"), load_motion(motion)
    assert len(both) == 95
    assert np.array_equal(both.f_mot[:45], one.f_mot[:45])


def test_moments_are_reached_when_asked(motion: Path, tmp_path: Path) -> None:
    keys = [f"{motion}@0.4s", f"{motion}@1.2s", str(motion)]
    words = ["interpolate", *keys, "--frames", "41", "--times", "0", "1", "4", "-o", str(tmp_path / "mix.safetensors")]
    assert main(words) == 0
    mixed, one = load_motion(tmp_path / "mix.safetensors"), load_motion(motion)
    np.testing.assert_allclose(mixed.f_mot[[0, 10, 40]], one.f_mot[[10, 30, 0]], atol=1e-6)


def test_scaling_is_about_the_neutral_moment(motion: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.safetensors"
    assert main(["scale", str(motion), "--factor", "0", "--neutral", f"{motion}@1s", "-o", str(target)]) == 0
    calm, one = load_motion(target), load_motion(motion)
    np.testing.assert_allclose(calm.f_mot, np.tile(one.f_mot[25], (50, 1)), atol=1e-6)


def test_outpainting_takes_the_library_s_defaults() -> None:
    """They stand as numbers in the options, so that `--help` need not load torch."""
    options = argparse.ArgumentParser()
    _outpaint_options(options)
    assert (options.get_default("top_p"), options.get_default("smooth")) == (TOP_P, SIGMA)


def test_a_plot_is_a_picture(motion: Path, tmp_path: Path) -> None:
    assert main(["plot", str(motion), "-o", str(tmp_path / "m.png")]) == 0
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scale", "--factor", "nan"], "finite"),
        (["hold", "--at", "9", "--seconds", "1"], "lasts 2 s"),
        (["loop", "--times", "0"], "at least 1"),
        (["smooth", "--sigma", "-1"], "sigma"),
        (["hold", "--at", "nan", "--seconds", "1"], "cannot hold"),
        (["loop", "--times", "1000000000000"], "too long"),
        (["scale", "--factor", "2", "--neutral", "nothing.safetensors@1s"], "cannot be read"),
    ],
)
def test_a_wrong_edit_is_one_sentence_and_writes_nothing(
    words: list[str], says: str, motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new.safetensors"
    assert cli.run(main, [words[0], str(motion), *words[1:], "-o", str(target)]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not target.exists()
