"""`xnemo motion`: every word turns motion files into motion files, and refuses in one sentence."""

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import cli
from jobs.motion import _outpaint_options, main
from tests.xnemo.tokens import toy
from xnemo.tokens.generator import TOP_P
from xnemo.tokens.motion_file import Motion, load_motion, save_motion
from xnemo.tokens.outpaint import SIGMA
from xnemo.tokens.weights import save_generator, save_tokenizer


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


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """--tokenizer and --generator: folders of two that go together, for model "mmm…" and width 24."""
    folder, tokenizer = tmp_path_factory.mktemp("parts"), copy.copy(toy.trained_tokenizer())
    generator = copy.copy(toy.fresh_generator())
    tokenizer.belongs_to = "m" * 64
    generator.belongs_to = save_tokenizer(tokenizer, folder / "tokenizer")
    save_generator(generator, folder / "generator")
    return ["--tokenizer", str(folder / "tokenizer"), "--generator", str(folder / "generator")]


def prefix_of(
    path: Path, frames: int = 40, features: int = toy.FEATURES, model: str = "m" * 64, fps: float = 25
) -> Path:
    f_rts = np.tile(np.array([0.1, -0.2, 1.1], np.float32), (frames, 1))
    return save_motion(Motion(toy.motion(1, frames, 0)[0, :, :features].numpy(), f_rts, fps, model), path)


def test_outpainting_writes_a_motion_that_begins_with_the_prefix(parts: list[str], tmp_path: Path) -> None:
    prefix = prefix_of(tmp_path / "p.safetensors")
    words = ["outpaint", *parts, "--prefix", str(prefix), "--seconds", "4", "--emotion", "happy", "--intensity", "2"]
    assert main([*words, "-o", str(tmp_path / "long.safetensors")]) == 0
    before, whole = load_motion(prefix), load_motion(tmp_path / "long.safetensors")
    assert (len(whole), whole.model, whole.fps) == (100, "m" * 64, 25.0)
    np.testing.assert_array_equal(whole.f_mot[:40], before.f_mot)
    np.testing.assert_array_equal(whole.f_rts, np.tile(before.f_rts[:1], (100, 1)))


@pytest.mark.parametrize(
    ("made", "words", "says"),
    [
        ({"model": "f" * 64}, [], "made with model ffffffffffff"),
        ({"features": 12}, [], "width 12"),
        ({"frames": 3}, [], "at least 4 frames"),
        ({"fps": 30.0}, [], "30 frames per second"),
        ({}, ["--emotion", "bored"], "choose one of neutral"),
        ({}, ["--emotion", "sad", "--intensity", "7"], "intensity"),
        ({}, ["--temperature", "nan"], "temperature"),
        ({}, ["--seconds", "nan"], "at least one frame"),
        ({}, ["--seconds", "inf"], "too long"),
        ({}, ["--seconds", "1"], "longer than the prefix"),
    ],
)
def test_what_cannot_be_outpainted_is_one_sentence_and_nothing_is_written(
    made: dict[str, Any], words: list[str], says: str, parts: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    prefix, target = prefix_of(tmp_path / "p.safetensors", **made), tmp_path / "new.safetensors"
    asked = ["outpaint", *parts, "--prefix", str(prefix), "--seconds", "4", *words, "-o", str(target)]
    assert cli.run(main, asked) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not target.exists()


def test_options_of_a_video_are_not_for_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["extract", "--dataset", "shards/", "--start", "1", "-o", str(tmp_path / "motions")]
    assert cli.run(main, words) == 1
    assert "leave them out with --dataset" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plot", "m.safetensors", "workers=2", "-o", str(tmp_path / "m.png")])


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
