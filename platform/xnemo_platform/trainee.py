"""One module and its optimizer under DeepSpeed: what the training loop needs of it, and no more.

DeepSpeed is imported when the first `Trainee` is made. Its compiled shared-memory collective is switched off:
gloo does the same here, and without it no C++ compiler is needed.
"""

import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xnemo_platform.checkpoint import Ranks
from xnemo_platform.errors import PlatformError
from xnemo_platform.saving import Files
from xnemo_platform.spans import Spans

if TYPE_CHECKING:
    from xnemo_platform.loop import LoopConfig

MACHINE = ("zero_optimization", "communication_data_type", "prescale_gradients")
"""Sections of DeepSpeed's config that depend on the machine, not on the training."""
Group = dict[str, Any]
"""One optimizer group: `params`, and optionally `lr` or `lr_scale` (of the config's rate), `betas`, `weight_decay`."""


class Trainee:
    """A module whose forward gives a dict of scalar losses, with its AdamW, under ZeRO 0-3."""

    def __init__(
        self, module: nn.Module, groups: Sequence[Group], config: "LoopConfig", world: int, bf16: bool, spans: Spans
    ):
        deepspeed = _deepspeed(next(module.parameters()).device)
        given = _optimizer_groups(groups, config)
        optimizer = torch.optim.AdamW(given, betas=config.betas, weight_decay=config.weight_decay, eps=1e-8, fused=True)
        params = [p for group in given for p in group["params"]]
        self.module, self.zero, self.clip, self.spans = module, config.zero, config.clip, spans
        self.base_lr = [group["lr"] for group in given]
        self.engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            model_parameters=params,
            config=_deepspeed_config(config, world, bf16, sum(p.numel() for p in params)),
        )
        if world == 1 and not config.zero:  # else all gradients are copied there and back, to be added to nobody's
            self.engine.enable_backward_allreduce = False
        from xnemo_platform.snapshots import Snapshots

        self.engine.checkpoint_engine = self.snapshots = Snapshots()
        self.params = params

    def backward(self, batch: Any) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; returns the losses, detached. "loss" is what is minimised."""
        with self.spans.part("forward"):
            losses = self.engine(batch)
        with self.spans.part("backward"):
            self.engine.backward(losses["loss"])
        return {name: loss.detach() for name, loss in losses.items()}

    def step(self, factor: float, last: bool) -> float:
        """Count a micro-batch; at the last one, clip and update at `factor` times the base rates.

        Returns the gradient norm over all ranks before clipping. If it is not finite, all ranks see the same
        and the weights stay as they were.
        """
        for group, base in zip(self.engine.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = base * factor
        with self.spans.part("optimizer"):
            norm = self._clip_by_hand() if last and not self.zero else 0.0  # ZeRO holds shards: it clips them itself
            self.engine.step()
            if last and self.zero:
                norm = float(self.engine.optimizer._global_grad_norm)
        return norm if math.isfinite(norm) else math.nan

    def _clip_by_hand(self) -> float:
        grads = [p.grad for p in self.params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if torch.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(self.params, self.clip, norm)
        else:
            for p in self.params:
                p.grad = None  # AdamW passes over parameters without a gradient
        return float(norm)

    @property
    def device(self) -> torch.device:
        return torch.device(self.engine.device)

    def snapshot(self) -> Files:
        """A copy of what this rank has to save. Frozen parameters are left out: the task brings them."""
        with tempfile.TemporaryDirectory() as scratch:  # DeepSpeed makes folders before it asks for the files
            self.engine.save_checkpoint(scratch, tag="state", save_latest=False, exclude_frozen_parameters=True)
            taken, self.snapshots.files = self.snapshots.files, {}
            return {str(Path(path).relative_to(scratch)): state for path, state in taken.items()}

    def load(self, folder: Path) -> None:
        """Load the files of `snapshot`. DeepSpeed unpickles, so the caller vouches for the folder's origin."""
        loaded, _ = self.engine.load_checkpoint(str(folder), tag="state", load_module_strict=False)
        if loaded is None:
            raise PlatformError(f"{folder} holds no DeepSpeed state; remove that checkpoint and start again.")


def gathered(params: Sequence[nn.Parameter], write: bool = False) -> AbstractContextManager[Any]:
    """Inside the block the parameters are whole on every rank (ZeRO-3 keeps shards); `write` keeps changes."""
    if not any(hasattr(p, "ds_id") for p in params):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(params), modifier_rank=0 if write else None)


class TorchRanks(Ranks):
    """The ranks of the current process group; a group of one is made where there is none."""

    group: Any = None  # the default one

    def __init__(self) -> None:
        if not dist.is_initialized():
            for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
                os.environ.setdefault(name, value)
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def apart(self) -> "TorchRanks":
        """The same ranks through a group of their own, for another thread. Every rank calls this."""
        other = TorchRanks()
        other.group = dist.new_group(backend="gloo")
        return other

    def barrier(self) -> None:
        dist.barrier(group=self.group)

    def gather(self, value: Any) -> list[Any]:
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, value, group=self.group)
        return parts

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """The mean over ranks of each scalar; every rank must bring the same names."""
        if not values:
            return {}
        stacked = torch.stack([values[name].float() for name in sorted(values)])
        if self.world > 1:
            dist.all_reduce(stacked)
        return dict(zip(sorted(values), (stacked / self.world).tolist(), strict=True))


def _optimizer_groups(groups: Sequence[Group], config: "LoopConfig") -> list[Group]:
    """The groups as AdamW takes them, each at its rate; biases and norms (one-dimensional) do not decay."""
    given = []
    for group in groups:
        own: Group = {key: group[key] for key in ("betas", "weight_decay") if key in group}
        own["lr"] = group.get("lr", config.lr * group.get("lr_scale", 1.0))
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        given += [own | {"params": matrices}, own | {"params": vectors, "weight_decay": 0.0}]
    return [group for group in given if group["params"]]


def _deepspeed(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return deepspeed


def machine(given: Any) -> dict[str, Any]:
    """What a kind of machine wants of DeepSpeed, from its JSON file or as it stands in a run's config.

    Raises ValueError for a file that cannot be read, and for what is not the machine's to say: batch sizes,
    precision and clipping are keys of the loop, and would be said twice.
    """
    if isinstance(given, str):
        try:
            given = json.loads(Path(given).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"deepspeed: {given} is no JSON file that can be read ({error})") from None
    if not isinstance(given, dict) or "zero_optimization" not in given:
        raise ValueError("deepspeed: the file needs the section zero_optimization")
    if other := sorted(given.keys() - set(MACHINE)):
        raise ValueError(f"deepspeed: {other[0]} is not the machine's; it may say {', '.join(MACHINE)}")
    return given


def _deepspeed_config(config: "LoopConfig", world: int, bf16: bool, size: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero}
    if config.zero:  # the default buckets are 2 GB, whatever the model
        bucket = min(-(-size // 1024) * 1024, 2**27)
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    given = config.deepspeed or {}
    return {
        "train_batch_size": config.batch,
        "gradient_accumulation_steps": config.accumulate,
        "train_micro_batch_size_per_gpu": config.batch // (world * config.accumulate),
        **given,
        "zero_optimization": zero | given.get("zero_optimization", {}),
        "gradient_clipping": config.clip if config.zero else 0.0,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},  # fp32 weights, bf16 arithmetic
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**40,
    }
