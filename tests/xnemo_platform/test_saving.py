"""Saves run beside the training: later steps change nothing in them, and one that fails loses nothing."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.xnemo_platform.test_checkpoint import state
from xnemo_platform.checkpoint import Checkpoints, Ranks
from xnemo_platform.mirror import Mirror
from xnemo_platform.saving import Saver, on_host


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def saver(checkpoints):
    return Saver(checkpoints, Ranks())


def weights(folder):
    return torch.load(folder / "main" / "w.pt", weights_only=True)


def test_the_training_goes_on_while_a_checkpoint_is_written(checkpoints, monkeypatch):
    may_write, real = threading.Event(), checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *args: may_write.wait(30) and real(*args))
    w = torch.ones(3)
    with saver(checkpoints) as saving:
        saving.save(state(10), lambda: {"main/w.pt": on_host({"w": w})})
        w += 1  # the next step, before anything was written
        assert checkpoints.newest() is None
        may_write.set()
    assert torch.equal(weights(checkpoints.newest().folder)["w"], torch.ones(3))


def test_a_copy_is_no_larger_than_what_it_shows():
    whole = torch.arange(1000.0)
    copied = on_host({"a": [whole[:10]], "b": (whole[5:7], 3), "c": {"d": None}})
    assert copied["a"][0].untyped_storage().nbytes() == 40
    whole.zero_()
    assert copied["b"][0].tolist() == [5, 6]


def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(checkpoints):
    """The kernel itself refuses to write: a limit on the size of files stands for the end of the disk."""
    code = f"""
import logging, resource, sys, torch
sys.path[:0] = {[str(Path(__file__).resolve().parents[2])]!r}
from tests.xnemo_platform.test_saving import Checkpoints, saver, state
from pathlib import Path
logging.basicConfig(format="%(message)s")
checkpoints = Checkpoints(Path({str(checkpoints.root)!r}))
with saver(checkpoints) as saving:
    saving.save(state(10), lambda: {{"main/w.pt": torch.ones(100_000)}})
    saving.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    saving.save(state(20), lambda: {{"main/w.pt": torch.ones(100_000)}})
    saving.wait()
    assert saving.failed
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert checkpoints.newest().state.step == 10
    assert [path.name for path in checkpoints.root.iterdir()] == ["step-00000010"]
    saving.save(state(30), lambda: {{"main/w.pt": torch.ones(100_000)}})
    saving.wait()
    assert not saving.failed
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 20 could not be written (rank 0: File too large); the training goes on" in done.stderr
    assert checkpoints.newest().state.step == 30


def committed(checkpoints, step, figure=None):
    return checkpoints.save(state(step, figure=figure), lambda folder: (folder / "w").write_text(str(step)))


def kept(root):
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.iterdir())


def test_the_best_is_kept_beside_the_newest(checkpoints):
    for step, figure in [(10, 0.9), (20, 0.3), (30, 0.5), (40, None), (50, 0.6)]:
        committed(checkpoints, step, figure)
    assert kept(checkpoints.root) == [20, 40, 50]
    assert checkpoints.best().state.step == 20
    committed(checkpoints, 60, 0.2)
    assert kept(checkpoints.root) == [50, 60]


def test_a_mirror_holds_what_is_kept_and_brings_it_back(tmp_path):
    uri, root = (tmp_path / "elsewhere").as_uri(), tmp_path / "run"
    first = Checkpoints(root, 2, Mirror(uri))
    for step in (10, 20, 30):
        committed(first, step)
    assert kept(tmp_path / "elsewhere") == [20, 30]
    fresh = Checkpoints(tmp_path / "another machine", 2, Mirror(uri))
    found = fresh.newest()
    assert (found.state.step, (found.folder / "w").read_text()) == (30, "30")
    assert fresh.at(found.folder)


def test_a_damaged_checkpoint_comes_back_from_the_mirror(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "run", 2, Mirror((tmp_path / "elsewhere").as_uri()))
    (committed(checkpoints, 10) / "w").write_text("XX")
    assert (checkpoints.newest().folder / "w").read_text() == "10"
    assert "does not match its digest" in caplog.text


def test_half_a_checkpoint_in_the_mirror_is_none(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    committed(Checkpoints(tmp_path / "run", 2, Mirror(elsewhere.as_uri())), 10)
    (elsewhere / "step-00000010" / "COMMIT.json").unlink()
    assert Checkpoints(tmp_path / "other", 2, Mirror(elsewhere.as_uri())).newest() is None


def test_a_stranger_in_the_mirror_writes_nothing_outside(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    folder = committed(Checkpoints(tmp_path / "run", 2, Mirror(elsewhere.as_uri())), 10)
    commit = json.loads((folder / "COMMIT.json").read_text())
    commit["files"]["../../canary"] = commit["files"]["w"]
    (elsewhere / "step-00000010" / "COMMIT.json").write_text(json.dumps(commit))
    assert Checkpoints(tmp_path / "other", 2, Mirror(elsewhere.as_uri())).newest() is None
    assert not (tmp_path / "canary").exists()


def test_losing_the_mirror_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "run", 2, Mirror((tmp_path / "file" / "below").as_uri()))
    with caplog.at_level(logging.WARNING):
        committed(checkpoints, 10)
    assert checkpoints.newest().state.step == 10
    assert "mirror" in caplog.text
