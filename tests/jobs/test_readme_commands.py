"""What the README tells a newcomer to type is typed here, word for word, in an empty folder; one story, in order.

What needs a cluster is in tests/infra, what needs a service in tests/pipelines/serve, `make demo` in tests/end_to_end.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xnemo.media.video import probe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody works who has the code there, and nothing else."""
    place = tmp_path_factory.mktemp("readme")
    for part in ("jobs", "xnemo"):
        (place / part).symlink_to(ROOT / part)
    shutil.copytree(ROOT / "xnemo/bundled", place / "model")
    return place


def typed(folder: Path, words: str, also: str = "") -> str:
    """Run a command of the README, with what stands in `also` behind it; what it printed."""
    assert f"`xnemo {words}" in README, f"the README says it otherwise: {words}"
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "XNEMO_HOME": str(folder / "data")}
    command = [sys.executable, "-m", "jobs.cli", *shlex.split(words), *also.split()]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_this_machine_is_asked(folder):
    assert "all well" in typed(folder, "doctor")
    assert "0 leftovers" in typed(folder, "retain --dry-run")


def test_heads_are_drawn_and_one_is_animated_by_another(folder):
    typed(folder, "synthetic portrait --seed 7 -o p.png")
    typed(folder, "synthetic clip -o d.mp4")
    typed(folder, "animate --portrait p.png --driving d.mp4 -o out.mp4")
    assert probe(folder / "out.mp4").frames == probe(folder / "d.mp4").frames


def test_the_lines_of_python_do_the_same(folder, monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (folder / "out.mp4").unlink()
    monkeypatch.chdir(folder)
    exec(code, {})
    assert probe(folder / "out.mp4").frames == probe(folder / "d.mp4").frames


def test_videos_become_shards_that_train_a_stage(folder):
    typed(folder, "synthetic clip -o d.mp4")
    (folder / "clips").mkdir()
    shutil.copy(folder / "d.mp4", folder / "clips")
    small = "clips.min_face_px=30 clips.min_frames=12 val_share=0"  # a small head, and one alone
    typed(folder, "data ingest --dataset folder --source clips/ --output shards/", also=small)
    assert re.search(r"clips +1\b", typed(folder, "data inspect shards/"))
    typed(folder, "data preview shards/ -o sheet.png")
    assert (folder / "sheet.png").stat().st_size > 1000
    config = "jobs/configs/smoke/appearance.yaml"
    typed(folder, f"train appearance --config {config} --dataset shards/ --output run/")
    assert (folder / "run/export").is_dir()
