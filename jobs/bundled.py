"""Train the small model that comes with the code: one process, plain torch, some hours of one core.

    xnemo synthetic dataset --identities 480 --seconds 3.2 --size 192 --room 1.5 -o videos/
    xnemo data ingest --dataset folder --source videos/ --output shards/ \\
        clips.size=128 clips.square=2.8 clips.min_face_px=30 clips.min_frames=12
    python -m jobs.bundled --dataset shards/ --output xnemo/bundled

Everything is learnt at once from nothing (motion stage, joint backbone). A state is kept beside the output; the same
command continues from it, and what it does next depends on the seed and the samples seen alone.
"""

import argparse
import copy
import json
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
from xnemo.codec import ConvCodec
from xnemo.config import ModelConfig
from xnemo.draw import Draw
from xnemo.ema import Ema
from xnemo.fresh import align
from xnemo.model import XNeMo, seeded
from xnemo.stages import GanLossConfig, Stage, StageConfig, build_stage
from xnemo_platform.config import flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import global_batch
from xnemo_platform.settings import settings
from xnemo_platform.tracking import Drain, Outbox, Tracker, mlflow_client, run_id

SEED, BATCH, PEAK, FLOOR, RISE = 0, 12, 1.5e-3, 0.03, 40
WARMUP = 48_000  # samples for which the GAN head alone teaches the encoder: poses first, the mouth much later
MIN_GAP = 12  # frames between reference and target: close ones share their motion, and copying would do
CODEC_IMAGES, CODEC_STEPS = 16384, 3500
FRAME, VIEW = 128, 96  # pixels of a stored frame, and of the square around the reference's face cut out of it
SAVE_S = 120
RECIPE = StageConfig(
    backbone="joint",
    timestep_shift=8.0,
    reference_drop=0.03,  # such samples run apart from the others, which costs as much as five of those
    noise_offset=0.0,
    warmup_samples=WARMUP,
    gan=GanLossConfig(adversarial=0.0, feature_matching=0.0, lr_scale=1.0, weight=0.5),
)


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser("python -m jobs.bundled", description=__doc__)
    options.add_argument("--dataset", required=True)
    options.add_argument("--output", required=True, type=Path)
    options.add_argument("--samples", type=int, default=175_000)
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    store = ClipStore(str(Path(arguments.dataset).resolve()), "train", FRAME, 4 * 10**9, 2, view=VIEW)
    folder, places = arguments.output.with_name(f"{arguments.output.name}.run"), settings()
    tracker = Tracker(uri=places.tracking_uri, experiment="bundled", artifact_root=places.artifact_root)
    recipe = RECIPE.model_dump() | {"seed": SEED, "batch": BATCH, "lr": PEAK, "samples": arguments.samples}
    tags = {"dataset": json.loads(Path(arguments.dataset, "summary.json").read_text())["manifest_sha256"]}
    with Drain(folder, arguments.output.name, tracker, flatten(recipe), tags), Outbox(folder) as box:
        train(store, arguments.output, arguments.samples, box)
    history(folder, tracker, arguments.output / "run.json")
    return 0


def history(folder: Path, tracker: Tracker, path: Path) -> None:
    """What MLflow has of the run: parameters, tags and every metric's [samples, value], as JSON."""
    client, name = mlflow_client(tracker.uri), run_id(folder)
    if name is None:
        raise PlatformError(
            f"{tracker.uri}: MLflow never answered, so {path} cannot be written; start it and run again."
        )
    run = client.get_run(name)
    metrics = {
        key: [[point.step, round(point.value, 5)] for point in client.get_metric_history(name, key)]
        for key in sorted(run.data.metrics)
    }
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    path.write_text(json.dumps({"params": run.data.params, "tags": tags, "metrics": metrics}, indent=1))


def fresh_model() -> XNeMo:
    """The small model with aligned fresh weights; its codec is not fitted yet."""
    model = seeded(ModelConfig.small(), SEED)
    align(model)
    return model


def fit_codec(model: XNeMo, store: ClipStore) -> None:
    codec = model.codec
    assert isinstance(codec, ConvCodec)
    images = to_unit(store.some_frames(CODEC_IMAGES, SEED), model.config.image_size)
    codec.fit(images, steps=CODEC_STEPS)
    with torch.no_grad():
        error = (codec.decode(codec.encode(images[:512])) - images[:512]).square().mean()
    print(f"codec: {10 * math.log10(4 / float(error)):.2f} dB", flush=True)


def train(store: ClipStore, output: Path, samples: int, box: Outbox) -> None:
    """Train on `samples` pairs, keeping a state every two minutes and writing the averaged model with it."""
    state_file = output.with_name(f"{output.name}.state.pt")
    torch.manual_seed(SEED)  # the aligned start and the GAN head draw from torch's own generator
    model = fresh_model()
    if not state_file.exists():
        fit_codec(model, store)
    stage = build_stage(model, "motion", RECIPE)
    params = [p for group in stage.groups() for p in group["params"]]
    optimizer = torch.optim.AdamW(params, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = Ema(params, 0.999)
    first = resume(state_file, stage, optimizer, average)
    began = saved = time.monotonic()
    seen: dict[str, float] = {}
    last = samples // BATCH
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = rate(step * BATCH, samples)
        batch = store.pairs(global_batch(SEED, step, BATCH, len(store)), SEED, MIN_GAP)
        losses = stage.losses(batch, Draw(SEED, batch.ids))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        average.update()
        terms = {name: float(value.detach()) for name, value in losses.items()}
        seen = {name: 0.98 * seen.get(name, value) + 0.02 * value for name, value in terms.items()}
        now = time.monotonic()
        if (step + 1) % 100 == 0:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in seen.items())
            box.metrics((step + 1) * BATCH, seen)
            left = (now - began) / (step + 1 - first) * (last - step - 1)
            print(f"samples {(step + 1) * BATCH}/{samples}  ETA {left / 60:.0f} min  {shown}", flush=True)
        if now - saved > SAVE_S or step + 1 == last:
            saved = now
            keep(state_file, stage, optimizer, average, step + 1)
            export(stage, average, output)


def rate(seen: int, samples: int) -> float:
    """A short rise when training begins, and again when the denoiser joins; then a cosine to the end."""
    since = seen if seen < WARMUP else seen - WARMUP
    progress = max(0, seen - WARMUP) / max(1, samples - WARMUP)
    return (
        PEAK * min(1.0, (since / BATCH + 1) / RISE) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))
    )


def resume(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, average: Ema) -> int:
    """The step to go on with: 0 where there is no state yet."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    stage.load_state_dict(state["stage"])
    optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["average"])
    return int(state["step"])


def keep(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, average: Ema, step: int) -> None:
    temporary = path.with_suffix(".part")
    state = {"stage": stage.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()}
    torch.save(state | {"step": step}, temporary)
    temporary.replace(path)


def export(stage: Stage, average: Ema, output: Path) -> None:
    """The averaged model in half precision."""
    with average.swap():
        weights.save(copy.deepcopy(stage.model).half(), output)


if __name__ == "__main__":
    sys.exit(run(main))
