"""What several tests of the evaluation share: drawn pairs as arrays, whose figures are known."""

import numpy as np
import pytest

from pipelines.evaluation import drawn_figures, probes, transfer
from xnemo.synthetic.cross_pairs import NAMES
from xnemo.synthetic.identity import IDENTITY


@pytest.fixture(scope="module")
def made():
    """A model that transfers 70 % of the motion and leaks 20 % of the driver's face."""
    rng = np.random.default_rng(0)
    count = 40
    true, portrait = rng.uniform(-1, 1, (2, count, len(NAMES)))
    person, driver = rng.uniform(-1, 1, (2, count, len(IDENTITY)))
    result = {"true/motion": true, "portrait/motion": portrait, "portrait/identity": person, "driver/identity": driver,
              "portrait/read": person, "driver/read": driver}  # fmt: skip
    motions = {"model": 0.7 * true + 0.1 * portrait, "copy-reference": portrait, "shuffled motion": np.roll(true, 1, 0),
               "untrained encoder": portrait, "renderer oracle": true}  # fmt: skip
    for method in transfer.METHODS:
        result[f"{method}/motion"] = motions[method]
        result[f"{method}/identity"] = 0.8 * person + 0.2 * driver if method == "model" else person
        result |= {f"{method}/{kind}": np.full(count, 0.5) for kind in ("l1", "psnr", "ssim")}
    result |= {f"gap/{name}": np.full((count, len(transfer.TIMES)), 0.1) for name in ("motion", "swap", "identity")}
    asked = rng.uniform(-0.3, 0.3, (count, 3)) + np.array([0, 0, 1])
    result |= {f"f_rts/{method}": asked for method in transfer.METHODS}
    result |= {"f_rts/asked": asked, "f_rts/model": 0.8 * (asked - [0, 0, 1]) + [0, 0, 1.0]}
    result |= {f"f_rts/{who}": np.tile([0.1, 0.0, 1.0], (count, 1)) for who in ("still", "copy-reference")}
    way = np.array(transfer.SHARES)[:, None]
    result["line/motion"] = portrait[:, None] + 0.6 * way * (true - portrait)[:, None]
    people, motion = rng.normal(size=(400, 28)), rng.normal(size=(400, 13))
    result |= {"probe/read/motion": motion, "probe/read/person": people}
    free = rng.normal(size=(probes.PEOPLE * probes.MOTIONS, 13))
    shared = np.tile(free[: probes.MOTIONS], (probes.PEOPLE, 1))
    for who in ("model", "untrained", "pixels"):
        result |= {f"probe/read/{who}": motion, f"probe/free/{who}": free, f"probe/shared/{who}": shared}
    result["probe/read/supervised"] = motion + 0.3 * rng.normal(size=motion.shape)
    return result


@pytest.fixture(scope="module")
def figures(made):
    """What is reported of these pairs."""
    return drawn_figures.figures(made)
