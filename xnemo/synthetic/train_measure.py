"""Train the networks of `measure` on freshly drawn heads: python -m xnemo.synthetic.train_measure --minutes 20

One thread draws people and trains in turn; a pool of recent pictures lets each be seen several times, spoilt anew each
time as results are: low resolution, blur, noise, JPEG, colour. Held out are the people of other seeds.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.synthetic.geometry import MOTION, PLACEMENT, RANGES
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.measure import PLACED, READ, SIZE, WEIGHTS, Reader, shrink, to_unit, upright
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render

BATCH, FRESH, POOL = 96, 16, 16_384  # pictures per step, of them drawn anew, kept for reuse
SAVE_EVERY = 400  # steps
TRAINED_FROM, HELD_OUT_FROM = 20_000_000, 30_000_000  # identity seeds


def drawn(first_seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures uint8 [n, 3, 64, 64] of that many people in random motion, with targets (PLACED, READ) in [-1, 1]."""
    motion, placement = random_motion(first_seed, count)
    pictures = render(random_identities(range(first_seed, first_seed + count)), motion, placement, SIZE)
    names, values = MOTION + PLACEMENT, torch.cat([motion, placement], 1)
    place, read = (to_unit(values[:, [names.index(name) for name in which]], which) for which in (PLACED, READ))
    return pictures, place, read


def spoil(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Spoil uint8 [N, 3, 64, 64] as sampled and coded results are; returns floats in [-1, 1]. Half stay sharp."""
    half = len(pictures) // 2
    x = shrink(_jpeg(pictures, rng))
    size = int(rng.integers(32, SIZE))
    small = F.interpolate(x[:half], (size, size), mode="bilinear", antialias=bool(rng.integers(2)))
    soft = F.interpolate(small, (SIZE, SIZE), mode=str(rng.choice(["bilinear", "bicubic"])))
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / rng.uniform(0.3, 1.3)) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    soft = F.conv2d(F.conv2d(soft, kernel, padding=(0, 3), groups=3), kernel.mT, padding=(3, 0), groups=3)
    x = torch.cat([soft, x[half:]])
    count = len(x)
    gain, shift = (torch.from_numpy(rng.normal(m, 0.10, (count, 3, 1, 1))).float() for m in (1.0, 0.0))
    level = torch.from_numpy(rng.exponential(0.03, (count, 1, 1, 1))).float()
    blotches = F.interpolate(torch.randn(count, 3, 16, 16), (SIZE, SIZE), mode="nearest")
    return x * gain + shift + level * (3.4 * torch.rand_like(x) - 1.7 + blotches)


def _jpeg(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """A quarter of the pictures through JPEG."""
    from xnemo.media.images import decode_jpeg, encode_jpeg

    pictures = pictures.clone()
    for i in rng.choice(len(pictures), len(pictures) // 4, replace=False):
        coded = encode_jpeg(pictures[i].permute(1, 2, 0).contiguous().numpy(), int(rng.integers(30, 95)))
        pictures[i] = torch.from_numpy(decode_jpeg(coded)).permute(2, 0, 1)
    return pictures


Report = dict[str, dict[str, float]]
"""R² on held-out people, by kind of picture ("clean", "degraded") and name."""


def train(minutes: float, output: Path, log_every: int = 200) -> Report:
    """Train for this long (processor time), write the weights with their accuracy, and return the accuracy."""
    torch.manual_seed(0)
    reader = Reader()

    def loss_of(batch: list[Tensor], rng: np.random.Generator) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return _loss(reader, batch, rng)

    return grow(reader, drawn, loss_of, save, TRAINED_FROM, FRESH, minutes, output, log_every)


def grow(
    network: nn.Module,
    drawn: Callable[[int, int], tuple[Tensor, ...]],
    loss_of: Callable[[list[Tensor], np.random.Generator], Tensor],
    save: Callable[[nn.Module, Path, int, int], Report],
    first_seed: int,
    fresh: int,
    minutes: float,
    output: Path,
    log_every: int,
) -> Report:
    """Train a network on `fresh` new people a step beside those of the pool; what `save` says of the averaged weights.

    drawn(first seed, count): pictures and what is to be read, row by row. loss_of(batch, rng): of rows of the pool.
    """
    rng = np.random.default_rng(0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    pool = list(drawn(first_seed, 2048))
    start, step, seed = time.process_time(), 0, first_seed + 2048
    while (share := (time.process_time() - start) / (60 * minutes)) < 1:
        new = drawn(seed, 8 * fresh)
        pool = [torch.cat([young, old[:POOL]]) for young, old in zip(new, pool, strict=True)]
        seed += 8 * fresh
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 200) * (0.5 + 0.5 * np.cos(np.pi * share)) + 1e-5
        for _ in range(8):
            rows = torch.from_numpy(rng.integers(0, len(pool[0]), BATCH))
            loss = loss_of([column[rows] for column in pool], rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(network)
            step += 1
        if step % SAVE_EVERY == 0:  # a first version early, for those who wait
            save(average.module, output, seed - first_seed, step * BATCH)
        if step % log_every == 0:
            print(f"{(time.process_time() - start) / 60:.1f} min  step {step}  loss {loss.item():.4f}", flush=True)
    return save(average.module, output, seed - first_seed, step * BATCH)


def _loss(reader: Reader, batch: list[Tensor], rng: np.random.Generator) -> Tensor:
    """Squared errors; the crop is laid by the true place, a little off as the predicted one will be."""
    x, (place, read) = spoil(batch[0], rng), batch[1:]
    order = torch.randperm(len(x))
    x, place, read = x[order], place[order], read[order]
    near = place + 0.06 * torch.randn_like(place)
    return F.mse_loss(reader.place(x).float(), place) + F.mse_loss(reader.read(upright(x, near)).float(), read)


@torch.no_grad()
def r2(reader: Reader, count: int = 1024) -> Report:
    """R² per parameter on held-out people, on clean and on spoilt pictures."""
    reader.eval()
    torch.manual_seed(1)
    pictures, place, read = drawn(HELD_OUT_FROM, count)
    return scores(lambda images: torch.cat(reader(images), 1), pictures, torch.cat([place, read], 1), PLACED + READ)


def scores(guess: Callable[[Tensor], Tensor], pictures: Tensor, truth: Tensor, names: Sequence[str]) -> Report:
    """R² of guess(images) [n, P] against the truth [N, P] of pictures uint8 [N, 3, 64, 64], clean and spoilt."""
    rng = np.random.default_rng(1)
    report = {}
    for kind in ("clean", "degraded"):
        guesses = []
        for part in pictures.split(64):  # `spoil` leaves the second half sharp
            images = shrink(part) if kind == "clean" else spoil(torch.cat([part, part]), rng)[: len(part)]
            guesses.append(guess(images))
        score = 1 - (torch.cat(guesses) - truth).square().mean(0) / truth.var(0)
        report[kind] = {name: round(float(s), 3) for name, s in zip(names, score, strict=True)}
    return report


def save(network: nn.Module, output: Path, people: int, pictures: int) -> Report:
    """Write the weights in half precision, measured as they will be read back."""
    reader = Reader()
    reader.load_state_dict(network.state_dict())
    return write(reader, r2, output, {"people": people, "pictures": pictures, "ranges": RANGES})


N = TypeVar("N", bound=nn.Module)


def write(network: N, r2: Callable[[N], Report], output: Path, facts: dict[str, object]) -> Report:
    """Round a network to half precision, measure it so, and write it with its R² and the facts in the metadata."""
    from safetensors.torch import save_file

    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()
    report = r2(network)
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    partial = output.with_suffix(".part")
    save_file(state, partial, {key: json.dumps(value) for key, value in ({"r2": report} | facts).items()})
    partial.chmod(0o644)
    partial.replace(output)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="processor time")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(train(arguments.minutes, arguments.output), indent=1))


if __name__ == "__main__":
    main()
