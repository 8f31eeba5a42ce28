"""What a training would need, before it is started: parameters, memory of one worker, arithmetic and time.

The networks of the configured stage run once on tensors that have shapes and no values: a counter adds up the
arithmetic, a hook the activations kept for the backward pass. The released shape takes some seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from pipelines.train import recompute
from pipelines.train_config import TrainConfig
from xnemo import weights
from xnemo.codec import VaeCodec
from xnemo.config import ModelConfig
from xnemo.crops import faces
from xnemo.linear import ONEDNN
from xnemo.model import XNeMo
from xnemo.places import place_table
from xnemo.stages import Stage, StageConfig, StageName, build_stage
from xnemo_platform.feed import micro_batch

GB = 1e9
Size = torch.Size
AUTOCAST = 0.7  # activations under bf16 autocast against fp32: halves, but norms and softmax keep both


def _attention(q: Size, k: Size, v: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(grad: Size, q: Size, k: Size, v: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


def _product(x: Size, weight: Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * x.numel() * weight[0]


CPU_KERNELS: dict[Any, Any] = {  # which torch's own table leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
} | ({ONEDNN: _product} if ONEDNN is not None else {})


@dataclass(frozen=True)
class Plan:
    """Bytes are of one worker; FLOPs of one sample, forward and backward."""

    trained: dict[str, int]  # parameters per optimizer group, discriminator included
    frozen: int
    weights: int  # bytes: all parameters in fp32, and the gradients of the trained
    optimizer: int  # AdamW's two moments
    host: int  # of these, what is offloaded to host memory
    average: int  # the moving average
    activations: int
    flops: float
    steps: int
    batch: int
    warmup: int = 0  # samples on which the motion stage trains the encoder alone, and the FLOPs of one of them
    warmup_flops: float = 0.0

    @property
    def device(self) -> int:
        """Bytes on the worker's device."""
        return self.weights + self.optimizer - self.host + self.average + self.activations

    def seconds(self, peak: float, mfu: float, workers: int) -> float:
        """How long the steps take at `peak` FLOP/s per worker, of which the share `mfu` is reached."""
        samples = self.steps * self.batch
        warm = min(self.warmup, samples)
        return (warm * self.warmup_flops + (samples - warm) * self.flops) / (peak * mfu * workers)


def plan(config: TrainConfig, bf16: bool) -> Plan:
    """What `config` needs on each of its workers; bf16 says whether they compute in it (GPUs do)."""
    loop = config.loop
    micro = micro_batch(loop.batch, loop.workers, loop.accumulate)
    with _without_values():
        stage = _stage(config)
        trained = {group["name"]: _count(group["params"]) for group in stage.groups()}
        if stage.discriminator is not None:
            trained["discriminator"] = _count(list(stage.discriminator.parameters()))
        total, own = _count(list(stage.parameters())), sum(trained.values())
        with _kept() as kept, FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counted:
            frames = config.clip_frames if config.stage == "temporal" else 1
            _forward(stage, micro, frames, config.latents).backward()
    held = own // loop.workers if loop.zero == 3 else own  # ZeRO: 1 shards moments, 2 gradients, 3 the weights too
    gradients = own // loop.workers if loop.zero >= 2 else own
    moments = 8 * (own // loop.workers if loop.zero >= 1 else own)
    warmup = config.recipe.warmup_samples if config.stage == "motion" else 0
    return Plan(
        trained=trained,
        frozen=total - own,
        weights=4 * (total - own + held + gradients),
        optimizer=moments,
        host=moments if loop.offload else 0,
        average=4 * own if config.average else 0,
        activations=int(sum(kept.values()) * (AUTOCAST if bf16 else 1)),
        flops=counted.get_total_flops() / micro,
        steps=loop.steps,
        batch=loop.batch,
        warmup=warmup,
        warmup_flops=flops(config, warm=True) if warmup else 0.0,
    )


def flops(config: TrainConfig, warm: bool) -> float:
    """FLOPs of one sample, forward and backward, nothing recomputed; `warm`: while the encoder is trained alone."""
    frames = config.clip_frames if config.stage == "temporal" else 1
    return _flops(_shape(config), config.stage, config.recipe, frames, config.latents, warm)


@lru_cache(maxsize=8)
def _flops(shape: ModelConfig, name: StageName, recipe: StageConfig, frames: int, cached: bool, warm: bool) -> float:
    with torch.device("meta"), _fresh_tables():  # quicker than tensors that pretend to be on a CPU
        stage = build_stage(XNeMo(shape), name, recipe)
        if warm and stage.gan is None:
            return 0.0
        with FlopCounterMode(display=False) as counted:
            _forward(stage, 1, frames, cached or warm, warm).backward()
    return float(counted.get_total_flops())


def describe(plan: Plan, config: TrainConfig, peak_tflops: float, mfu: float) -> list[str]:
    """The plan as lines to read."""
    loop = config.loop
    hours, rest = divmod(plan.seconds(peak_tflops * 1e12, mfu, loop.workers), 3600)
    return [
        "parameters trained: " + ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in plan.trained.items()),
        f"parameters frozen: {plan.frozen / 1e6:.2f} M",
        f"memory of each of {loop.workers} workers: {plan.device / GB:.2f} GB "
        f"(weights and gradients {plan.weights / GB:.2f}, optimizer {(plan.optimizer - plan.host) / GB:.2f}, "
        f"average {plan.average / GB:.2f}, activations {plan.activations / GB:.2f})"
        + (f", and {plan.host / GB:.2f} GB of host memory" if plan.host else ""),
        f"{loop.steps} steps of {loop.batch}: {loop.steps * loop.batch} samples, {plan.flops / 1e9:.1f} GFLOP each",
        f"time: {int(hours)} h {int(rest // 60):02d} min {int(rest % 60):02d} s "
        f"at {mfu:.0%} of {peak_tflops:g} TFLOP/s a worker",
    ]


def _shape(config: TrainConfig) -> ModelConfig:
    if config.start:
        return ModelConfig.model_validate_json((Path(config.start) / weights.CONFIG).read_text())
    assert config.model
    return config.model


def _stage(config: TrainConfig) -> Stage:
    """The configured stage with shapes and no values."""
    stage = build_stage(XNeMo(_shape(config)), config.stage, config.recipe)
    recompute(stage.model, config.checkpointing)
    return stage


def _forward(stage: Stage, batch: int, frames: int, cached: bool, warm: bool = False) -> Tensor:
    """The networks of one step, as `xnemo.stages` runs them, with a loss to run backward from. `cached`: what frozen
    networks make of whole frames is known; `warm`: the GAN head alone trains the encoder."""
    model, config = stage.model, stage.model.config
    image = torch.zeros(batch, 3, config.image_size, config.image_size)
    with torch.no_grad():
        reference, clean = _latents(model, image, cached), _latents(model, image.repeat_interleave(frames, 0), cached)
        clean = clean.unflatten(0, (batch, frames)).transpose(1, 2)
        context = model.null_context(batch) if cached else model.context(image)
    total, motion = image.new_zeros(()), None
    if stage.name != "appearance":
        side = config.motion_encoder.image_size
        with torch.set_grad_enabled(stage.name == "motion"):
            f_mot = model.motion_encoder.encode(image.new_zeros(batch * frames, 3, side, side))
            motion = model.motion_encoder.fuse(f_mot, image.new_zeros(batch * frames, 3)).unflatten(0, (batch, frames))
        if stage.gan is not None:
            total = total + _gan(stage, batch, f_mot)
        if warm:
            return total
    bank = model.reference_net(reference, context, None if motion is None else motion[:, 0])
    predicted = model.denoiser(
        clean,
        torch.zeros(batch, dtype=torch.long),
        context,
        motion,
        reference=bank,
        use_motion=motion is not None,
        use_temporal=stage.name == "temporal",
    )
    total = total + predicted.square().mean()
    if stage.name == "motion" and stage.config.decoded > 0:
        total = total + _decoded(stage, predicted[:, :, 0])
    return total


def _latents(model: XNeMo, images: Tensor, cached: bool) -> Tensor:
    """Encoded by a VAE; the small codecs look at their values, and cost nothing that counts."""
    if isinstance(model.codec, VaeCodec) and not cached:
        return model.codec.encode(images)
    size = model.config.latent_size
    return images.new_zeros(len(images), model.config.codec.channels, size, size)


def _gan(stage: Stage, batch: int, f_mot: Tensor) -> Tensor:
    assert stage.gan is not None
    size = stage.model.config.gan.image_size
    face = f_mot.new_zeros(batch, 3, size, size)
    fake = stage.gan(face, f_mot)
    total = fake.square().mean() + _features(stage, fake)
    return total if stage.discriminator is None else total + _judged(stage.discriminator, fake)


def _decoded(stage: Stage, guessed: Tensor) -> Tensor:
    drawn = stage.model.codec.decode(guessed)
    total = drawn.square().mean()
    if stage.config.face_features > 0:
        total = total + _features(stage, faces(drawn, _anywhere(drawn), stage.model.config.gan.image_size))
    if stage.config.decoded_motion > 0:
        encoder = stage.model.motion_encoder.model
        shown = faces(drawn, _anywhere(drawn), stage.model.config.motion_encoder.image_size)
        total = total + encoder(shown).mean() + encoder(shown.detach()).mean()
    if stage.config.decoded_adversarial > 0:
        assert stage.discriminator is not None
        total = total + _judged(stage.discriminator, drawn)
    return total


def _anywhere(pictures: Tensor) -> Tensor:
    """Boxes [N,4]: where faces are costs nothing."""
    return pictures.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(pictures), -1)


def _features(stage: Stage, pictures: Tensor) -> Tensor:
    found = [feature.square().mean() for net in stage.features.values() for feature in net(pictures)]
    return torch.stack(found).sum()


def _judged(discriminator: nn.Module, fake: Tensor) -> Tensor:
    """Once for the generator, twice for the discriminator's own step."""
    seen = (fake, fake.detach(), torch.zeros_like(fake))
    return torch.stack([discriminator(pictures)[0].mean() for pictures in seen]).sum()


@contextmanager
def _without_values() -> Iterator[None]:
    """Tensors made inside have no memory, and behave as on a CPU."""
    # files of weights that a recipe names are real
    with _fresh_tables(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def _fresh_tables() -> Iterator[None]:
    """What is remembered between calls must be no tensor without values."""
    place_table.cache_clear()
    try:
        yield
    finally:
        place_table.cache_clear()


@contextmanager
def _kept() -> Iterator[dict[int, int]]:
    """Bytes of every tensor that autograd keeps inside the block, by storage; parameters are not counted."""
    kept: dict[int, int] = {}
    alive: list[Any] = []  # a freed storage's address would be used again

    def pack(tensor: Tensor) -> Tensor:
        if not _is_weight(tensor):
            storage = tensor.untyped_storage()
            alive.append(storage)
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _is_weight(tensor: Tensor) -> bool:
    """A parameter, or a view of one."""
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)


def _count(params: list[nn.Parameter]) -> int:
    return sum(param.numel() for param in params)
