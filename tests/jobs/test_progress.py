"""Progress bars say where a command is, and get out of the way of what it says."""

import pytest

from jobs.cli import run
from jobs.progress import bars
from xnemo.errors import XNeMoError


def test_an_error_under_a_bar_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def job(_: object) -> None:
        bars()("faces", 3, 10)
        raise XNeMoError("the disk is full")

    assert run(job, []) == 1
    said = capsys.readouterr().err
    assert "finding faces" in said
    assert said.splitlines()[-1] == "error: the disk is full"


def test_denoiser_calls_are_shown_as_the_frames_they_are_worth(capsys: pytest.CaptureFixture[str]) -> None:
    show = bars()
    show("frames", 0, 50)
    show("steps", 200, 200)
    assert "50/50" in capsys.readouterr().err
