"""Training of the motion tokenizer and the motion generator (paper: appendix D) with the platform's one loop.

Both read a motion data set (`pipelines.motions`). `train_tokenizer` and `train_generator` start Ray Train;
`build_tokenizer` and `build_generator` are what each worker calls. A training row is a slot of a clip; where in
the slot's reach the crop begins is drawn by the sample's id, so order and crops do not depend on the workers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.motions import ClipMotion, motion_facts, read_motions
from xnemo.draw import Draw
from xnemo.errors import XNeMoError
from xnemo.tokens.generator import UNKNOWN, GeneratorConfig, MotionGenerator, TokenBatch
from xnemo.tokens.vqvae import MotionTokenizer, TokenizerConfig, code_report
from xnemo.tokens.weights import load_tokenizer, save_generator, save_tokenizer
from xnemo_platform import manifest
from xnemo_platform.config import Config, build
from xnemo_platform.engine import Validation
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample, Source
from xnemo_platform.loop import MAY_CHANGE, LoopConfig
from xnemo_platform.settings import settings
from xnemo_platform.tracking import Tracker
from xnemo_platform.trainee import Group
from xnemo_platform.trainer import Place, fit

HELD_OUT = 0.1  # of the identities, where the data set has no validation split


class TokenizerTraining(Config):
    """One training of the tokenizer. `tokenizer.features` follows the data."""

    motions: str  # folder (URI) of a motion data set
    output: str  # the run's folder; the same folder continues the run
    experiment: str = "xnemo"
    tokenizer: TokenizerConfig = TokenizerConfig()
    loop: LoopConfig
    motions_digest: str = ""  # version of the data; filled in, or pinned by hand


class GeneratorTraining(Config):
    """One training of the generator. `generator.codes` and `.groups` follow the tokenizer."""

    motions: str
    tokenizer: str  # folder of the tokenizer
    output: str
    experiment: str = "xnemo"
    generator: GeneratorConfig = GeneratorConfig()
    loop: LoopConfig
    motions_digest: str = ""
    tokenizer_digest: str = ""


MAY_DIFFER = [f"loop.{key}" for key in MAY_CHANGE] + ["experiment", "motions", "tokenizer"]
"""Keys a resumed run may change. Data and tokenizer may move: their digests may not. (A tokenizer's own training
has its shape under `tokenizer.…`, which stays fixed.)"""


def train_tokenizer(config: TokenizerTraining) -> dict[str, Any]:
    """Returns {"folder" (the tokenizer), "run" (folder), "run_id" (MLflow), "metrics"}."""
    shape = config.tokenizer.model_dump() | {"features": motion_facts(config.motions)["features"]}
    return _fit("tokenizer", config, {"tokenizer": shape})


def train_generator(config: GeneratorTraining) -> dict[str, Any]:
    """As `train_tokenizer`, of the generator. PlatformError if tokenizer and motions are of different models."""
    tokenizer = load_tokenizer(config.tokenizer)
    if tokenizer.belongs_to != (model := motion_facts(config.motions)["model"]):
        raise PlatformError(
            f"{config.tokenizer} belongs to model {tokenizer.belongs_to[:12]}, {config.motions} was "
            f"extracted with {model[:12]}: train a tokenizer on these motions first"
        )
    shape = config.generator.model_dump() | {"codes": tokenizer.config.codes, "groups": tokenizer.config.groups}
    return _fit(
        "generator",
        config,
        {"generator": shape, "tokenizer": str(Path(config.tokenizer).resolve()), "tokenizer_digest": tokenizer.digest},
    )


def _fit(what: str, config: TokenizerTraining | GeneratorTraining, found: dict[str, Any]) -> dict[str, Any]:
    """Train with what was `found` about the inputs in the config: sizes that follow them, their versions."""
    found |= {"motions_digest": manifest.digest(manifest.read(config.motions))}
    if "://" not in config.motions:
        found["motions"] = str(Path(config.motions).resolve())
    for key in ("motions_digest", "tokenizer_digest"):
        wanted = getattr(config, key, "")
        if wanted and wanted != found[key]:
            raise PlatformError(f"{key}: {wanted[:12]} was asked for, but {found[key][:12]} is there.")
    places = settings()
    tracker = Tracker(uri=places.tracking_uri, experiment=config.experiment, artifact_root=places.artifact_root)
    done = fit(
        f"{__name__}:build_{what}",
        build(type(config), config.model_dump() | found),
        Path(config.output),
        tracker,
        may_change=MAY_DIFFER,
        cpus=places.cpus,
        env=places.env(),
        tags={"stage": what, "dataset": config.motions, "dataset_digest": found["motions_digest"]},
    )
    return {"folder": str(done.export), "run": str(done.folder), "run_id": done.run_id, "metrics": done.metrics}


class TokenizerTask:
    """The tokenizer under the loop: batches are windows of f_mot [B,T,D]."""

    adversary: nn.Module | None = None
    adversary_groups: list[Group] = []  # noqa: RUF012 (never changed)
    average = None

    def __init__(self, config: TokenizerTraining, place: Place) -> None:
        self.config, self.device = config, place.device
        shape, window = config.tokenizer, config.tokenizer.window
        training, held_out = divided(config.motions)
        self.windows = _Slots([clip.f_mot for clip in training], window, step=1, whole=True)
        self.sources = [Source(len(self.windows))]
        if not len(self.windows):
            raise PlatformError(f"{config.motions}: no clip has {window} frames; lower tokenizer.window")
        _seed(config.loop.seed)
        self.net = MotionTokenizer(shape)
        self.net.set_statistics(*_statistics(training))
        self.net.belongs_to = motion_facts(config.motions)["model"]
        self.module = _TokenizerLosses(self.net.to(self.device))
        self.groups: list[Group] = [{"params": list(self.net.parameters())}]
        usable = [(clip.f_mot, len(clip.f_mot) // shape.factor * shape.factor) for clip in held_out]
        self.unseen = [f_mot[:frames] for f_mot, frames in usable if frames]

    def flops(self, step: int) -> float:
        return 0.0

    def batch(self, samples: list[Sample]) -> Tensor:
        ids = torch.tensor([sample.id for sample in samples])
        starts = Draw(self.config.loop.seed, ids).uniform("start")
        rows = [self.windows.crop(sample.row, float(u))[0] for sample, u in zip(samples, starts, strict=True)]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    @torch.no_grad()
    def validate(self, step: int) -> Validation:
        """Normalised RMSE over whole held-out clips (1 is the mean's), and how the codebook is used on them."""
        self.net.eval()
        squares, count, ids = 0.0, 0, []
        for clip in self.unseen:
            x = torch.from_numpy(clip)[None].to(self.device)
            codes = self.net.encode(x)
            squares += float(((self.net.decode(codes) - x) / self.net.std).square().sum())
            count += x.numel()
            ids.append(codes.flatten())
        self.net.train()
        report = code_report(torch.cat(ids), self.config.tokenizer.codes)
        found = {"nrmse": (squares / count) ** 0.5, **{name: float(value) for name, value in report.items()}}
        return Validation({f"validation/{name}": value for name, value in found.items()})

    def export(self, folder: Path) -> None:
        save_tokenizer(self.net, folder)


class GeneratorTask:
    """The generator under the loop: batches are crops of token sequences, and the draws that corrupt them."""

    adversary: nn.Module | None = None
    adversary_groups: list[Group] = []  # noqa: RUF012 (never changed)
    average = None

    def __init__(self, config: GeneratorTraining, place: Place) -> None:
        self.config, self.device = config, place.device
        shape = config.generator
        tokenizer = load_tokenizer(config.tokenizer, place.device)
        factor = tokenizer.config.factor
        self.training, self.held_out = (
            [c for c in part if len(c.f_mot) >= 2 * factor] for part in divided(config.motions)
        )
        # A clip cut into steps from its 2nd, 3rd, ... frame on has other tokens: as good as more clips.
        self.phases = [_tokenized(tokenizer, self.training, phase) for phase in range(factor)]
        self.slots = _Slots(self.phases[0], shape.max_tokens, step=shape.groups, whole=False)
        self.unseen = _tokenized(tokenizer, self.held_out)
        self.sources, longest = [Source(len(self.slots))], max(map(len, self.slots.sequences), default=0)
        if longest < shape.max_tokens:
            raise PlatformError(
                f"{config.motions}: the longest clip has {longest} tokens, so contexts of "
                f"{shape.max_tokens} would never be trained; set generator.max_tokens to {longest}"
            )
        _seed(config.loop.seed)
        self.net = MotionGenerator(shape)
        self.net.belongs_to = tokenizer.digest
        self.module = _GeneratorLosses(self.net.to(self.device))
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        self.groups: list[Group] = [
            {"params": decayed},
            {"params": [p for p in self.net.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]

    def flops(self, step: int) -> float:
        return 0.0

    def batch(self, samples: list[Sample]) -> tuple[TokenBatch, Draw]:
        ids = torch.tensor([sample.id for sample in samples])
        draw = Draw(self.config.loop.seed, ids)
        starts, phases = draw.uniform("start").tolist(), draw.integers("phase", 0, len(self.phases)).tolist()
        crops = [
            self.slots.crop(sample.row, start, self.phases[phase])
            for sample, start, phase in zip(samples, starts, phases, strict=True)
        ]
        clips = [self.training[self.slots.clip(sample.row)] for sample in samples]
        batch = self._collated([crop for crop, _ in crops], [ends for _, ends in crops], clips)
        return batch, Draw(self.config.loop.seed, ids.to(self.device))

    def _collated(self, crops: Sequence[np.ndarray], ends: Sequence[bool], clips: Sequence[ClipMotion]) -> TokenBatch:
        padded = torch.zeros(len(crops), max(map(len, crops)), dtype=torch.long)
        for row, crop in zip(padded, crops, strict=True):
            row[: len(crop)] = torch.from_numpy(crop)
        labels = [_label(self.config.generator, clip) for clip in clips]
        parts = (
            padded,
            torch.tensor([len(crop) for crop in crops]),
            torch.tensor(ends),
            torch.tensor([e for e, _ in labels]),
            torch.tensor([i for _, i in labels]),
        )
        return TokenBatch(*(part.to(self.device) for part in parts))

    @torch.no_grad()
    def validate(self, step: int) -> Validation:
        """Loss and accuracy on the beginnings of held-out clips, nothing corrupted."""
        self.net.eval()
        longest, totals, count = self.config.generator.max_tokens, {"loss": 0.0, "accuracy": 0.0}, 0
        for ids, clip in zip(self.unseen, self.held_out, strict=True):
            found = self.net.losses(self._collated([ids[:longest]], [len(ids) <= longest], [clip]))
            for name in totals:
                totals[name] += float(found[name]) * len(ids[:longest])
            count += len(ids[:longest])
        self.net.train()
        return Validation({f"validation/{name}": total / count for name, total in totals.items()})

    def export(self, folder: Path) -> None:
        save_generator(self.net, folder)


build_tokenizer, build_generator = TokenizerTask, GeneratorTask  # what workers call, as (config, place)


class _TokenizerLosses(nn.Module):
    """The loop calls modules; what it calls here is the tokenizer's `losses`."""

    def __init__(self, net: MotionTokenizer) -> None:
        super().__init__()
        self.net = net

    def forward(self, f_mot: Tensor) -> dict[str, Tensor]:
        return self.net.losses(f_mot)


class _GeneratorLosses(nn.Module):
    """As `_TokenizerLosses`, with dropout drawn anew from the batch's ids: a resumed run repeats it."""

    def __init__(self, net: MotionGenerator) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: tuple[TokenBatch, Draw]) -> dict[str, Tensor]:
        tokens, draw = batch
        if self.net.config.dropout:
            torch.manual_seed(int(draw.ids[0]))
        return self.net.losses(tokens, draw)


class _Slots:
    """Rows over sequences [T,...] of any length: slot k of a sequence reaches from k·size to (k+1)·size.

    A crop of a slot begins anywhere in it (in steps of `step`), moved back where the sequence ends; a sequence
    shorter than `size` gives one shorter crop, or none if only `whole` ones will do.
    """

    def __init__(self, sequences: Sequence[np.ndarray], size: int, step: int, whole: bool) -> None:
        self.sequences, self.size, self.step = sequences, size, step
        counts = [max(len(s) // size, 0 if whole else 1) for s in sequences]
        self.of = np.repeat(np.arange(len(sequences)), counts)
        self.slot = np.concatenate([np.arange(n) for n in counts]) if counts else np.empty(0, int)

    def __len__(self) -> int:
        return len(self.of)

    def clip(self, row: int) -> int:
        return int(self.of[row])

    def crop(self, row: int, u: float, sequences: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, bool]:
        """The crop that begins at share u in [0,1) of the slot, and whether it ends where its sequence does.

        `sequences`: others of (nearly) the same lengths to cut from."""
        sequence = (sequences or self.sequences)[self.of[row]]
        start = int(self.slot[row]) * self.size + int(u * self.size / self.step) * self.step
        start = max(min(start, len(sequence) - self.size), 0)
        crop = sequence[start : start + self.size]
        return crop, start + len(crop) == len(sequence)


def divided(uri: str) -> tuple[list[ClipMotion], list[ClipMotion]]:
    """Clips to train on and clips held out: the splits "train" and "val"; without a "val", some identities."""
    clips = [clip for clip in read_motions(uri) if clip.split in ("train", "val")]
    training, held_out = ([c for c in clips if c.split == name] for name in ("train", "val"))
    if not held_out:
        identities = sorted({clip.identity for clip in training})
        last = set(identities[-max(1, round(HELD_OUT * len(identities))) :])
        training, held_out = ([c for c in training if (c.identity in last) == out] for out in (False, True))
    if not training or not held_out:
        raise PlatformError(f"{uri} has {len(clips)} clips of too few identities: training needs two at least")
    return training, held_out


def _statistics(clips: Sequence[ClipMotion]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] over all frames, in double precision and one clip at a time."""
    count = sum(len(clip.f_mot) for clip in clips)
    mean = sum(clip.f_mot.sum(axis=0, dtype=np.float64) for clip in clips) / count
    variance = sum(np.square(clip.f_mot - mean).sum(axis=0) for clip in clips) / count
    return torch.from_numpy(np.asarray(mean)).float(), torch.from_numpy(np.sqrt(variance)).float()


@torch.no_grad()
def _tokenized(tokenizer: MotionTokenizer, clips: Sequence[ClipMotion], first: int = 0) -> list[np.ndarray]:
    """Token ids [N] of each clip from its frame `first` on, as far as whole time steps go."""
    factor, ids = tokenizer.config.factor, []
    for clip in clips:
        steps = (len(clip.f_mot) - first) // factor
        f_mot = torch.from_numpy(clip.f_mot[None, first : first + steps * factor])
        ids.append(tokenizer.encode(f_mot.to(tokenizer.mean.device))[0].cpu().numpy())
    return ids


def _label(shape: GeneratorConfig, clip: ClipMotion) -> tuple[int, int]:
    """(emotion, intensity) of a clip; what the generator does not know counts as unlabelled."""
    try:
        return shape.label(clip.emotion or None, clip.intensity or None)
    except XNeMoError:
        return UNKNOWN, UNKNOWN


def _seed(seed: int) -> None:
    """Fresh weights are a function of the seed, and so equal on every rank."""
    torch.manual_seed(seed)
