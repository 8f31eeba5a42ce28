"""A regression with everything a real task has: frozen parts, groups, dropout, an adversary, a weight average."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from xnemo_platform.config import Config
from xnemo_platform.engine import Validation
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample, Source
from xnemo_platform.loop import LoopConfig
from xnemo_platform.trainer import Place


class ToyConfig(Config):
    loop: LoopConfig
    fault: Literal["none", "kill", "refuse"] = "none"
    fault_step: int = 0  # in the last rank, once
    dropout: float = 0.1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.first, self.second = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 1)
        self.dropout = nn.Dropout(0.1)
        self.frozen.requires_grad_(False)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        hidden = torch.tanh(self.dropout(self.first(x)) + self.frozen(x))
        return {"loss": (self.second(hidden) - y).square().mean(), "size": hidden.abs().mean()}


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.net(batch[0]) - batch[1]).square().mean()}


class Average:
    """A plain exponential average."""

    def __init__(self, params: list[nn.Parameter]):
        self.params, self.shadow = params, [p.detach().clone() for p in params]

    @torch.no_grad()
    def update(self) -> None:
        for shadow, p in zip(self.shadow, self.params, strict=True):
            shadow.lerp_(p, 0.1)

    @contextmanager
    def swap(self) -> Iterator[None]:
        trained = [p.detach().clone() for p in self.params]
        self._put(self.shadow)
        try:
            yield
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for p, value in zip(self.params, values, strict=True):
            p.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): shadow for i, shadow in enumerate(self.shadow)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, shadow in enumerate(self.shadow):
            shadow.copy_(state[str(i)])


class ToyTask:
    rows = 50

    def __init__(self, config: ToyConfig, place: Place):
        self.config, self.place, self.sources = config, place, [Source(self.rows)]
        torch.manual_seed(0)
        self.module, self.adversary = Net(), Critic()
        self.module.dropout.p = config.dropout
        self.groups = [
            {"params": list(self.module.first.parameters())},
            {"params": list(self.module.second.parameters()), "lr_scale": 2.0},
        ]
        self.adversary_groups = [{"params": list(self.adversary.parameters()), "lr": 1e-3, "betas": (0.0, 0.99)}]
        self.average = Average([p for group in self.groups for p in group["params"]])
        self.x = torch.randn(self.rows, 4, generator=torch.Generator().manual_seed(1))
        self.y = self.x.sum(1, keepdim=True)
        self.poison: set[int] = set()  # steps whose batch is not finite, on the last rank only
        self.seen: list[int] = []

    def flops(self, step: int) -> float:
        return 1000.0

    def batch(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        step = samples[0].id // self.config.loop.batch
        if step == self.config.fault_step and self.place.rank == self.place.world - 1:
            self._fault()
        self.seen += [sample.id for sample in samples]
        rows = [sample.row for sample in samples]
        bad = step in self.poison and self.place.rank == self.place.world - 1
        return self.x[rows], self.y[rows] * (float("nan") if bad else 1.0)

    def _fault(self) -> None:
        if self.config.fault == "refuse":
            raise PlatformError("shard 7 is damaged; ingest it again.")
        mark = self.place.folder / "killed"
        if self.config.fault == "kill" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def validate(self, step: int) -> Validation:
        self.module.eval()
        loss = float(self.module((self.x, self.y))["loss"])
        self.module.train()
        return Validation({"validation/loss": loss}, {"plot.png": lambda path: path.write_bytes(b"png")})

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.module.state_dict() | self.adversary.state_dict(), folder / "weights.pt")


def build(config: ToyConfig, place: Place) -> ToyTask:
    return ToyTask(config, place)


def exported(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "export" / "weights.pt", weights_only=True)
