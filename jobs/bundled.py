"""Train the small model that comes with the code: plain torch, two processes, some hours of two cores.

    xnemo synthetic dataset --identities 480 --seconds 3.2 --size 192 --room 1.5 -o videos/
    xnemo data ingest --dataset folder --source videos/ --output shards/ \\
        clips.size=128 clips.square=2.8 clips.min_face_px=30 clips.min_frames=12
    python -m jobs.bundled --dataset shards/ --output xnemo/bundled

The encoder's face trunk starts as a landmark network, as the released one does: of drawn heads. Two legs of the motion
stage follow, in which it rests: a GAN head would teach a trunk this small skin and hair, at the cost of blinks and
mouths (docs/small-recipe.md). In the first leg denoiser, reference net and decoder learn to draw from its codes, and to
draw what it reads the same codes from; in the second a discriminator asks for sharp pictures. States are kept beside
the output; the same command continues from them, and what it does next depends on the seed and the samples seen alone.

With `--start xnemo/bundled --seed 1` the first leg goes on from that model, on other pairs; with `--renew` too, its
trunk is taught anew before.
"""

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jobs.cli import run
from pipelines.clip_store import ClipStore
from xnemo import weights
from xnemo.augment import AugmentConfig
from xnemo.batch import to_unit
from xnemo.codec import ConvCodec
from xnemo.config import ModelConfig
from xnemo.draw import Draw
from xnemo.ema import Ema
from xnemo.fresh import align
from xnemo.model import XNeMo, seeded
from xnemo.plain_loop import learning_rate
from xnemo.stages import GanLossConfig, Stage, StageConfig, build_stage
from xnemo.synthetic import landmarks
from xnemo.synthetic.turn import fit_turn
from xnemo_platform.config import flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import global_batch
from xnemo_platform.settings import settings
from xnemo_platform.tracking import Drain, Outbox, Tracker, mlflow_client, run_id

BATCH, PEAK, FLOOR, RISE = 8, 1.5e-3, 0.03, 40
JOINT, SAMPLES = 52_000, 57_000  # pairs after the first leg, and the second
CRITIC = 5e-4  # the discriminator's rate
SHARE = 0.8  # of the way from the first leg's weights to the second's: none is soft, all of it draws light edges
FINISHING = 3e-4  # the second's rate: it must not lose what the first has found
MIN_GAP = 12  # frames between reference and target: close ones share their motion, and copying would do
CODEC_IMAGES, CODEC_STEPS, TURN_HEADS = 8192, 600, 3000
HEADS, LESSONS, STRIDE = 24_000, 240_000, 7001  # drawn for landmarks, how often one is asked about, and in what order
FRAME, VIEW = 128, 96  # pixels of a stored frame, and of the square around the reference's face cut out of it
SAVE_S = 120
DENOISER = StageConfig(
    backbone="joint",
    encoder="frozen",
    gan=GanLossConfig(weight=0.0),
    timestep_shift=12.0,  # a few steps from the noisiest on are all that sampling takes
    decoded=2.0,
    face=4.0,  # eyes and mouths are few pixels
    face_features=8.0,  # a mouth that may be here or there is skin to an absolute error, and not to features
    decoded_motion=0.3,  # nor to the landmark network; with these weights each pulls at a picture about as it does
    masking=0.0,
    reference_drop=0.03,  # such samples run apart from the others, which costs as much as five of those
    noise_offset=0.0,
)
FINISH = DENOISER.model_copy(update={"decoded_adversarial": 0.1})


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser("python -m jobs.bundled", description=__doc__)
    options.add_argument("--dataset", required=True)
    options.add_argument("--output", required=True, type=Path)
    options.add_argument("--start", type=Path, help="a trained model to go on from; its face trunk stays")
    options.add_argument("--renew", action="store_true", help="with --start: but the face trunk is taught anew")
    options.add_argument(
        "--seed", type=int, default=0, help="of everything random; another one to go on with new pairs"
    )
    options.add_argument("--workers", type=int, default=2, help="processes of one thread each, which share a batch")
    arguments = options.parse_args(argv)
    if BATCH % arguments.workers:
        raise PlatformError(f"--workers is {arguments.workers}: give a divisor of the batch, {BATCH}.")
    run_file = arguments.output / "run.json"
    with tempfile.TemporaryDirectory() as meeting:
        mp.spawn(work, (arguments, f"file://{meeting}/workers"), nprocs=arguments.workers)
    history(record_folder(arguments.output), tracker(), run_file)
    return 0


def tracker() -> Tracker:
    places = settings()
    return Tracker(uri=places.tracking_uri, experiment="bundled", artifact_root=places.artifact_root)


def record_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.run")


def work(rank: int, arguments: argparse.Namespace, meeting: str) -> None:
    """One of the processes: all compute the same steps, each on its share of every batch; the first keeps records."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=arguments.workers)
    dataset, output = Path(arguments.dataset).resolve(), arguments.output
    store = ClipStore(str(dataset), "train", FRAME, 4 * 10**9, 2, view=VIEW)
    if rank:
        train(store, output, None, arguments.seed, arguments.start, arguments.renew)
        return
    recipe = {
        "joint": DENOISER.model_dump(), "finish": FINISH.model_dump(),
        "seed": arguments.seed, "start": str(arguments.start), "renew": arguments.renew,
        "batch": BATCH, "lr": PEAK, "finishing_lr": FINISHING, "ends": [JOINT, SAMPLES],
        "landmark_heads": HEADS, "landmark_lessons": LESSONS,
    }  # fmt: skip
    tags = {"dataset": json.loads((dataset / "summary.json").read_text())["manifest_sha256"]}
    folder = record_folder(output)
    with Drain(folder, output.name, tracker(), flatten(recipe), tags), Outbox(folder) as box:
        train(store, output, box, arguments.seed, arguments.start, arguments.renew)


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


def fresh_model(seed: int = 0) -> XNeMo:
    """The small model with aligned fresh weights; its codec is not fitted yet."""
    model = seeded(ModelConfig.small(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        align(model)
    return model


def fit_codec(model: XNeMo, store: ClipStore, seed: int) -> None:
    codec = model.codec
    assert isinstance(codec, ConvCodec)
    images = to_unit(store.some_frames(CODEC_IMAGES, seed), model.config.image_size)
    codec.fit(images, steps=CODEC_STEPS)
    with torch.no_grad():
        error = (codec.decode(codec.encode(images[:512])) - images[:512]).square().mean()
    print(f"codec: {10 * math.log10(4 / float(error)):.2f} dB", flush=True)


def learn_landmarks(model: XNeMo, seed: int) -> None:
    """The face trunk's start. Each worker draws the heads that its shares of the batches ask about."""
    rank, workers, batch = dist.get_rank(), dist.get_world_size(), 4 * BATCH
    blocks = (range(first, min(first + 100 * workers, HEADS), workers) for first in range(rank, HEADS, 100 * workers))
    parts = zip(*(landmarks.drawn(block) for block in blocks), strict=True)
    pictures, boxes, moved = (torch.cat(part) for part in parts)
    torch.manual_seed(seed)
    lesson = landmarks.Lesson(model.motion_encoder, model.config.motion_encoder, AugmentConfig())
    params = [*model.motion_encoder.model.parameters(), *lesson.read.parameters()]
    optimizer = torch.optim.AdamW(params, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    left, steps = 1.0, LESSONS // batch
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, PEAK, RISE, FLOOR)
        ids = torch.arange(step * batch + rank, (step + 1) * batch, workers)
        rows = ids * STRIDE % HEADS // workers  # STRIDE % 8 is 1: a worker's samples ask about its own heads
        loss = lesson(pictures[rows], boxes[rows], moved[rows], Draw(seed, ids))
        descend(optimizer, loss, params, workers)
        left = 0.98 * left + 0.02 * float(loss.detach())
        if rank == 0 and ((step + 1) % 100 == 0 or step + 1 == steps):
            print(f"landmarks: step {step + 1} of {steps}  {left:.3f} of their movement not read", flush=True)


def train(
    store: ClipStore, output: Path, box: Outbox | None, seed: int = 0, start: Path | None = None, renew: bool = False
) -> None:
    """All of it. What is finished, landmarks and first leg, is a file of weights beside the output."""
    known, drawn = (output.with_name(f"{output.name}.{leg}.pt") for leg in ("landmarks", "joint"))
    taught = start is None or renew
    if taught and not known.exists():
        model = fresh_model(seed)
        learn_landmarks(model, seed)
        if box is not None:
            save(model.motion_encoder.model.state_dict(), known)
        dist.barrier()
    if not drawn.exists():
        first = Leg("joint", (0, JOINT), PEAK, seed)
        model = fresh_model(seed) if start is None else weights.load(start).float()
        if taught:
            model.motion_encoder.model.load_state_dict(torch.load(known, weights_only=True))
        if not first.state(output).exists():
            if start is None:
                fit_codec(model, store, seed)
            if taught:
                gone = fit_turn(model.motion_encoder, model.config.motion_encoder.image_size, TURN_HEADS)
                print(f"turn: {gone:.0%} of the features' movement", flush=True)
        run_leg(build(model, DENOISER, seed), store, output, first, box, drawn)
    model, before = fresh_model(seed), torch.load(drawn, weights_only=True)
    for name, state in before.items():
        model.get_submodule(name).load_state_dict(state)
    second = Leg("finish", (JOINT, SAMPLES), FINISHING, seed)
    run_leg(build(model, FINISH, seed), store, output, second, box, None)
    if box is not None:
        go_back(model, before)
        weights.save(model.half(), output)


@torch.no_grad()
def go_back(model: XNeMo, before: dict[str, dict[str, torch.Tensor]]) -> None:
    """Leave the model at `SHARE` of the way from the weights `before` the last leg to its own (arXiv 2109.01903)."""
    for name, state in before.items():
        for key, own in model.get_submodule(name).state_dict().items():
            own.lerp_(state[key], 1 - SHARE)


@dataclass(frozen=True)
class Leg:
    """A stretch of the training: its samples and its rate, which falls to the end."""

    name: str
    span: tuple[int, int]
    peak: float
    seed: int

    def state(self, output: Path) -> Path:
        return output.with_name(f"{output.name}.{self.name}.state.pt")

    def rate(self, sample: int) -> float:
        """A short rise, then half a cosine."""
        step, steps = (sample - self.span[0]) // BATCH, (self.span[1] - self.span[0]) // BATCH
        return learning_rate(step, steps, self.peak, RISE, FLOOR)


def build(model: XNeMo, recipe: StageConfig, seed: int) -> Stage:
    """The stage in training mode."""
    torch.manual_seed(seed)  # the discriminator draws from torch's own generator
    return build_stage(model, "motion", recipe)


def run_leg(stage: Stage, store: ClipStore, output: Path, leg: Leg, box: Outbox | None, finished: Path | None) -> None:
    """Train, keeping a state every two minutes and writing the averaged model with it; at the end the averaged
    networks are written to `finished`."""
    params = stage.trained
    optimizer = torch.optim.AdamW(params, lr=leg.peak, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    judges = list(stage.discriminator.parameters()) if stage.discriminator else []
    critic = torch.optim.AdamW(judges, lr=CRITIC, betas=(0.0, 0.99), weight_decay=0.0) if judges else None
    average = Ema(params, 0.999)
    kept = Kept(stage, optimizer, critic, average)
    step, last = kept.resume(leg.state(output)) or leg.span[0] // BATCH, leg.span[1] // BATCH
    rank, workers = dist.get_rank(), dist.get_world_size()
    seen: dict[str, float] = {}
    began, first, saved = time.monotonic(), step, time.monotonic()
    while step < last:
        optimizer.param_groups[0]["lr"] = leg.rate(step * BATCH)
        batch = store.pairs(global_batch(leg.seed, step, BATCH, len(store))[rank::workers], leg.seed, MIN_GAP)
        losses = stage.losses(batch, Draw(leg.seed, batch.ids))
        descend(optimizer, losses["loss"], params, workers)
        if critic and (judged := stage.discriminator_losses()):
            descend(critic, judged["loss"], judges, workers)
            losses["discriminator"] = judged["loss"]
        average.update()
        step += 1
        if box is None:
            continue
        terms = {name: float(value.detach()) for name, value in losses.items()}
        seen = {name: 0.98 * seen.get(name, value) + 0.02 * value for name, value in terms.items()}
        now = time.monotonic()
        if step % 100 == 0:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in seen.items())
            box.metrics(step * BATCH, seen)
            left = (now - began) / (step - first) * (last - step)
            print(f"{leg.name}: sample {step * BATCH} of {leg.span[1]}  ETA {left / 60:.0f} min  {shown}", flush=True)
        if now - saved > SAVE_S or step == last:
            saved = now
            kept.save(leg.state(output), step)
            export(stage, average, output)
    average.apply()
    if finished and box is not None:
        nets = ("motion_encoder", "denoiser", "reference_net", "codec")
        save({name: stage.model.get_submodule(name).state_dict() for name in nets}, finished)
    dist.barrier()


def descend(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, params: Sequence[torch.nn.Parameter], workers: int
) -> None:
    """One step down the gradient that all workers share."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    share_gradients(params, workers)
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


def share_gradients(params: Sequence[torch.nn.Parameter], workers: int) -> None:
    """The mean over all workers, in place: one sum of everything."""
    gradients = [param.grad for param in params if param.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients]) / workers
    dist.all_reduce(whole)
    for gradient, mean in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@dataclass
class Kept:
    """What a leg's state file holds."""

    stage: Stage
    optimizer: torch.optim.Optimizer
    critic: torch.optim.Optimizer | None
    average: Ema

    def _parts(self) -> dict[str, Any]:
        parts = {"stage": self.stage, "optimizer": self.optimizer, "critic": self.critic, "average": self.average}
        return {name: part for name, part in parts.items() if part is not None}

    def resume(self, path: Path) -> int:
        """The step to go on with: 0 where there is no state yet."""
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def save(self, path: Path, step: int) -> None:
        save({name: part.state_dict() for name, part in self._parts().items()} | {"step": step}, path)


def save(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def export(stage: Stage, average: Ema, output: Path) -> None:
    """The averaged model in half precision."""
    with average.swap():
        weights.save(copy.deepcopy(stage.model).half(), output)


if __name__ == "__main__":
    sys.exit(run(main))
