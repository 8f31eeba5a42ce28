"""Train the network of `measure_identity` on freshly drawn heads: python -m xnemo.synthetic.train_identity --minutes 11

As `train_measure`: a pool of recent pictures, spoilt anew each time they are seen; held out are people of other seeds.
The place of the head comes from `measure`'s finder, which stays as it is.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.synthetic.identity import IDENTITY, random_identities
from xnemo.synthetic.measure import SIZE, reader, shrink
from xnemo.synthetic.measure_identity import WEIGHTS, IdentityReader, visible
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render
from xnemo.synthetic.train_measure import spoil

BATCH, FRESH, POOL = 96, 24, 16_384  # pictures per step, of them drawn anew, kept for reuse
SAVE_EVERY = 400  # steps
TRAINED_FROM, HELD_OUT_FROM = 40_000_000, 50_000_000  # identity seeds


def drawn(first_seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [n, 3, 64, 64] of that many people in random motion, and their visible traits [n, 28]."""
    identity = random_identities(range(first_seed, first_seed + count))
    motion, placement = random_motion(first_seed, count)
    return render(identity, motion, placement, SIZE), visible(identity)


def train(minutes: float, output: Path) -> dict[str, dict[str, float]]:
    """Train for this long (processor time), write the weights with their accuracy, and return the accuracy."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = IdentityReader().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    pool = list(drawn(TRAINED_FROM, 2048))
    start, step, seed = time.process_time(), 0, TRAINED_FROM + 2048
    while (share := (time.process_time() - start) / (60 * minutes)) < 1:
        new = drawn(seed, 8 * FRESH)
        pool = [torch.cat([fresh, old[:POOL]]) for fresh, old in zip(new, pool, strict=True)]
        seed += 8 * FRESH
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 200) * (0.5 + 0.5 * np.cos(np.pi * share)) + 1e-5
        for _ in range(8):
            rows = torch.from_numpy(rng.integers(0, len(pool[0]), BATCH))
            order = torch.randperm(BATCH)  # `spoil` leaves the second half sharp
            images, traits = spoil(pool[0][rows], rng)[order], pool[1][rows][order]
            with torch.no_grad():
                place = reader().place(images)
            with torch.autocast("cpu", torch.bfloat16):
                guess = network(images, place)
            loss = F.mse_loss(guess.float(), traits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(network)
            step += 1
        if step % SAVE_EVERY == 0:
            save(average.module, output, seed - TRAINED_FROM, step * BATCH)
            print(f"{(time.process_time() - start) / 60:.1f} min  step {step}  loss {loss.item():.4f}", flush=True)
    return save(average.module, output, seed - TRAINED_FROM, step * BATCH)


@torch.no_grad()
def r2(network: IdentityReader, count: int = 1024) -> dict[str, dict[str, float]]:
    """R² per trait on held-out people, on clean and on spoilt pictures."""
    network.eval()
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    pictures, truth = drawn(HELD_OUT_FROM, count)
    report = {}
    for kind in ("clean", "degraded"):
        guesses = []
        for part in pictures.split(64):
            images = shrink(part) if kind == "clean" else spoil(torch.cat([part, part]), rng)[: len(part)]
            guesses.append(network(images, reader().place(images).float()))
        score = 1 - (torch.cat(guesses) - truth).square().mean(0) / truth.var(0)
        report[kind] = {name: round(float(s), 3) for name, s in zip(IDENTITY, score, strict=True)}
    return report


def save(network: torch.nn.Module, output: Path, people: int, pictures: int) -> dict[str, dict[str, float]]:
    """Write the weights in half precision, measured as they will be read back."""
    from safetensors.torch import save_file

    kept = IdentityReader()
    kept.load_state_dict(network.state_dict())
    for tensor in (*kept.parameters(), *kept.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    report = r2(kept)
    state = {k: v.half() if v.is_floating_point() else v for k, v in kept.state_dict().items()}
    partial = output.with_suffix(".part")
    facts = {"r2": report, "people": people, "pictures": pictures}
    save_file(state, partial, {key: json.dumps(value) for key, value in facts.items()})
    partial.chmod(0o644)
    partial.replace(output)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=11, help="processor time")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(train(arguments.minutes, arguments.output), indent=1))


if __name__ == "__main__":
    main()
