"""The plan of a training against the training itself."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.train import StageTask
from pipelines.train_config import TrainConfig
from pipelines.train_plan import _kept, describe, flops, plan
from tests.pipelines.test_train import appearance, config_of, dataset  # noqa: F401
from xnemo.config import ModelConfig
from xnemo.draw import Draw
from xnemo.places import place_table
from xnemo_platform.config import load_config
from xnemo_platform.feed import Sample
from xnemo_platform.trainer import Place

STAGES = ("appearance", "motion", "temporal")


def planned(stage, dataset, folder, start, *more):  # noqa: F811
    words = [] if stage == "appearance" else [f"start={start}"]
    return config_of(stage, dataset, folder, *words, *more)


@pytest.mark.parametrize("stage", STAGES)
def test_memory_is_what_a_step_really_holds(stage, dataset, appearance, tmp_path):  # noqa: F811
    config = planned(stage, dataset, tmp_path, appearance, "recipe.masking=0", "recipe.reference_drop=0")
    expected = plan(config, bf16=False)
    task = StageTask(config, Place("cpu", 0, 1, tmp_path))
    params = [p for group in task.groups + task.adversary_groups for p in group["params"]]
    optimizer = torch.optim.AdamW(params)
    batch = task.batch([Sample(0, 0), Sample(1, 1)])
    with _kept() as kept:
        task.stage(batch, Draw(0, batch.ids))["loss"].backward()
        if losses := task.stage.discriminator_losses():
            losses["loss"].backward()
    optimizer.step()
    moments = sum(s.numel() * 4 for state in optimizer.state.values() for s in state.values() if s.ndim)
    assert moments == pytest.approx(expected.optimizer, rel=0.02)  # parameters that nothing reads have no moments
    held = [p for part in (task.stage, task.adversary) if part is not None for p in part.parameters()]
    gradients = sum(4 * p.numel() for p in held if p.grad is not None)
    weights = sum(4 * p.numel() for p in {id(p): p for p in held}.values())
    assert weights + gradients == pytest.approx(expected.weights, rel=0.02)
    assert sum(kept.values()) == pytest.approx(expected.activations, rel=0.15)


def test_recomputing_keeps_less(dataset, appearance, tmp_path):  # noqa: F811
    whole = plan(planned("temporal", dataset, tmp_path, appearance), bf16=False)
    less = plan(planned("temporal", dataset, tmp_path, appearance, 'checkpointing=["denoiser"]'), bf16=False)
    assert less.activations < 0.5 * whole.activations
    assert less.flops > whole.flops


@pytest.mark.parametrize(("zero", "share"), [(1, "optimizer"), (2, "weights"), (3, "weights")])
def test_zero_shares_the_states_among_workers(zero, share, dataset, tmp_path):  # noqa: F811
    alone = plan(config_of("appearance", dataset, tmp_path), bf16=False)
    shared = plan(config_of("appearance", dataset, tmp_path, "loop.workers=2", f"loop.zero={zero}"), bf16=False)
    assert shared.optimizer == pytest.approx(alone.optimizer / 2, rel=0.01)
    assert getattr(shared, share) < getattr(alone, share)


def test_the_released_shape_costs_what_its_layers_add_up_to(dataset, tmp_path):  # noqa: F811
    config = config_of("appearance", dataset, tmp_path).model_copy(update={"model": ModelConfig.sd15()})
    found = plan(config, bf16=True)
    # training-cost arithmetic: (reference net 0.80 + denoiser 1.05) · 3, and two encodings of 1.12 TFLOP
    assert found.flops == pytest.approx(7.5e12, rel=0.03)
    assert sum(found.trained.values()) == pytest.approx(1673e6, rel=0.001)  # 1719 M less what nothing reads
    assert any("7" in line and "GFLOP each" in line for line in describe(found, config, 989, 0.3))


@pytest.mark.parametrize("stage", STAGES)
def test_the_arithmetic_that_is_watched_is_the_plans(stage, dataset, appearance, tmp_path):  # noqa: F811
    config = planned(stage, dataset, tmp_path, appearance)
    # fused attention, as the plan has it, does a product more in its backward pass
    assert flops(config, warm=False) == pytest.approx(plan(config, bf16=False).flops, rel=0.05)


def test_cached_latents_spare_a_quarter_of_the_first_stage(dataset, tmp_path):  # noqa: F811
    shape = {"model": ModelConfig.sd15()}
    whole, cached = (
        plan(config_of("appearance", dataset, tmp_path).model_copy(update=shape | {"latents": latents}), bf16=True)
        for latents in (False, True)
    )
    assert cached.flops < 0.75 * whole.flops


def test_one_kind_of_block_can_be_recomputed(dataset, appearance, tmp_path):  # noqa: F811
    kept = {
        names: plan(
            planned("temporal", dataset, tmp_path, appearance, f"checkpointing={names}"), bf16=False
        ).activations
        for names in ("[]", '["temporal_modules"]', '["temporal_modules", "motion_modules"]')
    }
    assert sorted(kept.values(), reverse=True) == list(kept.values())
    assert len(set(kept.values())) == 3


def test_the_time_knows_that_a_warming_step_is_cheap(dataset, appearance, tmp_path):  # noqa: F811
    whole, warming = (
        plan(planned("motion", dataset, tmp_path, appearance, f"recipe.warmup_samples={n}"), bf16=False) for n in (0, 2)
    )
    assert 0 < warming.warmup_flops < 0.7 * whole.flops
    half = (whole.flops + warming.warmup_flops) / 2  # two of four samples
    assert warming.seconds(1e9, 1, 1) == pytest.approx(4 * half / 1e9)


def test_planning_leaves_no_shadow_tensor_behind(dataset, tmp_path):  # noqa: F811
    plan(config_of("appearance", dataset, tmp_path), bf16=False)
    assert float(place_table(4, 4, 16).sum()) == float(place_table(4, 4, 16).sum())


CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
ROOM = {"smoke": 1e9, "tiny": 4e9, "mid": 80e9, "sd15-8x80g": 80e9, "sd15-24g": 24e9}  # bytes of one worker


@pytest.mark.parametrize(("name", "file"), [*product(ROOM, STAGES), ("tiny", "encoder")])
def test_every_preset_fits_the_machine_it_is_for(name, file, tmp_path):
    stage = "motion" if file == "encoder" else file
    shape = {"sd15-8x80g": "sd15", "sd15-24g": "sd15", "tiny": "tiny"}.get(name)
    words = [f"stage={stage}", "dataset=none", f"output={tmp_path}"]
    if shape:
        words.append(f"model={shape}")
    elif stage != "appearance":
        given = yaml.safe_load((CONFIGS / name / "appearance.yaml").read_text())
        words.append(f"model={json.dumps(given['model'])}")
    config = load_config(TrainConfig, CONFIGS / name / f"{file}.yaml", words)
    assert plan(config, bf16=config.loop.device == "gpu").device < ROOM[name]
