"""A training step on Ray Train and DeepSpeed against the same step in plain torch: `python -m tests.benchmarks.train`.

Both run in one Ray Train worker, in turns of a few steps, on the same batches, so that a busy machine slows both;
beside the time stands the processor time, which other processes hardly change. Then a real run says how long its steps
waited for data, and the plan of the released shape what cached latents spare.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.train import StageTask
from pipelines.train_config import TrainConfig
from pipelines.train_plan import plan
from xnemo.config import ModelConfig
from xnemo_platform import feed, trainer
from xnemo_platform.config import build, load_config
from xnemo_platform.engine import Run, _Loop, train
from xnemo_platform.trainee import TorchRanks, _optimizer_groups
from xnemo_platform.trainer import Place

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
TURN = 4  # steps of one kind in a row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dataset", help="shards to train on; without it, a few drawn clips")
    options.add_argument("--preset", default="tiny", help="whose model and batch: a folder of jobs/configs")
    options.add_argument("--stage", default="appearance", choices=["appearance", "motion", "temporal"])
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--turns", type=int, default=8)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="xnemo-bench-") as name:
        folder = Path(name)
        config = configured(chosen, chosen.dataset or drawn(folder / "shards"), folder / "run")
        told = on_ray(config, folder, chosen.turns)
    show("engine / plain torch, time of a step", told["seconds"], "at most 1.05")
    show("engine / plain torch, processor time", told["processor"], "at most 1.05")
    show("waiting for data / step", told["waiting"], "at most 0.05")
    show("cached latents / pixels, FLOPs of stage 1, released shape", cached_latents(config), "at most 0.75")


def show(what: str, ratio: float, goal: str) -> None:
    print(f"{what:<60}{ratio:>8.3f}   {goal}", flush=True)


def configured(chosen: Any, dataset: str, output: Path) -> TrainConfig:
    model = yaml.safe_load((CONFIGS / chosen.preset / "appearance.yaml").read_text())["model"]
    given = [
        f"stage={chosen.stage}", f"model={json.dumps(model)}", f"dataset={dataset}", f"output={output}",
        f"loop.workers={chosen.workers}", f"loop.batch={chosen.batch}", "loop.steps=30", "loop.log_every=30",
        "loop.save_every=1000", "loop.validate_every=1000", "validation_clips=1", "validation_steps=1", "cache_gb=1",
    ]  # fmt: skip
    return load_config(TrainConfig, CONFIGS / chosen.preset / f"{chosen.stage}.yaml", given)


def drawn(folder: Path) -> str:
    """A data set of drawn clips, small enough to be made in seconds."""
    from pipelines import shards
    from tests.pipelines.test_train import clip_row
    from xnemo_platform import manifest

    facts = shards.write(str(folder), [clip_row(seed, "train", frames=25) for seed in range(8)])
    rows = [{**fact, "unit": fact["shard"], "sources": [fact["shard"]], "notes": None} for fact in facts]
    manifest.append(str(folder), rows, {"name": "drawn"})
    return str(folder)


def on_ray(config: TrainConfig, folder: Path, turns: int) -> dict[str, float]:
    """What `measure` finds on rank 0 of a Ray Train run."""
    trainer.start_ray(cpus=4)
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    env = trainer._worker_env(config.loop.threads, gpu=False)
    spec = {"config": config.model_dump(mode="json"), "folder": str(folder), "turns": turns}
    TorchTrainer(
        worker,
        train_loop_config=spec,
        scaling_config=ScalingConfig(num_workers=config.loop.workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="bench", storage_path=str(folder / "ray"), worker_runtime_env={"env_vars": env}),
    ).fit()
    return json.loads((folder / "told.json").read_text())


def worker(spec: dict[str, Any]) -> None:
    import ray.train

    config, folder, context = build(TrainConfig, spec["config"]), Path(spec["folder"]), ray.train.get_context()
    torch.set_num_threads(config.loop.threads)
    place = Place("cpu", context.get_world_rank(), context.get_world_size(), Path(config.output))
    found = measure(config, place, spec["turns"])
    train(StageTask(config, place), config.loop, Run(place.folder, {}, "bench"))
    lines = [json.loads(line) for line in (place.folder / "outbox.jsonl").read_text().splitlines() if line]
    last = next(line["metrics"] for line in lines if "time/step_ms" in line["metrics"])
    found["waiting"] = last["time/waiting_for_data_ms"] / last["time/step_ms"]
    if place.rank == 0:
        (folder / "told.json").write_text(json.dumps(found))


def measure(config: TrainConfig, place: Place, turns: int) -> dict[str, float]:
    """Ratios of the medians of `turns` turns each of the loop's steps and of plain ones."""
    task, other = StageTask(config, place), StageTask(config, place)
    loop = _Loop(task, config.loop, Run(place.folder / "measured", {}, "bench"), TorchRanks())
    samples = feed.mixed_batch(0, 0, config.loop.batch, task.sources)
    (batch,) = [task.batch(part) for part in feed.rank_slice(samples, place.rank, place.world)]
    plain = plain_step(other, config, place, batch)
    spent: dict[str, list[tuple[float, float]]] = {"engine": [], "plain": []}
    for _ in range(turns + 1):
        for name, step in (("engine", lambda: loop.update(0, [batch])), ("plain", plain)):
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(TURN):
                step()
            spent[name].append((time.perf_counter() - began, time.process_time() - busy))
    first, second = (
        {name: statistics.median(pair[i] for pair in pairs[1:]) for name, pairs in spent.items()} for i in (0, 1)
    )  # the first turn warms up
    print({name: f"{1e3 * value / TURN:.1f} ms a step" for name, value in first.items()}, flush=True)
    return {"seconds": first["engine"] / first["plain"], "processor": second["engine"] / second["plain"]}


def plain_step(task: StageTask, config: TrainConfig, place: Place, batch: Any) -> Callable[[], None]:
    """Forward, backward, clipping, AdamW and the average: nothing but torch."""
    groups = _optimizer_groups(task.groups, config.loop)
    optimizer = torch.optim.AdamW(groups, betas=config.loop.betas, weight_decay=config.loop.weight_decay, fused=True)
    params = [p for group in groups for p in group["params"]]
    module = torch.nn.parallel.DistributedDataParallel(task.module) if place.world > 1 else task.module
    critic = None
    if task.adversary:
        critic = torch.optim.AdamW(_optimizer_groups(task.adversary_groups, config.loop), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(params, config.loop.clip)
        optimizer.step()
        if critic:
            critic.zero_grad(set_to_none=True)
            task.adversary(batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(task.adversary.parameters(), config.loop.clip)
            critic.step()
        if task.average:
            task.average.update()

    return step


def cached_latents(config: TrainConfig) -> float:
    """FLOPs of a stage-1 sample of the released shape with cached latents, as a part of those without."""
    full = config.model_copy(update={"stage": "appearance", "model": ModelConfig.sd15()})
    pixels, cached = (plan(full.model_copy(update={"latents": each}), bf16=True).flops for each in (False, True))
    return cached / pixels


if __name__ == "__main__":
    main()
