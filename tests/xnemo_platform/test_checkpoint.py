"""A checkpoint is whole or invisible, and the newest whole one is found."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from xnemo_platform.checkpoint import COMMIT, Checkpoints, State, require_same
from xnemo_platform.errors import PlatformError


def state(step, **changes):
    return State(
        **{"step": step, "epoch": 0, "fingerprint": "f", "config": {"lr": 1}, "run_id": "r", "world": 1, "zero": 0}
        | changes
    )


def save(checkpoints, step, text="weights"):
    def write(folder):
        (folder / "main").mkdir()
        (folder / "main" / "weights.bin").write_text(f"{text} {step}")

    return checkpoints.save(state(step), write)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_is_found_with_its_state(checkpoints):
    folder = save(checkpoints, 10)
    found = checkpoints.newest()
    assert found.folder == folder
    assert found.state == state(10)
    assert (found.folder / "main" / "weights.bin").read_text() == "weights 10"


def test_there_is_none_before_the_first_save(checkpoints):
    assert checkpoints.newest() is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "uncommit", "garble"])
def test_a_damaged_newest_is_skipped_with_a_warning(checkpoints, caplog, damage):
    save(checkpoints, 10)
    broken = save(checkpoints, 20) / "main" / "weights.bin"
    if damage == "flip":
        broken.write_text("weightz 20")
    elif damage == "truncate":
        broken.write_text("")
    elif damage == "remove":
        broken.unlink()
    elif damage == "uncommit":
        (broken.parent.parent / COMMIT).unlink()
    else:
        (broken.parent.parent / COMMIT).write_text('{"state": ')
    assert checkpoints.newest().state.step == 10
    assert "damaged" in caplog.text


def test_only_the_newest_are_kept(checkpoints):
    for step in (10, 20, 30):
        save(checkpoints, step)
    assert sorted(f.name for f in checkpoints.root.iterdir()) == ["step-00000020", "step-00000030"]


def test_retention_counts_only_sound_ones(checkpoints):
    for step in (10, 20):
        save(checkpoints, step)
    (checkpoints.root / "step-00000020" / "main" / "weights.bin").write_text("")
    save(checkpoints, 30)
    assert sorted(f.name for f in checkpoints.root.iterdir()) == ["step-00000010", "step-00000030"]


def test_a_failing_write_leaves_the_last_one_and_nothing_half_done(checkpoints):
    save(checkpoints, 10)

    def full(folder):
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(PlatformError, match="No space"):
        checkpoints.save(state(20), full)
    assert checkpoints.newest().state.step == 10
    assert not list(checkpoints.root.glob(".step*"))
    save(checkpoints, 30)
    assert not list(checkpoints.root.glob(".step*"))


@pytest.mark.parametrize("moment", ["os.fsync", "os.rename", "json.dump"])
def test_a_kill_in_the_middle_of_a_save_leaves_the_previous_one(checkpoints, moment):
    save(checkpoints, 10)
    module, name = moment.split(".")
    code = f"""
import json, os
from pathlib import Path
from xnemo_platform.checkpoint import Checkpoints, State
{module}.{name} = lambda *a, **k: os.kill(os.getpid(), 9)
state = State(step=20, epoch=0, fingerprint="f", config={{}}, run_id=None, world=1, zero=0)
Checkpoints(Path({str(checkpoints.root)!r})).save(state, lambda f: (f / "x").write_text("x") and None)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert checkpoints.newest().state.step == 10


def test_a_folder_outside_the_run_is_never_loaded(checkpoints, tmp_path):
    save(checkpoints, 10)
    stranger = tmp_path / "stranger"
    shutil.copytree(checkpoints.root / "step-00000010", stranger)
    link = checkpoints.root / "step-00000099"
    os.symlink(stranger, link)
    with pytest.raises(PlatformError, match="not loading"):
        checkpoints.at(link)


def test_another_config_is_refused_showing_what_differs(tmp_path):
    with pytest.raises(PlatformError, match="lr: 1 → 2"):
        require_same(state(10), "g", ["lr: 1 → 2"], tmp_path)


def test_the_commit_lists_every_file(checkpoints):
    commit = json.loads((save(checkpoints, 10) / COMMIT).read_text())
    assert list(commit["files"]) == ["main/weights.bin"]
