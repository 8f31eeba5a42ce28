"""Train the network of `measure_identity` on freshly drawn heads: python -m xnemo.synthetic.train_identity --minutes 11

As `train_measure`: a pool of recent pictures, spoilt anew each time they are seen; held out are people of other seeds.
The place of the head comes from `measure`'s finder, which stays as it is.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.synthetic.identity import IDENTITY, random_identities
from xnemo.synthetic.measure import SIZE, reader
from xnemo.synthetic.measure_identity import WEIGHTS, IdentityReader, visible
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render
from xnemo.synthetic.train_measure import SAVE_EVERY, Report, grow, scores, spoil, write

FRESH = 24  # pictures drawn anew per step
TRAINED_FROM, HELD_OUT_FROM = 40_000_000, 50_000_000  # identity seeds


def drawn(first_seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [n, 3, 64, 64] of that many people in random motion, and their visible traits [n, 28]."""
    identity = random_identities(range(first_seed, first_seed + count))
    motion, placement = random_motion(first_seed, count)
    return render(identity, motion, placement, SIZE), visible(identity)


def train(minutes: float, output: Path) -> Report:
    """Train for this long (processor time), write the weights with their accuracy, and return the accuracy."""
    torch.manual_seed(0)
    network = IdentityReader()

    def loss_of(batch: list[Tensor], rng: np.random.Generator) -> Tensor:
        order = torch.randperm(len(batch[0]))  # `spoil` leaves the second half sharp
        images, traits = spoil(batch[0], rng)[order], batch[1][order]
        with torch.no_grad():
            place = reader().place(images)
        with torch.autocast("cpu", torch.bfloat16):
            guess = network(images, place)
        return F.mse_loss(guess.float(), traits)

    return grow(network, drawn, loss_of, save, TRAINED_FROM, FRESH, minutes, output, log_every=SAVE_EVERY)


@torch.no_grad()
def r2(network: IdentityReader, count: int = 1024) -> Report:
    """R² per trait on held-out people, on clean and on spoilt pictures."""
    network.eval()
    torch.manual_seed(1)
    pictures, truth = drawn(HELD_OUT_FROM, count)
    return scores(lambda images: network(images, reader().place(images).float()), pictures, truth, IDENTITY)


def save(network: torch.nn.Module, output: Path, people: int, pictures: int) -> Report:
    """Write the weights in half precision, measured as they will be read back."""
    kept = IdentityReader()
    kept.load_state_dict(network.state_dict())
    return write(kept, r2, output, {"people": people, "pictures": pictures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=11, help="processor time")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(train(arguments.minutes, arguments.output), indent=1))


if __name__ == "__main__":
    main()
