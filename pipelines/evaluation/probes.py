"""What the motion code knows: of the motion (want much) and of the person (want nothing). Recipe I6.3 and I6.4.

The same questions go to a fresh encoder, to the pixels' principal axes, and to a supervised network that was trained on
renders and tuned on these very crops: the ceiling, since one picture cannot tell everything.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.metrics import transfer

if TYPE_CHECKING:
    from xnemo.model import XNeMo

PEOPLE, MOTIONS = 64, 8  # of retrieval and invariance
SIDE, CROP, PIXELS = 96, 48, 16  # of a drawn picture; of its crop for the two below; of that for principal axes
BORDER, EPOCHS, BATCH = 4, 10, 64  # of the supervised network's input and tuning
FIRST = 4_000_000  # after the seeds of the pairs


def codes(models: Mapping[str, XNeMo], count: int, seed: int) -> dict[str, np.ndarray]:
    """Of pictures of three kinds, "<kind>/<who>" [N, D] for every model, "pixels" and "supervised" (read only).

    read: `count` people, the even ones to fit on, the odd ones to tell, each in a motion of his own ("read/motion"
    [N, 13], "read/person" [N, 28]); free: PEOPLE × MOTIONS, every picture in a motion of its own; shared: the same
    motions for everybody.
    """
    from xnemo.synthetic.cross_pairs import FIRST_SEED, cut
    from xnemo.synthetic.identity import random_identities
    from xnemo.synthetic.measure_identity import visible
    from xnemo.synthetic.motion import random_motion

    first = FIRST_SEED + FIRST + 10_000 * seed
    many, crowd = random_identities(range(first, first + count)), random_identities(range(first, first + PEOPLE))
    motion, _ = random_motion(first, count)
    free, _ = random_motion(first + 1, PEOPLE * MOTIONS)
    crowd = crowd.repeat_interleave(MOTIONS, 0)
    result: dict[str, np.ndarray] = {"read/motion": motion.numpy(), "read/person": visible(many).numpy()}
    shared = free[:MOTIONS].repeat(PEOPLE, 1)
    for kind, people, moved in (("read", many, motion), ("free", crowd, free), ("shared", crowd, shared)):
        drawn = _draw(people, moved)
        result |= {f"{kind}/{who}": told for who, told in _seen(models, *drawn).items()}
        if kind == "read":
            result["read/supervised"] = supervised(cut(*drawn, CROP), moved)
    return result


def _seen(models: Mapping[str, XNeMo], pictures: Tensor, squares: Tensor) -> dict[str, np.ndarray]:
    """The codes [N, D] of every model, and as many principal axes of the crops' pixels."""
    from xnemo.synthetic.cross_pairs import codes as encode
    from xnemo.synthetic.cross_pairs import cut

    told = {}
    for who, model in models.items():
        told[who] = encode(model, cut(pictures, squares, model.config.motion_encoder.image_size))
    width = next(iter(told.values())).shape[1]
    pixels = F.adaptive_avg_pool2d(cut(pictures, squares, CROP).float(), PIXELS).flatten(1).double().numpy()
    pixels = pixels - pixels.mean(0)
    axes = np.linalg.eigh(pixels.T @ pixels)[1][:, ::-1]
    return told | {"pixels": pixels @ axes[:, :width]}


def _draw(people: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, SIDE, SIDE] of these people in these motions, and the squares [N, 4] encoders see."""
    from xnemo import crops
    from xnemo.synthetic.render import face_boxes, render

    still = torch.zeros(len(people), 3)
    return render(people, motion, still, SIDE), crops.square(face_boxes(people, motion, still, SIDE))


def supervised(faces: Tensor, motion: Tensor) -> np.ndarray:
    """Motion [N, 13] read from crops uint8 [N, 3, 48, 48] by the measuring network, tuned on the even ones."""
    from xnemo.synthetic import measure
    from xnemo.synthetic.geometry import MOTION

    target = measure.to_unit(motion, MOTION)
    pixels = F.pad(faces.float() / 127.5 - 1, (BORDER,) * 4, mode="replicate")
    pixels = F.interpolate(pixels, (measure.CROP, measure.CROP), mode="bilinear", align_corners=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = copy.deepcopy(measure.reader().read)
        last = network[-1]
        assert isinstance(last, nn.Linear)
        network[-1] = nn.Linear(last.in_features, len(MOTION))
        known = torch.arange(0, len(faces), 2)
        steps = EPOCHS * len(known) // BATCH
        optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps + 1)
        network.train()
        for _ in range(steps):
            some = known[torch.randint(len(known), (BATCH,))]
            loss = (network(pixels[some]) - target[some]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        return torch.cat([network.eval()(part) for part in pixels.split(BATCH)]).double().numpy()


def figures(made: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """By who was asked: `motion_r2` and `identity_r2` (means over what can vary), retrieval, invariance ρ, and each
    parameter's R² in `motion`. The supervised network was not asked for the person."""
    motion, person = made["read/motion"], made["read/person"]
    told: dict[str, dict[str, Any]] = {}
    for who in [name.removeprefix("read/") for name in made if name.startswith("read/")]:
        if who in ("motion", "person"):
            continue
        read = transfer.ridge_r2(made[f"read/{who}"], motion)
        told[who] = {"motion": read.tolist(), "motion_r2": float(np.nanmean(read))}
        if f"free/{who}" in made:
            told[who] |= {
                "identity_r2": float(np.nanmean(transfer.ridge_r2(made[f"read/{who}"], person))),
                "retrieval": transfer.retrieval(made[f"free/{who}"].reshape(PEOPLE, MOTIONS, -1)),
                "invariance": transfer.invariance(made[f"shared/{who}"].reshape(PEOPLE, MOTIONS, -1)),
            }
    return told | {"chance": {"retrieval": 1 / PEOPLE}}
