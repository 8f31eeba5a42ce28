"""`xnemo animate` as a person runs it: killed and resumed, refused in one sentence, and its flags have the defaults."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from jobs import animate, cli
from xnemo.media.images import write_image
from xnemo.media.video import read_frames, write_video
from xnemo.options import Options
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render

ROOT = Path(__file__).resolve().parents[2]


def heads(identity: int, frames: int) -> np.ndarray:
    return render(random_identity(identity)[None], *sequence(2, frames), 160).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    write_image(tmp_path / "p.png", heads(5, 1)[0])
    write_video(tmp_path / "d.mp4", heads(9, 30), 25)
    return ["--portrait", str(tmp_path / "p.png"), "--driving", str(tmp_path / "d.mp4"), "--steps", "1"]


def test_every_option_of_an_animation_has_a_flag_that_tells_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = animate._options().parse_args(["--portrait", "p"])
    for field in fields(Options):
        if field.name != "face":  # given once for each face, so a list
            assert getattr(parsed, field.name) == field.default, field.name


def test_every_default_is_told_with_its_source() -> None:
    for action in animate._options()._actions:
        if action.default not in (None, "==SUPPRESS==") or action.dest in ("end", "fps", "face", "max_memory"):
            assert re.search(r"\(.*(paper|released|ours).*\)", action.help or ""), action.dest


def test_a_whole_run_leaves_the_video_and_nothing_else(tmp_path: Path, pair: list[str]) -> None:
    out = tmp_path / "new" / "o.mp4"
    command = [*pair, "-o", str(out), "--max-frames", "5", "--save-motion", str(tmp_path / "m.safetensors")]
    assert cli.run(animate.main, command) == 0
    assert [path.name for path in out.parent.iterdir()] == ["o.mp4"]
    again = [*pair[:2], *pair[4:], "--motion", str(tmp_path / "m.safetensors"), "-o", str(out)]
    first = read_frames(out)
    assert cli.run(animate.main, again) == 0
    np.testing.assert_array_equal(read_frames(out), first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "o.avi"], "o.avi"),
        (["-o", "o.mp4", "--crf", "99"], "crf is 99"),
        (["-o", "o.mp4", "--guidance-scale", "nan"], "guidance_scale is nan"),
        (["-o", "o.mp4", "--face", "0", "--face", "0"], "given twice"),
        (["-o", "o.mp4", "--seed", "-1"], "seed is -1"),
        (["-o", "o.mp4", "--max-memory", "nan"], "max-memory is nan"),
        (["-o", "d.mp4"], "what is read"),
        (["-o", ""], "no name for a result"),
        (["-o", "o.mp4", "--device", "meta"], "no such device"),
        (["--list-faces", "f.txt"], "are a picture"),
        (["-o", "o.mp4", "--max-memory", "0.001"], "GiB are too little"),
        (["-o", "d.mp4/o.mp4"], "cannot be written"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, pair: list[str], options: list[str], words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.run(animate.main, [*pair, *options]) == 1
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.mp4", "p.png"]


def test_the_faces_are_shown_by_number(tmp_path: Path, pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(animate.main, [*pair[:2], "--list-faces", str(tmp_path / "f.png")]) == 0
    assert "face 0 at" in capsys.readouterr().out
    assert (tmp_path / "f.png").exists()


@pytest.mark.slow
@pytest.mark.fault
def test_a_run_killed_at_random_points_and_resumed_gives_the_same_bytes(tmp_path: Path, pair: list[str]) -> None:
    write_video(tmp_path / "d.mp4", np.concatenate([heads(9, 60), heads(9, 60)[::-1]]), 25)
    command = [*pair[:-1], "3", "--window-size", "12", "--resume"]
    assert cli.run(animate.main, [*command, "-o", str(tmp_path / "whole.mp4")]) == 0
    draw, kills = random.Random(0), 0
    words = [sys.executable, "-m", "jobs.cli", "animate", *command, "-o", str(tmp_path / "killed.mp4")]
    for _ in range(12):
        state = tmp_path / ".killed.mp4.work" / "face-0" / "state.safetensors"
        before = state.stat().st_mtime_ns if state.exists() else 0
        run = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
        while run.poll() is None and (state.stat().st_mtime_ns if state.exists() else 0) == before:
            time.sleep(0.01)  # until it has finished a window more
        time.sleep(draw.uniform(0, 0.3))
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        assert run.wait() in (0, -signal.SIGKILL), run.stderr.read() if run.stderr else ""
        if run.returncode == 0:
            break
    else:
        assert subprocess.run(words, cwd=ROOT).returncode == 0
    assert kills >= 2
    assert (tmp_path / "killed.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.mp4", "killed.mp4", "p.png", "whole.mp4"]
