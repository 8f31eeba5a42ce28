"""The README's pictures: what the bundled models do, on drawn heads that no training saw.

    python -m jobs.gallery -o docs/gallery/

Everything is a function of the seeds below and of the bundled weights, so anyone can make them again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.cli import run
from pipelines.evaluate import UNSEEN
from pipelines.models import load, locate
from xnemo.animation import animate, encode_driving
from xnemo.media.images import read_image, resize, write_image
from xnemo.media.video import read_frames
from xnemo.model import XNeMo
from xnemo.prepare import prepare_driving
from xnemo.synthetic import clips
from xnemo.synthetic.motion import EMOTIONS
from xnemo.tokens.interpolate import Key, interpolate
from xnemo.tokens.motion_file import Motion
from xnemo.tokens.outpaint import outpaint_motion
from xnemo.tokens.weights import load_generator, load_tokenizer

Array = NDArray[np.uint8]
SIDE = 144
PORTRAITS = [UNSEEN + seed for seed in (7, 103, 111, 118)]
DRIVERS = [UNSEEN + seed for seed in (293, 236, 309)]  # whose heads stay in the picture


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser("python -m jobs.gallery", description=__doc__)
    options.add_argument("-o", "--output", type=Path, required=True)
    arguments = options.parse_args(argv)
    torch.set_num_threads(1)  # strokes are small: more threads only wait for each other
    model = load(locate("bundled"))
    with TemporaryDirectory() as scratch:
        drawn = Drawn(Path(scratch))
        for name, picture in {
            "strip": strip(model, drawn),
            "emotions": emotions(model, drawn),
            "outpainted": outpainted(model, drawn),
            "interpolated": interpolated(model, drawn),
        }.items():
            arguments.output.mkdir(parents=True, exist_ok=True)
            write_image(arguments.output / f"{name}.jpg", picture)
            print(arguments.output / f"{name}.jpg", flush=True)
    return 0


class Drawn:
    """Portraits and drivers as files, drawn when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def portrait(self, seed: int) -> Path:
        return clips.portrait(self.folder / f"{seed}.png", seed, 256)

    def driver(self, seed: int, seconds: float = 2.0, emotion: str | None = None) -> Path:
        path = self.folder / f"{seed}-{emotion}.mp4"
        return clips.write_clip(path, seed, seed, seconds, 256, emotion)


def strip(model: XNeMo, drawn: Drawn) -> Array:
    """Portraits (left column) × moments of drivers (top row)."""
    columns, rows = [], [[read_image(drawn.portrait(seed))] for seed in PORTRAITS]
    for seed in DRIVERS:
        driver = drawn.driver(seed)
        truth = read_frames(driver)
        moments = _far_apart(truth)
        columns += [truth[i] for i in moments]
        for portrait, row in zip(PORTRAITS, rows, strict=True):
            frames = _frames(model, drawn.portrait(portrait), driver)
            row += [frames[min(i, len(frames) - 1)] for i in moments]
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    return _grid([[blank, *columns], *rows])


def emotions(model: XNeMo, drawn: Drawn) -> Array:
    """One driver acting each emotion (top), and what a portrait makes of it."""
    drivers = [drawn.driver(DRIVERS[0], 1.2, emotion) for emotion in EMOTIONS]
    portrait = drawn.portrait(PORTRAITS[0])
    made = [_frames(model, portrait, driver)[-1] for driver in drivers]
    return _grid([[read_frames(driver)[-1] for driver in drivers], made])


def outpainted(model: XNeMo, drawn: Drawn) -> Array:
    """A second of true motion, then four invented ones: a picture each half second."""
    prefix = encode_driving(model, prepare_driving(drawn.driver(DRIVERS[0], 1.2)))
    tokenizer, generator = (
        load_tokenizer(locate("bundled", "tokenizer")),
        load_generator(locate("bundled", "generator")),
    )
    longer = outpaint_motion(tokenizer, generator, prefix, round(5 * prefix.fps), seed=1)
    frames = _frames(model, drawn.portrait(PORTRAITS[1]), longer)
    return _grid([list(frames[:: len(frames) // 10][:10])])


def interpolated(model: XNeMo, drawn: Drawn) -> Array:
    """From one key expression to another, and on to a third."""
    motions = [encode_driving(model, prepare_driving(drawn.driver(seed))) for seed in DRIVERS]
    keys = [Key(motion, 1.0) for motion in motions]
    frames = _frames(model, drawn.portrait(PORTRAITS[2]), interpolate(keys, 10))
    return _grid([list(frames)])


def _frames(model: XNeMo, portrait: Path, driving: Path | Motion) -> Array:
    return animate(model, portrait, driving, seed=0).frames


def _far_apart(frames: Array) -> list[int]:
    """Two moments of a clip that differ most."""
    small = np.stack([resize(frame, 16, 16) for frame in frames[::5]]).astype(np.float32).reshape(len(frames[::5]), -1)
    distances = np.square(small[:, None] - small[None]).sum(-1)
    first, second = np.unravel_index(distances.argmax(), distances.shape)
    return sorted([5 * int(first), 5 * int(second)])


def _grid(rows: list[list[Array]]) -> Array:
    return np.concatenate([np.concatenate([resize(frame, SIDE, SIDE) for frame in row], axis=1) for row in rows])


if __name__ == "__main__":
    sys.exit(run(main))
