"""Train the small model that comes with the code: one process, plain torch, as long as it is given.

    xnemo synthetic dataset --identities 400 --seconds 0.96 --size 128 -o videos/
    xnemo data ingest --dataset folder --source videos/ --output shards/ \\
        clips.size=128 clips.min_face_px=30 clips.min_frames=12
    python -m jobs.bundled --dataset shards/ --output xnemo/bundled --minutes 40

Everything is learnt at once from nothing (motion stage, joint backbone); the rate falls with the clock, so the run
ends well whenever it is told to end. A state is kept beside the output; the same command continues from it.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs.cli import run
from pipelines.clip_store import ClipStore
from xnemo import weights
from xnemo.batch import to_unit
from xnemo.codec import PatchCodec
from xnemo.config import ModelConfig
from xnemo.draw import Draw
from xnemo.ema import Ema
from xnemo.fresh import align
from xnemo.model import seeded
from xnemo.stages import GanLossConfig, Stage, StageConfig, build_stage
from xnemo_platform.feed import global_batch

SEED, BATCH, PEAK, FLOOR, RISE = 0, 12, 1.5e-3, 0.05, 40
RECIPE = StageConfig(
    backbone="joint",
    timestep_shift=8.0,
    noise_offset=0.0,
    warmup_samples=12_000,
    gan=GanLossConfig(adversarial=0.0, feature_matching=0.0, lr_scale=1.0, weight=0.5),
)


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser("python -m jobs.bundled", description=__doc__)
    options.add_argument("--dataset", required=True)
    options.add_argument("--output", required=True, type=Path)
    options.add_argument("--minutes", type=float, required=True)
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    store = ClipStore(str(Path(arguments.dataset).resolve()), "train", 128, 4 * 10**9, 2)
    stage = fresh_stage(store)
    train(stage, store, arguments.output, arguments.minutes * 60)
    return 0


def fresh_stage(store: ClipStore) -> Stage:
    """The small model with aligned fresh weights and a codec fitted to the data."""
    config = ModelConfig.small()
    model = seeded(config, SEED)
    align(model)
    assert isinstance(model.codec, PatchCodec)
    model.codec.fit(to_unit(store.some_frames(2048, SEED), config.image_size))
    return build_stage(model, "motion", RECIPE)


def train(stage: Stage, store: ClipStore, output: Path, seconds: float) -> None:
    """Train for `seconds`, keeping a state every two minutes and writing the averaged model at the end."""
    params = [p for group in stage.groups() for p in group["params"]]
    optimizer = torch.optim.AdamW(params, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = Ema(params, 0.998)
    state_file = output.with_name(f"{output.name}.state.pt")
    step, before = resume(state_file, stage, optimizer, average)
    began = saved = time.monotonic()
    seen: dict[str, float] = {}
    while (elapsed := before + time.monotonic() - began) < seconds:
        rate = PEAK * min(1.0, (step + 1) / RISE) * cosine(elapsed / seconds)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = store.pairs(global_batch(SEED, step, BATCH, len(store)), SEED)
        losses = stage.losses(batch, Draw(SEED, batch.ids))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        average.update()
        seen = {name: 0.98 * seen.get(name, float(value)) + 0.02 * float(value) for name, value in losses.items()}
        step += 1
        if step % 50 == 0:
            terms = "  ".join(f"{name} {value:.4f}" for name, value in seen.items())
            print(f"step {step}  {elapsed:.0f}/{seconds:.0f} s  samples {step * BATCH}  {terms}", flush=True)
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            keep(state_file, stage, optimizer, average, step, elapsed)
            export(stage, average, output)
    keep(state_file, stage, optimizer, average, step, elapsed)
    export(stage, average, output)


def cosine(progress: float) -> float:
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def resume(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, average: Ema) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    stage.load_state_dict(state["stage"])
    optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["average"])
    return int(state["step"]), float(state["elapsed"])


def keep(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, average: Ema, step: int, elapsed: float) -> None:
    temporary = path.with_suffix(".part")
    state = {"stage": stage.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()}
    torch.save(state | {"step": step, "elapsed": elapsed}, temporary)
    temporary.replace(path)


def export(stage: Stage, average: Ema, output: Path) -> None:
    """The averaged model in half precision."""
    with average.swap():
        kept = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
        stage.model.half()
        weights.save(stage.model, output)
    stage.model.float()
    stage.model.load_state_dict(kept)


if __name__ == "__main__":
    sys.exit(run(main))
