"""Training of the three stages (paper section 3.3): the method's `Stage` under the platform's one loop.

`train` runs on the driver and hands plain data to `build`, which each worker calls. A run starts from the
previous stage's model, or from fresh weights whose codec is fitted to the data; either way all ranks load the
same folder. `recipe` is what the stage does, `loop` how it is run.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from pipelines import held_out
from pipelines.clip_store import ClipStore
from pipelines.latents import codec_key
from pipelines.models import locate
from pipelines.redraw import contact_sheet, film, redraw
from pipelines.shards import ClipReader
from pipelines.train_config import MAY_DIFFER, Kind, Recomputed, TrainConfig
from xnemo import weights
from xnemo.batch import ClipBatch, PairBatch, to_unit
from xnemo.codec import ConvCodec, PatchCodec
from xnemo.draw import Draw
from xnemo.ema import Ema
from xnemo.fresh import align
from xnemo.media.images import write_image
from xnemo.media.writing import write_video
from xnemo.model import XNeMo
from xnemo.stages import Stage, build_stage
from xnemo_platform.config import build as build_config
from xnemo_platform.engine import Validation
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample, Source, micro_batch
from xnemo_platform.trainee import Group, TorchRanks
from xnemo_platform.trainer import Place, fit

if TYPE_CHECKING:
    from xnemo.synthetic.cross_pairs import CrossPairs

HELD_OUT_SPLITS = ("val", "test")
FPS = 25.0  # of every data set


def train(config: TrainConfig) -> dict[str, Any]:
    """Train one stage on Ray Train, or continue it, or hand back what is done.

    Returns {"folder" (the model), "run" (folder), "run_id" (MLflow), "metrics"}. Raises PlatformError or
    XNeMoError for what is wrong with data, start or configuration, as far as possible before workers start.
    """
    from xnemo_platform.settings import settings
    from xnemo_platform.tracking import Tracker

    places = settings()
    config = _pinned(config)
    tracker = Tracker(uri=places.tracking_uri, experiment=config.experiment, artifact_root=places.artifact_root)
    tags = {"stage": config.stage, "dataset": config.dataset, "dataset_digest": config.dataset_digest}
    done = fit(
        f"{__name__}:build",
        config,
        Path(config.output),
        tracker,
        may_change=MAY_DIFFER,
        cpus=places.cpus,
        env=places.env(),
        tags=tags,
    )
    return {"folder": str(done.export), "run": str(done.folder), "run_id": done.run_id, "metrics": done.metrics}


def _pinned(config: TrainConfig) -> TrainConfig:
    """The config with the versions of its inputs in it and its places absolute."""
    found: dict[str, Any] = {
        "dataset": _absolute(config.dataset),
        "mix": {_absolute(uri): share for uri, share in config.mix.items()},
        "dataset_digest": _digest(config),
        "output": str(Path(config.output).resolve()),
    }
    if config.start:
        start = locate(config.start)
        found |= {"start": str(start), "start_digest": weights.sha256(start / weights.DIGESTS)}
    for key in ("dataset_digest", "start_digest"):
        wanted = getattr(config, key)
        if wanted and wanted != found.get(key):
            raise PlatformError(f"{key}: {wanted[:12]} was asked for, but {found.get(key, 'nothing')[:12]} is there.")
    return build_config(TrainConfig, config.model_dump() | found)


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).resolve())


def _digest(config: TrainConfig) -> str:
    """Version of the data: the data set's own, or one of all that are mixed."""
    digests = [ClipReader(uri).digest for uri in config.shares]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


class StageTask:
    """A stage with its data, as the loop wants it."""

    def __init__(self, config: TrainConfig, place: Place):
        self.config, self.device = config, torch.device(place.device)
        frames = config.clip_frames if config.stage == "temporal" else 2
        budget, data = int(config.cache_gb * 1e9), list(config.shares)
        self.store = ClipStore(data, "train", config.frame_size, budget, frames, view=config.view)
        self.sources = [
            Source(rows, share) for rows, share in zip(self.store.sizes, config.shares.values(), strict=True)
        ]
        folder = Path(config.start) if config.start else _fresh(config, self.store, place)
        model = weights.load(folder, device=place.device, dtype=torch.float32)
        if config.latents:
            self.store = ClipStore(data, "train", config.frame_size, budget, frames, codec_key(model))
        torch.manual_seed(config.loop.seed)  # what a stage adds is a function of the seed, so equal on all ranks
        self.stage = build_stage(model, config.stage, config.recipe).to(self.device)
        recompute(model, config.checkpointing)
        if config.compile:
            for network in (model.reference_net, model.denoiser):
                network.compile()
        self.groups: list[Group] = self.stage.groups()
        self.adversary, self.adversary_groups = _adversary(self.stage)
        self.module = _Losses(self.stage, config.loop.seed)
        trained = [p for group in self.groups for p in group["params"]]
        self.average = Ema(trained, config.average) if config.average else None
        self.counted: dict[bool, float] = {}
        self.held_out, self.shown = self._held_out()
        self.drawn = self._drawn_pairs()

    def flops(self, step: int) -> float:
        """Of one sample in the step after so many, as the plan counts them."""
        from pipelines.train_plan import flops  # which reads this module

        warm = self.config.stage == "motion" and step * self.config.loop.batch <= self.config.recipe.warmup_samples
        if warm not in self.counted:
            self.counted[warm] = flops(self.config, warm)
        return self.counted[warm]

    def batch(self, samples: list[Sample]) -> PairBatch | ClipBatch:
        """The batch of these samples on the device."""
        return self._batch(self.store, samples).to(self.device)

    def _batch(self, store: ClipStore, samples: list[Sample]) -> PairBatch | ClipBatch:
        seed = self.config.loop.seed
        if self.config.stage == "temporal":
            return store.clips(samples, seed, self.config.clip_frames)
        return store.pairs(samples, seed, self.config.min_gap)

    def _held_out(self) -> tuple[PairBatch | ClipBatch, ClipBatch | None]:
        """A fixed batch of identities that are not trained on, and the clip of the video; of the training's where there
        are no others."""
        config = self.config
        frames = config.clip_frames if config.stage == "temporal" else 2
        for split in (*HELD_OUT_SPLITS, "train"):
            data = [uri for uri in config.shares if _has(uri, split, frames)]
            if not data:
                continue
            store = ClipStore(data, split, config.frame_size, 0, frames, view=config.view)
            rows = torch.linspace(0, len(store) - 1, config.validation_clips).long().tolist()
            batch = self._batch(store, [Sample(i, row) for i, row in enumerate(rows)]).to(self.device)
            if config.stage != "motion":
                return batch, batch if isinstance(batch, ClipBatch) else None
            length = min(config.validation_frames, store.frames(rows[0]))
            return batch, store.clips([Sample(0, rows[0])], config.loop.seed, length).to(self.device)
        raise AssertionError("the training split has rows")

    def _drawn_pairs(self) -> "CrossPairs | None":
        if not self.config.drawn_pairs or self.config.stage == "appearance":
            return None
        from xnemo.synthetic.cross_pairs import draw_pairs

        shape = self.stage.model.config
        return draw_pairs(0, self.config.drawn_pairs, shape.image_size, shape.motion_encoder.image_size)

    def validate(self, step: int) -> Validation:
        """Losses, gaps and redrawn frames of the held-out batch; a short video where the stage has motion."""
        was, name, steps = self.stage.training, self.config.stage, self.config.validation_steps
        self.stage.eval()
        found = held_out.losses(self.stage, self.held_out, seed=0) | held_out.gaps(self.stage, self.held_out, seed=0)
        if isinstance(self.held_out, PairBatch) and self.config.loop.zero < 3:  # ZeRO-3 lends weights to its own passes
            loop = self.config.loop  # it keeps activations: of no more samples than a step does
            few = self.held_out.first(micro_batch(loop.batch, loop.workers, loop.accumulate))
            found |= held_out.gradient_ratio(self.stage, few, seed=0)
        if self.drawn:
            found |= held_out.drawn_gaps(self.stage, self.drawn)
        drawn = redraw(self.stage, self.held_out, steps, seed=0)
        sheet = contact_sheet(self.held_out, drawn)
        files: dict[str, Any] = {f"{name}.png": lambda path: write_image(path, sheet)}
        if (clip := self.shown) is not None:
            moving = drawn if clip is self.held_out else redraw(self.stage, clip, steps, seed=0)
            files[f"{name}.mp4"] = lambda path: write_video(path, film(clip, moving), fps=FPS)
        self.stage.train(was)
        return Validation({f"validation/{key}": value for key, value in found.items()}, files)

    def export(self, folder: Path) -> None:
        """The whole model as a folder that `xnemo.load` reads."""
        weights.save(self.stage.model, folder)


def recompute(model: XNeMo, names: tuple[Recomputed, ...]) -> None:
    """Make the networks recompute what `names` says."""
    kinds = frozenset(names) & frozenset(get_args(Kind))
    model.reference_net.checkpointing = frozenset({"resnets", "attentions"}) if "reference_net" in names else kinds
    model.denoiser.checkpointing = frozenset({"positions"}) if "denoiser" in names else kinds


def _has(uri: str, split: str, frames: int) -> bool:
    """Whether a data set has clips of that split and length."""
    lengths = ClipReader(uri, split).table(["n_frames"])["n_frames"].to_numpy()
    return bool((lengths >= frames).any())


build = StageTask  # what a worker calls, as build(config, place)


class _Losses(nn.Module):
    """The loop calls modules; this one calls the stage with the draws of the batch's samples."""

    def __init__(self, stage: Stage, seed: int):
        super().__init__()
        self.stage, self.seed = stage, seed

    def forward(self, batch: PairBatch | ClipBatch) -> dict[str, Tensor]:
        return self.stage(batch, Draw(self.seed, batch.ids))


class _Critic(nn.Module):
    """The discriminator's turn on the faces of the generator's last step."""

    stage: Stage

    def __init__(self, stage: Stage, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator
        self.__dict__["stage"] = stage  # not a part of this module: its parameters belong to the other optimizer

    def forward(self, batch: PairBatch | ClipBatch) -> dict[str, Tensor]:
        losses = self.stage.discriminator_losses()
        assert losses
        return losses


def _adversary(stage: Stage) -> tuple[nn.Module | None, list[Group]]:
    """The discriminator taken out of the stage's parameters: it has an engine of its own."""
    discriminator = stage.discriminator
    if discriminator is None:
        return None, []
    del stage.discriminator
    stage.__dict__["discriminator"] = discriminator
    gan = stage.config.gan
    group = {
        "params": list(discriminator.parameters()),
        "lr": gan.discriminator_lr,
        "betas": gan.betas,
        "weight_decay": 0.0,
    }
    return _Critic(stage, discriminator), [group]


def _fresh(config: TrainConfig, store: ClipStore, place: Place) -> Path:
    """A folder with fresh weights of `config.model`, made once by rank 0; the codec is fitted to the data."""
    folder, ranks = place.folder / "start", TorchRanks()
    if ranks.rank == 0 and not (folder / weights.DIGESTS).exists():
        assert config.model
        torch.manual_seed(config.loop.seed)
        model = XNeMo(config.model)
        if config.model.unet.token_places != "none":
            align(model)
        if isinstance(codec := model.codec, PatchCodec):
            frames = to_unit(store.some_frames(config.codec_frames, config.loop.seed), config.model.image_size)
            codec.fit(frames, config.codec_steps) if isinstance(codec, ConvCodec) else codec.fit(frames)
        weights.save(model, folder)
    ranks.barrier()
    return folder
