"""`xnemo motion`: every word turns motion files into motion files, and refuses in one sentence."""

from pathlib import Path

import numpy as np
import pytest

from jobs import cli
from jobs.motion import main
from xnemo.tokens.motion_file import Motion, load_motion, save_motion


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
