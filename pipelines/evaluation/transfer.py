"""Protocol "synthetic", part two: transfer, leakage and errors on drawn pairs, between four controls (recipe I6).

copy-reference returns the portrait; shuffled motion is another pair's driver; untrained encoder is the model with a
fresh motion encoder; the renderer oracle is the true picture, so what it misses the measuring networks miss.
"""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipelines.evaluation import crew, probes
from pipelines.models import device, load
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from xnemo.model import XNeMo
    from xnemo.synthetic.cross_pairs import CrossPairs

METHODS = ("model", "copy-reference", "shuffled motion", "untrained encoder", "renderer oracle")
CHUNK, FEWEST = 16, 8
TIMES = (100, 300, 500, 700, 850, 950)
LINES = 64  # pairs that are interpolated and commanded to stay, or a few more
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the driver's code, on the way from the portrait's own


def pairs(config: Any, model_folder: Path, key: str) -> dict[str, Any]:
    """Arrays over all pairs ("<method>/motion" [N, 16], "<method>/identity" [N, 28], …) and "probe/…"; without controls
    only what compares models: no shuffled motion, no untrained encoder, no loss gaps, no interpolation, no probes.

    Chunks on disk under the same key are not made again. Raises PlatformError if a chunk cannot be made.
    """
    if config.pairs < FEWEST:
        raise PlatformError(f"pairs={config.pairs}: regressions need at least {FEWEST} pairs (0: none at all).")
    output = Path(config.output) / "pairs"
    key = key if config.controls else f"{key}-alone"
    firsts = list(range(0, config.pairs - 1, CHUNK))  # no pair is left alone: its motion could not be shuffled
    ends = [*firsts[1:], config.pairs]
    tasks = [(first, end - first) for first, end in zip(firsts, ends, strict=True)]
    tasks += [(-1, config.people)] * config.controls
    made: dict[int, dict[str, np.ndarray]] = {}
    for first, count in tasks:
        if (path := output / f"{key}-{first}-{count}.npz").exists():
            made[first] = dict(np.load(path))
    wrong: list[Exception] = []

    def keep(task: tuple[int, int], result: Any) -> None:
        if isinstance(result, Exception):
            wrong.append(result)
            return
        made[task[0]] = result
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **result)
        storage.publish_bytes(str(output / f"{key}-{task[0]}-{task[1]}.npz"), buffer.getvalue())

    waiting = [task for task in tasks if task[0] not in made]
    crew.work(PairWorker, (str(model_folder), config), waiting, config.workers, keep, "pairs", config.gpus)
    if wrong:
        raise PlatformError(f"drawn pairs could not be measured: {wrong[0]}")
    whole = {name: np.concatenate([made[first][name] for first in firsts if name in made[first]]) for name in made[0]}
    return whole | {f"probe/{name}": value for name, value in made.get(-1, {}).items()}


class PairWorker:
    """Loads the model once; does one chunk of pairs after the other, and the probes as one task of their own."""

    def __init__(self, model_folder: str, config: Any) -> None:
        torch.set_num_threads(1)
        self.model, self.config = load(model_folder, device(config.device)).eval(), config
        self.fresh = copy.copy(self.model)
        self.fresh._modules = dict(self.model._modules)  # shares everything but the encoder
        self.fresh.motion_encoder = untrained(self.model)

    def do(self, task: tuple[int, int]) -> dict[str, np.ndarray]:
        """The chunk of `count` pairs from number `first`; the probes for first = -1."""
        if task[0] < 0:
            models = {"model": self.model, "untrained": self.fresh}
            return probes.codes(models, self.config.people, self.config.seed)
        return self.chunk(*task)

    def chunk(self, first: int, count: int) -> dict[str, np.ndarray]:
        """Every method's pictures, measured."""
        from xnemo.metrics import self_reenactment as distance
        from xnemo.synthetic import cross_pairs as drawn
        from xnemo.synthetic.measure_identity import measure_identity, visible

        shape = self.model.config
        given = drawn.draw_pairs(first, count, shape.image_size, shape.motion_encoder.image_size, self.config.seed)
        other = torch.roll(torch.arange(count), 1)
        code = drawn.code_of(self.model, given.faces)
        pictures = {
            "model": self.animate(given, code, given.f_rts),
            "copy-reference": given.reference,
            "renderer oracle": given.truth,
        }
        if self.config.controls:
            strange = drawn.code_of(self.fresh, given.faces)
            pictures["shuffled motion"] = self.animate(given, code[other], given.f_rts)
            pictures["untrained encoder"] = self.animate(given, strange, given.f_rts, self.fresh)
        result = {
            "true/motion": given.target_motion.numpy(), "portrait/motion": given.portrait_motion.numpy(),
            "portrait/identity": visible(given.portrait_identity).numpy(),
            "driver/identity": visible(given.driver_identity).numpy(),
            "portrait/read": measure_identity(drawn.bordered(given.reference)),
            "driver/read": measure_identity(given.driver), "f_rts/asked": given.f_rts.double().numpy(),
        }  # fmt: skip
        truth = given.truth.float() / 255
        for name, images in pictures.items():
            unit = images.float() / 255
            result[f"{name}/motion"] = drawn.placed(images, given.squares)
            result[f"{name}/identity"] = measure_identity(drawn.bordered(images))
            result[f"f_rts/{name}"] = drawn.f_rts_of(given, result[f"{name}/motion"])
            for measured in (distance.l1, distance.psnr, distance.ssim):
                result[f"{name}/{measured.__name__}"] = measured(unit, truth).clamp(max=99.0).double().numpy()
        if self.config.controls:
            result |= {f"gap/{name}": gap for name, gap in drawn.loss_gaps(self.model, given, TIMES).items()}
        if self.config.controls and first < LINES:
            result["line/motion"] = self.line(given, code)
            result["f_rts/still"] = drawn.f_rts_of(given, result["line/motion"][:, -1])
        return result

    def line(self, given: CrossPairs, code: Tensor) -> np.ndarray:
        """What is measured [N, len(SHARES), 16] on the way from the portrait's own code to the driver's, the head
        commanded to stay where it is."""
        from xnemo.synthetic import cross_pairs as drawn

        own, rest = drawn.code_of(self.model, given.own), drawn.still(given)
        between = [self.animate(given, torch.lerp(own, code, share), rest) for share in SHARES]
        return np.stack([drawn.placed(pictures, given.squares) for pictures in between], 1)

    def animate(self, given: CrossPairs, code: Tensor, f_rts: Tensor, model: XNeMo | None = None) -> Tensor:
        """Pictures of these codes in these places, as the run's configuration samples."""
        from xnemo.options import sampling
        from xnemo.synthetic.cross_pairs import animate_codes

        model = model or self.model
        return animate_codes(
            model, given, code, f_rts, *sampling(model.config, self.config.steps, self.config.guidance_scale)
        )


def untrained(model: Any) -> Any:
    """A motion encoder of the same shape with fresh weights."""
    from xnemo.motion_encoder import MotionEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MotionEncoder(model.config).to(model.denoiser.conv_in.weight).eval()
