"""The training loop, alone in this process: exact resume, ZeRO stages that agree, nothing poisoned."""

import gzip
import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy_task import ToyConfig, ToyTask, exported

from xnemo_platform.checkpoint import COMMIT
from xnemo_platform.config import build
from xnemo_platform.engine import Run, train
from xnemo_platform.errors import PlatformError
from xnemo_platform.loop import MAY_CHANGE, LoopConfig, lr_factor
from xnemo_platform.trainee import gathered
from xnemo_platform.trainer import Place


def loop(**changes) -> dict:
    every = {"save_every": 2, "log_every": 2, "validate_every": 3, "best": ""}
    return {"steps": 6, "batch": 8, "lr": 1e-2, "keep": 5} | every | changes


def run(folder: Path, poison=(), fingerprint="f", dropout=0.1, **changes) -> ToyTask:
    config = build(ToyConfig, {"loop": loop(**changes), "dropout": dropout})
    task = ToyTask(config, Place("cpu", 0, 1, folder))
    task.poison = set(poison)
    train(task, config.loop, Run(folder, config.model_dump(mode="json"), fingerprint))
    return task


def same(a: Path, b: Path, **tolerance) -> bool:
    one, two = exported(a), exported(b)
    if tolerance:
        return all(torch.allclose(one[name], two[name], **tolerance) for name in one)
    return all(torch.equal(one[name], two[name]) for name in one)


def forget_after(folder: Path, step: int) -> None:
    """As if the run had been killed after the commit of `step`."""
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name.split("-")[1]) > step:
            (checkpoint / COMMIT).unlink()


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path, zero):
    whole = run(tmp_path / "whole", zero=zero)
    run(tmp_path / "broken", zero=zero)
    forget_after(tmp_path / "broken", 2)
    resumed = run(tmp_path / "broken", zero=zero)
    assert resumed.seen == whole.seen[2 * 8 :]
    assert same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_zero_stages_agree(tmp_path, zero):
    run(tmp_path / "plain", zero=0)
    run(tmp_path / "sharded", zero=zero)
    assert same(tmp_path / "plain", tmp_path / "sharded", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("zero", "offload"), [(0, False), (1, False), (2, False), (3, False), (2, True), (3, True)])
def test_bf16_keeps_weights_in_fp32_and_stays_near(tmp_path, zero, offload):
    run(tmp_path / "fp32")
    task = run(tmp_path / "bf16", precision="bf16", zero=zero, offload=offload)
    assert {p.dtype for p in task.module.parameters()} == {torch.float32}
    assert same(tmp_path / "fp32", tmp_path / "bf16", rtol=0.1, atol=0.02)
    assert not same(tmp_path / "fp32", tmp_path / "bf16")


def test_shards_of_another_shape_are_refused_with_the_mend(tmp_path):
    run(tmp_path, zero=1)
    with pytest.raises(PlatformError, match=r"loop.workers=1 loop.zero=1"):
        run(tmp_path, zero=2)


def test_what_is_exported_is_the_average_and_training_goes_on_with_the_weights(tmp_path):
    task = run(tmp_path)
    found = exported(tmp_path)
    assert torch.equal(found["first.weight"], task.average.shadow[0])
    assert not torch.equal(found["first.weight"], task.module.first.weight)


def test_frozen_parameters_stay(tmp_path):
    task = run(tmp_path)
    assert torch.equal(task.module.frozen.weight, ToyTask(task.config, task.place).module.frozen.weight)


def test_accumulation_changes_nothing_but_memory(tmp_path):
    run(tmp_path / "whole", dropout=0.0)
    run(tmp_path / "parts", dropout=0.0, accumulate=4)
    assert same(tmp_path / "whole", tmp_path / "parts", rtol=1e-4, atol=1e-6)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, caplog):
    run(tmp_path / "whole")
    run(tmp_path / "broken")
    forget_after(tmp_path / "broken", 4)
    state = next((tmp_path / "broken/checkpoints/step-00000004/main").rglob("*.pt"))
    state.write_bytes(state.read_bytes()[:-1] + b"!")
    resumed = run(tmp_path / "broken")
    assert "does not match its digest" in caplog.text
    assert len(resumed.seen) == 4 * 8
    assert same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_step_that_is_not_finite_leaves_the_weights_as_they_were(tmp_path, zero):
    skipped = run(tmp_path / "skipped", poison={2}, steps=3, zero=zero)
    before = run(tmp_path / "before", steps=2, zero=zero)
    for name in ("module", "adversary"):
        ours, theirs = (list(getattr(task, name).parameters()) for task in (skipped, before))
        with gathered(ours), gathered(theirs):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_too_many_in_a_row_stop_the_run_with_the_good_weights_kept(tmp_path):
    with pytest.raises(PlatformError, match=r"step 4: gradients were not finite 2 times.*loss nan"):
        run(tmp_path, poison={3, 4}, bad_steps=1)
    again = run(tmp_path, bad_steps=1)
    assert again.seen[0] == 4 * 8  # the checkpoint after the first skipped step


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    run(tmp_path)
    with pytest.raises(PlatformError, match=r"loop.lr: 0.01 → 0.02"):
        run(tmp_path, fingerprint="g", lr=2e-2)


def test_a_finished_run_trains_no_more(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path)
    assert first.seen
    assert not again.seen


def test_a_run_killed_after_its_last_commit_still_tells_its_result(tmp_path):
    task = run(tmp_path)
    found = train(task, task.config.loop, Run(tmp_path, {}, "f"))
    assert found["validation/loss"] > 0


def test_the_records_tell_losses_norms_and_speed(tmp_path):
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "outbox.jsonl").read_text().splitlines() if line]
    assert [line["step"] for line in lines if "loss/loss" in line["metrics"]] == [2, 4, 6]
    wanted = {"loss/loss", "loss/adversary_loss", "grad_norm", "adversary_grad_norm", "samples_per_s"}
    parts = {f"time/{part}_ms" for part in ("waiting_for_data", "forward", "backward", "optimizer", "average")}
    speed = {"time/step_ms", "mfu", "tflops_per_worker", "memory_gb", "system/cpu_percent", "system/disk_free_gb"}
    told = next(line["metrics"] for line in lines if line["step"] == 4)
    assert wanted | parts | speed <= set(told)
    assert 0 < sum(told[part] for part in parts) <= told["time/step_ms"]
    assert told["mfu"] > 0
    assert any("checkpoint/waited_ms" in line["metrics"] for line in lines)
    assert [line["step"] for line in lines if "validation/loss" in line["metrics"]] == [3, 6]
    assert sorted(p.name for p in (tmp_path / "artifacts/samples").iterdir()) == [
        "plot-00000003.png",
        "plot-00000006.png",
    ]


def test_the_learning_rate_rises_and_falls():
    config = LoopConfig(**loop(steps=100, warmup=10, schedule="cosine", lr_final=0.1))
    factors = [lr_factor(config, step) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert math.isclose(factors[55], 0.55)
    assert 0.1 < factors[-1] < 0.102
    assert lr_factor(LoopConfig(**loop()), 5) == 1.0


def test_the_best_validation_is_saved_and_kept(tmp_path):
    run(tmp_path, steps=7, save_every=3, validate_every=1, keep=1, best="validation/loss")
    figures = [
        line["metrics"]["validation/loss"]
        for line in map(json.loads, filter(None, (tmp_path / "outbox.jsonl").read_text().splitlines()))
        if "validation/loss" in line["metrics"]
    ]
    best = figures.index(min(figures)) + 1
    kept = {int(folder.name.split("-")[1]) for folder in (tmp_path / "checkpoints").iterdir()}
    assert kept == {best, 7}
    state = json.loads((tmp_path / "checkpoints" / f"step-{best:08d}" / COMMIT).read_text())["state"]
    assert state["figure"] == figures[best - 1]


def test_a_window_of_steps_is_traced(tmp_path):
    run(tmp_path, profile={"start": 2, "steps": 2})
    (trace,) = (tmp_path / "artifacts" / "profile").glob("*.json.gz")
    names = [event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    assert trace.name == "steps-2-3.json.gz"
    assert any(name.startswith("aten::") for name in names)
    assert "Self CPU" in trace.with_name("steps-2-3.txt").read_text()


def test_tracing_changes_no_weight_and_may_be_asked_for_at_any_time(tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "traced", profile={"start": 5, "steps": 9})
    assert same(tmp_path / "plain", tmp_path / "traced")
    assert "profile" in MAY_CHANGE


def test_the_peak_that_is_given_is_what_a_step_is_held_against(tmp_path):
    run(tmp_path, peak_tflops=1e-3)
    lines = map(json.loads, filter(None, (tmp_path / "outbox.jsonl").read_text().splitlines()))
    told = [line["metrics"] for line in lines if "mfu" in line["metrics"]]
    assert len(told) == 3
    for each in told:
        assert each["tflops_per_worker"] == pytest.approx(1000 * each["samples_per_s"] / 1e12)
        assert each["mfu"] == pytest.approx(each["tflops_per_worker"] / 1e-3)
