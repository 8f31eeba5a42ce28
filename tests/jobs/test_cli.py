"""The command line: help everywhere, one sentence per mistake, exit code 0 only on success."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli
from xnemo.errors import XNeMoError

ROOT = Path(__file__).resolve().parents[2]


def xnemo(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], capture_output=True, text=True, cwd=ROOT, **options
    )


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in cli.COMMANDS)


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_every_command_has_help_with_examples(word, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([word, "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    assert cli.main(["anmate"]) != 0
    assert "did you mean 'animate'" in capsys.readouterr().err


def test_no_command_is_a_usage_error(capsys):
    assert cli.main([]) != 0


def test_a_users_error_is_one_sentence_without_a_traceback(capsys):
    def job(_argv):
        raise XNeMoError("p.png: no face; give a portrait with one.")

    assert cli.run(job, []) == 1
    assert capsys.readouterr().err == "error: p.png: no face; give a portrait with one.\n"


def test_debug_shows_the_traceback():
    def job(_argv):
        raise XNeMoError("no face")

    with pytest.raises(XNeMoError):
        cli.run(job, ["--debug"])


def test_a_missing_file_is_named(capsys):
    assert cli.run(lambda _argv: Path("nowhere.png").read_bytes() and 0, []) == 1
    assert "nowhere.png" in capsys.readouterr().err


def test_an_unforeseen_error_is_not_success():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda _argv: 1 // 0, [])


def test_help_is_quick_enough_to_be_read(tmp_path):
    # The overview must not import torch or ray: it is the first thing a newcomer types.
    code = "import sys; from jobs import cli; cli.main(['--help']); sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_overrides_may_stand_anywhere_and_anything_else_is_refused(capsys):
    options = cli.parser("train", "", "  xnemo train")
    options.add_argument("what")
    options.add_argument("--output")
    found = cli.with_overrides(options, ["motion", "loop.steps=4", "--output", "a=b", "loop.lr=1e-3"])
    assert found.output == "a=b"
    assert found.overrides == ["loop.steps=4", "loop.lr=1e-3"]
    with pytest.raises(SystemExit):
        cli.with_overrides(options, ["motion", "--outptu", "x"])
    assert "--outptu" in capsys.readouterr().err


def test_paths_become_absolute_and_names_stay_names(tmp_path, monkeypatch):
    from jobs.data import absolute

    monkeypatch.chdir(tmp_path)
    assert absolute("shards") == str(tmp_path / "shards")
    for name in ("s3://bucket/shards", "models:/xnemo@demo", "bundled"):
        assert absolute(name) == name
