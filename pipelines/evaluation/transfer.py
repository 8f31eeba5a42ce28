"""Protocol "synthetic", part two: transfer, leakage and errors on drawn pairs, between four controls (recipe I6).

copy-reference returns the portrait; shuffled motion is another pair's driver; untrained encoder is the model with a
fresh motion encoder; the renderer oracle is the true picture, so what it misses the measuring networks miss.
"""

from __future__ import annotations

import copy
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation import crew
from pipelines.evaluation.drawn import EMOTION as EXPRESSION
from pipelines.models import device, load
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

METHODS = ("model", "copy-reference", "shuffled motion", "untrained encoder", "renderer oracle")
POSE = ("pitch", "yaw", "roll")
PLACE = ("x", "y", "log_scale")
HEADLINE = (*POSE, "jaw", "smile", "blink_left", "blink_right")  # what the mean α and β of the gates are over
CHUNK = 16
TIMES = (100, 300, 500, 700, 850, 950)
PEOPLE, MOTIONS = 64, 8  # of the probes


def pairs(config: Any, model_folder: Path, key: str) -> dict[str, Any]:
    """Arrays over all pairs ("<method>/motion" [N, 16], "<method>/identity" [N, 28], …) and "probes".

    Chunks on disk under the same key are not made again. Raises PlatformError if a chunk cannot be made.
    """
    output = Path(config.output) / "pairs"
    firsts = list(range(0, config.pairs, CHUNK))
    tasks = [(first, min(CHUNK, config.pairs - first)) for first in firsts] + [(-1, 0)]
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
    whole = {name: np.concatenate([made[first][name] for first in firsts]) for name in made[0]}
    return whole | {f"probe/{name}": value for name, value in made[-1].items()}


class PairWorker:
    """Loads the model once; does one chunk of pairs after the other, and the probes as one task of their own."""

    def __init__(self, model_folder: str, config: Any) -> None:
        import torch

        torch.set_num_threads(1)
        self.model, self.config = load(model_folder, device(config.device)).eval(), config
        self.fresh = copy.copy(self.model)
        self.fresh._modules = dict(self.model._modules)  # shares everything but the encoder
        self.fresh.motion_encoder = untrained(self.model)

    def do(self, task: tuple[int, int]) -> dict[str, np.ndarray]:
        """The chunk of `count` pairs from number `first`; the probes for first = -1."""
        return self.probes() if task[0] < 0 else self.chunk(*task)

    def chunk(self, first: int, count: int) -> dict[str, np.ndarray]:
        """Every method's pictures, measured."""
        import torch

        from xnemo.metrics import self_reenactment as distance
        from xnemo.synthetic import cross_pairs as drawn
        from xnemo.synthetic.measure_identity import measure_identity, visible

        shape = self.model.config
        given = drawn.draw_pairs(first, count, shape.image_size, shape.motion_encoder.image_size, self.config.seed)
        scale = shape.guidance_scale if self.config.guidance_scale is None else self.config.guidance_scale
        options = {"steps": self.config.steps, "guidance_scale": scale}
        other = torch.roll(torch.arange(count), 1)
        pictures = {
            "model": drawn.animate_pairs(self.model, given, given.faces, given.f_rts, **options),
            "copy-reference": given.reference,
            "shuffled motion": drawn.animate_pairs(self.model, given, given.faces[other], given.f_rts, **options),
            "untrained encoder": drawn.animate_pairs(self.fresh, given, given.faces, given.f_rts, **options),
            "renderer oracle": given.truth,
        }
        result = {
            "true/motion": given.target_motion.numpy(), "portrait/motion": given.portrait_motion.numpy(),
            "portrait/identity": visible(given.portrait_identity).numpy(),
            "driver/identity": visible(given.driver_identity).numpy(),
            "portrait/read": measure_identity(drawn.bordered(given.reference)),
            "driver/read": measure_identity(given.driver),
        }  # fmt: skip
        truth = given.truth.float() / 255
        for name, images in pictures.items():
            unit = images.float() / 255
            result[f"{name}/motion"] = drawn.placed(images, given.squares)
            result[f"{name}/identity"] = measure_identity(drawn.bordered(images))
            for measured in (distance.l1, distance.psnr, distance.ssim):
                result[f"{name}/{measured.__name__}"] = measured(unit, truth).clamp(max=99.0).double().numpy()
        result |= {f"gap/{name}": gap for name, gap in drawn.loss_gaps(self.model, given, TIMES).items()}
        return result

    def probes(self) -> dict[str, np.ndarray]:
        """Codes of PEOPLE × MOTIONS pictures by the model's encoder, a fresh one, and the pixels' principal axes."""
        import torch

        from xnemo.synthetic import cross_pairs as drawn
        from xnemo.synthetic.identity import random_identities
        from xnemo.synthetic.measure_identity import visible
        from xnemo.synthetic.motion import random_motion
        from xnemo.synthetic.render import face_boxes, render

        first = drawn.FIRST_SEED + 4_000_000 + 1000 * self.config.seed
        people = random_identities(range(first, first + PEOPLE)).repeat_interleave(MOTIONS, 0)
        free, _ = random_motion(first, PEOPLE * MOTIONS)
        shared = free[:MOTIONS].repeat(PEOPLE, 1)  # the same motions for everybody: for the invariance ratio
        result: dict[str, np.ndarray] = {"people": visible(people).numpy(), "motions": free.numpy()}
        still = torch.zeros(len(people), 3)
        for name, motion in (("free", free), ("shared", shared)):
            pictures, boxes = render(people, motion, still, 128), face_boxes(people, motion, still, 128)
            for who, model in (("model", self.model), ("untrained", self.fresh)):
                result[f"{name}/{who}"] = drawn.codes(model, pictures, boxes)
            pixels = torch.nn.functional.avg_pool2d(pictures.float(), 8).flatten(1).double().numpy()
            pixels = pixels - pixels.mean(0)
            axes = np.linalg.svd(pixels, full_matrices=False)[2]
            result[f"{name}/pixels"] = pixels @ axes[: result[f"{name}/model"].shape[1]].T
        return result


def untrained(model: Any) -> Any:
    """A motion encoder of the same shape with fresh weights."""
    import torch

    from xnemo.motion_encoder import MotionEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MotionEncoder(model.config).to(model.denoiser.conv_in.weight).eval()


def figures(made: dict[str, np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Everything that is reported of the pairs: per method errors and similarities, coefficients, gaps, probes."""
    from xnemo.metrics import intervals, transfer
    from xnemo.synthetic.cross_pairs import NAMES
    from xnemo.synthetic.identity import IDENTITY
    from xnemo.synthetic.measure_identity import CONFOUNDED, readable

    at, traits = NAMES.index, readable()
    per_pair = {method: pair_figures(made, method, traits) for method in METHODS}
    means = {
        m: {name: vars(intervals.mean(v.tolist(), seed)) for name, v in each.items()} for m, each in per_pair.items()
    }
    for method in METHODS:
        for name in ("aed", "apd"):
            copied = means["copy-reference"][name]["mean"]
            means[method][f"nme_{name}"] = {"mean": means[method][name]["mean"] / max(copied, 1e-9)}
    motion = {
        method: {
            name: vars(transfer.coefficients(made[f"{method}/motion"][:, at(name)], made["true/motion"][:, at(name)],
                                             made["portrait/motion"][:, at(name)], seed))
            for name in (*POSE, *EXPRESSION, *PLACE)
        }
        for method in METHODS
    }  # fmt: skip
    identity = {
        method: {
            name: vars(transfer.coefficients(made[f"{method}/identity"][:, IDENTITY.index(name)],
                                             made["portrait/identity"][:, IDENTITY.index(name)],
                                             made["driver/identity"][:, IDENTITY.index(name)], seed))
            for name in dict.fromkeys([*(IDENTITY[place] for place in traits), *CONFOUNDED])
        }
        for method in METHODS
    }  # fmt: skip
    gaps = {
        name: {str(t): vars(intervals.mean(made[f"gap/{name}"][:, i].tolist(), seed)) for i, t in enumerate(TIMES)}
        for name in ("motion", "swap", "identity")
    }
    return {
        "pairs": len(made["true/motion"]), "methods": means, "motion": motion, "identity": identity, "gaps": gaps,
        "probes": probe_figures(made), "readable_traits": [IDENTITY[place] for place in traits],
        "alpha": float(np.mean([motion["model"][name]["alpha"] for name in HEADLINE])),
        "beta": float(np.mean([motion["model"][name]["beta"] for name in HEADLINE])),
        "identity_beta": float(np.mean([identity["model"][IDENTITY[place]]["beta"] for place in traits])),
    }  # fmt: skip


def per_pair(made: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row per pair with the model's own figures, for comparing runs."""
    from xnemo.synthetic.measure_identity import readable

    columns = pair_figures(made, "model", readable())
    count = len(made["true/motion"])
    return [{"id": f"pair-{i:04}"} | {name: float(v[i]) for name, v in columns.items()} for i in range(count)]


def pair_figures(made: dict[str, np.ndarray], method: str, traits: list[int]) -> dict[str, np.ndarray]:
    """Per pair [N]: AED*, APD*, NIE, ID-SIM* to portrait and driver, and distance to the true picture."""
    from xnemo.metrics.identity import cosines
    from xnemo.synthetic.cross_pairs import NAMES

    error = np.abs(made[f"{method}/motion"] - made["true/motion"])
    read = made[f"{method}/identity"][:, traits]
    return {
        "aed": error[:, [NAMES.index(name) for name in EXPRESSION]].mean(1),
        "apd": error[:, [NAMES.index(name) for name in POSE]].mean(1),
        "nie": np.abs(read - made["portrait/identity"][:, traits]).mean(1),
        "id_sim": cosines(read, made["portrait/read"][:, traits]),
        "id_leak": cosines(read, made["driver/read"][:, traits]),
        **{name: made[f"{method}/{name}"] for name in ("l1", "psnr", "ssim")},
    }


def probe_figures(made: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """What the code knows: motion (want high), the person (want chance), against a fresh encoder and pixels."""
    from xnemo.metrics import transfer

    def by_people(rows: np.ndarray) -> np.ndarray:  # so that even and odd rows are of different people
        return rows.reshape(PEOPLE, MOTIONS, -1).swapaxes(0, 1).reshape(len(rows), -1)

    result = {}
    for who in ("model", "untrained", "pixels"):
        codes = made[f"probe/free/{who}"]
        result[who] = {
            "motion_r2": float(transfer.ridge_r2(by_people(codes), by_people(made["probe/motions"])).mean()),
            "identity_r2": float(np.nanmean(transfer.ridge_r2(by_people(codes), by_people(made["probe/people"])))),
            "retrieval": transfer.retrieval(codes.reshape(PEOPLE, MOTIONS, -1)),
            "invariance": transfer.invariance(made[f"probe/shared/{who}"].reshape(PEOPLE, MOTIONS, -1)),
        }
    return result | {"chance": {"retrieval": 1 / PEOPLE}}


def to_csv(made: dict[str, np.ndarray]) -> str:
    """The raw figures: a line per pair and method, parameters as measured, as true, and as the portrait has them."""
    from xnemo.synthetic.cross_pairs import NAMES

    text = io.StringIO()
    writer = csv.writer(text)
    kinds = ("l1", "psnr", "ssim")
    writer.writerow(
        ["pair", "method", *kinds, *(f"{kind}_{name}" for kind in ("is", "true", "portrait") for name in NAMES)]
    )
    for pair in range(len(made["true/motion"])):
        for method in METHODS:
            motions = (made[f"{method}/motion"], made["true/motion"], made["portrait/motion"])
            values = [*(made[f"{method}/{kind}"][pair] for kind in kinds), *(v for m in motions for v in m[pair])]
            writer.writerow([pair, method, *(f"{value:.5g}" for value in values)])
    return text.getvalue()
