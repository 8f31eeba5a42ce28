"""Each stage killed at a moment nobody chose, in a step or a save, and started again: the weights end the same."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from pipelines.train_config import TrainConfig
from tests.pipelines.test_train import appearance, config_of, dataset, in_process  # noqa: F401
from xnemo import weights

pytestmark = [pytest.mark.slow, pytest.mark.fault]
STEPS = 6
STARTED_WITHIN_S = 300.0


@pytest.fixture(scope="module")
def processes():
    """Processes that have everything imported already: each is forked from one that only did that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "xnemo_platform.snapshots"])
    return context


def configured(stage, dataset, start, folder: Path) -> TrainConfig:  # noqa: F811
    words = ["start=null" if stage == "appearance" else f"start={start}", f"loop.steps={STEPS}", "loop.log_every=1"]
    return config_of(stage, dataset, folder, *words, "loop.validate_every=3", "loop.best=validation/loss")


def finish(processes, config) -> None:
    process = processes.Process(target=in_process, args=(config,))
    process.start()
    process.join()
    assert process.exitcode == 0


def killed(processes, config, when) -> None:
    """Start the training, and send SIGKILL once `when()` is true."""
    process = processes.Process(target=in_process, args=(config,))
    process.start()
    deadline = time.monotonic() + STARTED_WITHIN_S
    while not when() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("stage", "moment"), [("appearance", "step"), ("motion", "step"), ("temporal", "step"), ("motion", "save")]
)
def test_a_kill_changes_no_bit_of_the_result(processes, stage, moment, dataset, appearance, tmp_path):  # noqa: F811
    whole, broken = (configured(stage, dataset, appearance, tmp_path / name) for name in ("whole", "broken"))
    finish(processes, whole)
    draw, checkpoints = random.Random(f"{stage} {moment}"), tmp_path / "broken" / "checkpoints"
    step, delay = draw.randrange(1, STEPS), draw.random() * 0.2

    def in_a_step() -> bool:
        book = tmp_path / "broken" / "outbox.jsonl"
        if not book.exists() or f'"step": {step},' not in book.read_text():
            return False
        time.sleep(delay)
        return True

    def in_a_save() -> bool:
        return (checkpoints / f".step-{step:08d}.tmp").exists()

    killed(processes, broken, in_a_step if moment == "step" else in_a_save)
    assert not (tmp_path / "broken" / "export").exists()
    finish(processes, broken)
    names = [tmp_path / run / "export" / "model.safetensors" for run in ("whole", "broken")]
    assert weights.sha256(names[0]) == weights.sha256(names[1])
