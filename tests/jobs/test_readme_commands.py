"""What the README tells a newcomer to type is typed here, word for word, in an empty folder; one story, in order.

What needs a cluster is in tests/infra, what needs a service in tests/pipelines/serve, `make demo` in tests/end_to_end.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import xnemo
from jobs import cli
from xnemo.media.video import probe
from xnemo.model import XNeMo

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
    assert f"xnemo {words}" in README, f"the README says it otherwise: {words}"
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "XNEMO_HOME": str(folder / "data")}
    command = [sys.executable, "-m", "jobs.cli", *shlex.split(words), *also.split()]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def also_typed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Runs `xnemo GROUP WORD REST` in this process, where the README's row of that group names the word."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XNEMO_HOME", str(folder / "data"))

    def run(group: str, word: str, rest: str) -> None:
        [row] = re.findall(rf"^\| `xnemo {group} .*$", README, re.MULTILINE)
        assert re.search(rf"`(xnemo {group} )?{word}[` ]", row), f"the README's row of {group} has no {word}"
        assert cli.main([group, word, *shlex.split(rest)]) == 0

    return run


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


def test_their_latents_are_cached(folder):
    typed(folder, "data latents --dataset shards/ --model model/")
    assert list((folder / "shards/latents").glob("*/manifest.parquet"))


def test_motions_are_taken_extended_mixed_edited_and_drawn(folder, also_typed):
    also_typed("motion", "extract", "--driving d.mp4 -o d.safetensors")
    also_typed("motion", "outpaint", "--prefix d.safetensors --seconds 5 -o long.safetensors")
    also_typed("motion", "interpolate", "d.safetensors@0.4s long.safetensors@1.2s --frames 50 -o mixed.safetensors")
    also_typed("motion", "scale", "d.safetensors --factor 1.5 -o more.safetensors")
    also_typed("motion", "hold", "more.safetensors --at 1 --seconds 2 -o held.safetensors")
    also_typed("motion", "loop", "held.safetensors --times 2 -o looped.safetensors")
    also_typed("motion", "smooth", "looped.safetensors -o calm.safetensors")
    also_typed("motion", "concatenate", "calm.safetensors mixed.safetensors -o all.safetensors")
    also_typed("motion", "plot", "all.safetensors -o all.png")
    typed(folder, "animate --portrait p.png", also="--motion all.safetensors -o moved.mp4 --steps 1")
    assert probe(folder / "moved.mp4").frames > probe(folder / "d.mp4").frames


def test_a_model_in_the_released_layout_comes_in_goes_out_and_is_registered(folder, also_typed, tiny_config):
    xnemo.export_official(XNeMo(tiny_config), folder / "pretrained_weights")
    also_typed("model", "import", "pretrained_weights/ -o imported/")
    also_typed("model", "export", "imported/ -o released/")
    assert {path.name for path in (folder / "released").iterdir()} == {
        path.name for path in (folder / "pretrained_weights").iterdir()
    }
    also_typed("model", "register", "model/ --alias demo")
    typed(folder, "animate --portrait p.png --driving d.mp4 -o out.mp4", also="--model models:/xnemo@demo --steps 1")


def test_a_model_is_measured_and_two_measurements_compared(folder):
    typed(folder, "evaluate --model model/ --output report/", also="clips=1 pairs=8 steps=1")
    assert (folder / "report/artifacts/report.html").stat().st_size > 1000
    for name in ("a", "b"):
        shutil.copytree(folder / "report", folder / name)
    typed(folder, "evaluate compare a/ b/")
    for name, file in (("p", "p.png"), ("d", "d.mp4")):
        (folder / name).mkdir()
        shutil.copy(folder / file, folder / name)
    typed(folder, "evaluate pairs --portraits p/ --driving d/ --output pairs.json", also="--count 1 --matrix 1")
    assert (folder / "pairs.json").stat().st_size > 0
