"""The DeepSpeed files of machine classes reach the engine, and train."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "xnemo_platform"))
from toy_task import ToyConfig, ToyTask, exported

from xnemo_platform import trainee
from xnemo_platform.config import diff, fingerprint, load_config
from xnemo_platform.engine import Run, train
from xnemo_platform.errors import PlatformError
from xnemo_platform.loop import MAY_CHANGE
from xnemo_platform.trainer import Place

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "infra/deepspeed").glob("*.json"))
LOOP = ["loop.steps=3", "loop.batch=8", "loop.lr=1e-2", "dropout=0"]


def trained(folder: Path, *words: str) -> dict[str, torch.Tensor]:
    config = load_config(ToyConfig, None, [*LOOP, *words])
    train(ToyTask(config, Place("cpu", 0, 1, folder)), config.loop, Run(folder, config.model_dump(mode="json"), "f"))
    return exported(folder)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_machine_class_trains_to_the_same_weights(path, tmp_path, monkeypatch):
    given = json.loads(path.read_text())["zero_optimization"]
    made, real = [], trainee._deepspeed_config
    monkeypatch.setattr(trainee, "_deepspeed_config", lambda *a: made.append(real(*a)) or made[-1])
    plain = trained(tmp_path / "plain")
    there = trained(tmp_path / "there", f"loop.deepspeed={path}")
    assert given.items() <= made[-1]["zero_optimization"].items()
    assert made[-1]["train_batch_size"] == 8
    for name, value in plain.items():
        assert torch.allclose(value, there[name], rtol=1e-2, atol=1e-3), name


def test_the_run_remembers_what_the_file_said(tmp_path):
    config = load_config(ToyConfig, None, [*LOOP, f"loop.deepspeed={ROOT / 'infra/deepspeed/rtx-24g.json'}"])
    assert (config.loop.zero, config.loop.offload) == (2, True)
    assert config.loop.deepspeed["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert ToyConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"zero_optimization": {"stage": 1}, "train_batch_size": 4}', "train_batch_size is not the machine's"),
        ('{"bf16": {"enabled": true}}', "needs the section zero_optimization"),
        ("[1]", "needs the section zero_optimization"),
        ("{", "no JSON file that can be read"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, text, said):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(PlatformError, match=said):
        load_config(ToyConfig, None, [*LOOP, f"loop.deepspeed={tmp_path / 'bad.json'}"])


def test_two_answers_to_one_question_are_refused():
    with pytest.raises(PlatformError, match="zero is 3 here and 2 in the deepspeed file"):
        load_config(ToyConfig, None, [*LOOP, "loop.zero=3", f"loop.deepspeed={ROOT / 'infra/deepspeed/a100-40g.json'}"])


def test_runs_from_before_these_files_go_on_and_a_changed_file_is_another_run():
    free = [f"loop.{key}" for key in MAY_CHANGE]
    plain = load_config(ToyConfig, None, LOOP)
    before = plain.model_dump(mode="json")
    del before["loop"]["deepspeed"]
    assert not diff(before, plain, ignore=free)
    sharded = load_config(ToyConfig, None, [*LOOP, f"loop.deepspeed={ROOT / 'infra/deepspeed/a100-40g.json'}"])
    assert diff(plain, sharded, ignore=free)
    assert fingerprint(plain, free) != fingerprint(sharded, free)
