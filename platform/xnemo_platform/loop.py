"""Numbers of one training that do not depend on what is trained, and which of them a resumed run may change."""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from xnemo_platform import feed
from xnemo_platform.config import Config
from xnemo_platform.profiling import Profile
from xnemo_platform.trainee import machine


class LoopConfig(Config):
    """How a training is run. Every key has a default but the length, the batch and what follows from them."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)  # global: over all workers and accumulation steps
    accumulate: int = Field(default=1, gt=0)
    lr: float = Field(default=1e-5, gt=0)
    warmup: int = Field(default=1, ge=0)  # steps of linear rise
    schedule: Literal["constant", "cosine"] = "constant"
    lr_final: float = Field(default=0.1, ge=0, le=1)  # where the cosine ends, as a part of lr
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=1.0, gt=0)
    bad_steps: int = Field(default=3, ge=0)  # non-finite steps in a row that are skipped before the run stops
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, gt=0)
    zero: Literal[0, 1, 2, 3] = 0
    offload: bool = False  # optimizer states in host memory (ZeRO 2 and 3)
    deepspeed: dict[str, Any] | None = None  # of a kind of machine (infra/deepspeed), or the path of its JSON file
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: GPUs, one a worker, if the cluster has any
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU
    cpus: float = Field(default=1.0, gt=0)  # logical CPUs of one worker
    threads: int = Field(default=1, gt=0)  # torch threads of one worker
    max_failures: int = Field(default=2, ge=0)  # restarts after a lost worker
    log_every: int = Field(default=10, gt=0)
    save_every: int = Field(default=500, gt=0)
    validate_every: int = Field(default=500, gt=0)
    keep: int = Field(default=2, gt=0)  # newest checkpoints; the best is kept beside them
    best: str = "validation/loss"  # the figure whose lowest value makes a checkpoint the best
    mirror: str | None = None  # URI where every committed checkpoint is copied to, and looked for
    profile: Profile | None = None  # steps that are traced: {start: 100, steps: 3}
    peak_tflops: float | None = Field(default=None, gt=0)  # of one worker, for MFU; none: what a large product reaches

    @model_validator(mode="before")
    @classmethod
    def _machine(cls, data: Any) -> Any:
        """The machine's file says the ZeRO stage and the offloading; said twice, they must agree."""
        if not isinstance(data, dict) or data.get("deepspeed") is None:
            return data
        given = machine(data["deepspeed"])
        zero = given["zero_optimization"]
        said = {"zero": zero.get("stage", 0), "offload": "offload_optimizer" in zero}
        for key, value in said.items():
            if data.get(key, value) != value:
                raise ValueError(f"{key} is {data[key]} here and {value} in the deepspeed file; leave out one")
        return data | said | {"deepspeed": given}

    @model_validator(mode="after")
    def _consistent(self) -> "LoopConfig":
        feed.micro_batch(self.batch, self.workers, self.accumulate)
        if self.offload and self.zero < 2:
            raise ValueError("offload needs zero 2 or 3")
        if self.mirror and "://" not in self.mirror and not self.mirror.startswith("/"):
            raise ValueError("mirror must be a URI or an absolute path: workers run in folders of their own")
        return self


MAY_CHANGE = (
    "workers",
    "device",
    "accumulate",
    "cpus",
    "threads",
    "max_failures",
    "log_every",
    "save_every",
    "validate_every",
    "keep",
    "best",
    "mirror",
    "profile",
    "peak_tflops",
    "bad_steps",
    "deepspeed",  # its absence; what a file says is compared key by key
)
"""Keys of `LoopConfig` that a resumed run may change: they move no weight (up to rounding)."""


def lr_factor(config: LoopConfig, step: int) -> float:
    """The learning rate of a step as a part of the configured one: linear rise, then constant or cosine."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr_final + (1 - config.lr_final) * 0.5 * (1 + math.cos(math.pi * progress))
