"""What the motion tokenizer and generator are worth, on drawn heads that no training saw.

    python -m jobs.motion_evidence --motions motions/ --output docs/evidence/

`--motions` holds the codes of the training clips (`xnemo motion extract --dataset`); the model, tokenizer and
generator are the bundled ones unless named. Writes motion.json (raw) and prints its summary.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.cli import run
from pipelines.evaluate import UNSEEN
from pipelines.models import load, locate
from pipelines.motions import ClipMotion, read_motions
from xnemo.animation import animate, encode_driving
from xnemo.model import XNeMo
from xnemo.prepare import prepare_driving
from xnemo.synthetic import clips
from xnemo.synthetic.measure import Measurement, measure
from xnemo.tokens import quality
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.interpolate import Key, interpolate
from xnemo.tokens.motion_file import Motion, still_rts
from xnemo.tokens.outpaint import outpaint_motion
from xnemo.tokens.vqvae import MotionTokenizer
from xnemo.tokens.weights import load_generator, load_tokenizer

POSES = ("roll", "yaw", "pitch")  # what f_mot steers; x, y and scale come from f_rts
WINDOW, STRIDE = 16, 4
Array = NDArray[np.floating[Any]]


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser("python -m jobs.motion_evidence", description=__doc__)
    options.add_argument("--motions", required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--clips", type=int, default=8)
    for part in ("model", "tokenizer", "generator"):
        options.add_argument(f"--{part}", default="bundled")
    given = options.parse_args(argv)
    torch.set_num_threads(1)  # drawing is faster so
    model = load(locate(given.model))
    tokenizer = load_tokenizer(locate(given.tokenizer, "tokenizer"))
    generator = load_generator(locate(given.generator, "generator"))
    known = [clip for clip in read_motions(str(Path(given.motions).resolve())) if len(clip.f_mot) >= WINDOW]
    with TemporaryDirectory() as scratch:
        drawn = [_driver(model, Path(scratch), UNSEEN + 300 + 2 * index) for index in range(given.clips)]
        found = {
            "tokenizer": reconstruction(model, tokenizer, drawn),
            "generator": invention(tokenizer, generator, known, given.clips),
            "rendered": liveliness(model, tokenizer, generator, drawn),
            "emotion": emotion(tokenizer, generator, known),
            "interpolation": paths(model, drawn),
        }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "motion.json").write_text(json.dumps(found, indent=1))
    print(json.dumps({name: part["summary"] for name, part in found.items()}, indent=1))
    return 0


@dataclass(frozen=True, eq=False)
class Drawn:
    """A portrait, the motion of another head's clip, and that clip's truth."""

    portrait: Path
    motion: Motion
    truth: dict[str, list[float]]


def _driver(model: XNeMo, folder: Path, seed: int) -> Drawn:
    portrait = clips.portrait(folder / f"{seed}.png", seed, 256)
    driver = clips.write_clip(folder / f"{seed}.mp4", seed + 1, seed + 1, 2.56, 256)
    truth = json.loads(driver.with_suffix(".json").read_text())["tracks"]
    return Drawn(portrait, encode_driving(model, prepare_driving(driver)), truth)


def _measured(model: XNeMo, portrait: Path, motion: Motion) -> Measurement:
    return measure(animate(model, portrait, motion, steps=10, seed=0).frames)


def reconstruction(model: XNeMo, tokenizer: MotionTokenizer, drawn: list[Drawn]) -> dict[str, Any]:
    """Error of rendered pose against the driver's truth (means removed), with and without the tokenizer."""
    rows = []
    for each in drawn:
        codes = torch.from_numpy(each.motion.f_mot)
        with torch.no_grad():
            coded = tokenizer.decode(tokenizer.encode(codes[None]))[0, : len(codes)].numpy()
        short = each.motion.part(0, len(coded))
        plain = _measured(model, each.portrait, short)
        tokens = _measured(model, each.portrait, replace(short, f_mot=coded))
        rows.append({
            name: [_error(getattr(way, name), each.truth[name]) for way in (plain, tokens)] for name in POSES
        })  # fmt: skip
    summary = {}
    for name in POSES:
        plain_error, token_error = np.mean([row[name] for row in rows], axis=0)
        summary[name] = {"plain": plain_error, "tokens": token_error, "ratio": token_error / plain_error}
    return {"summary": summary, "rows": rows}


def _error(track: Array, truth: list[float]) -> float:
    wanted = np.asarray(truth[: len(track)])
    return float(np.abs((track - track.mean()) - (wanted - wanted.mean())).mean())


def invention(
    tokenizer: MotionTokenizer, generator: MotionGenerator, known: list[ClipMotion], count: int
) -> dict[str, Any]:
    """Fréchet distance of windows of f_mot to held-out real ones: generated, and controls."""
    real, held_out = known[::2], known[1::2]
    rng = np.random.default_rng(0)
    windows = quality.windows([clip.f_mot for clip in real], WINDOW, STRIDE)
    invented = [outpaint_motion(tokenizer, generator, None, 100, seed).f_mot for seed in range(4 * count)]
    frozen = [np.repeat(clip.f_mot[-1:], len(clip.f_mot), 0) for clip in held_out]
    shuffled = [rng.permutation(clip.f_mot) for clip in held_out]
    steps = np.concatenate([np.diff(clip.f_mot, axis=0) for clip in real])
    walks = [
        clip.f_mot[:1] + np.cumsum(rng.permutation(steps)[: len(clip.f_mot)], axis=0) for clip in held_out[: 4 * count]
    ]
    sets = {"held-out real": [clip.f_mot for clip in held_out], "generated": invented, "last frame repeated": frozen,
            "frames shuffled": shuffled, "random walk": walks}  # fmt: skip
    summary = {name: quality.frechet(windows, quality.windows(each, WINDOW, STRIDE)) for name, each in sets.items()}
    return {"summary": summary}


def liveliness(
    model: XNeMo, tokenizer: MotionTokenizer, generator: MotionGenerator, drawn: list[Drawn]
) -> dict[str, Any]:
    """Speed (degrees a frame) and autocorrelation over 0.2 s of measured pose: real motion against invented."""
    rows = []
    for seed, each in enumerate(drawn):
        invented = outpaint_motion(tokenizer, generator, None, len(each.motion), seed)
        real = replace(each.motion, f_rts=still_rts(len(each.motion)))
        ways = {"real": _measured(model, each.portrait, real), "invented": _measured(model, each.portrait, invented)}
        rows.append({way: {name: [quality.speed(getattr(seen, name)), quality.autocorrelation(getattr(seen, name), 5)]
                           for name in POSES} for way, seen in ways.items()})  # fmt: skip
    summary = {
        name: {
            way: dict(zip(("speed", "autocorrelation"), np.mean([row[way][name] for row in rows], 0), strict=True))
            for way in ("real", "invented")
        }
        for name in POSES
    }
    return {"summary": summary, "rows": rows}


def emotion(tokenizer: MotionTokenizer, generator: MotionGenerator, known: list[ClipMotion]) -> dict[str, Any]:
    """Share of clips whose emotion a linear reader of the mean code names rightly: real ones it never saw, and
    generated ones. It can be no better than what the encoder keeps of expressions."""
    labels = sorted({clip.emotion for clip in known if clip.emotion})
    if len(labels) < 2:
        return {"summary": "not computed: these clips bear no emotions; ingest them with --dataset synthetic"}
    labelled = [clip for clip in known if clip.emotion]
    x = np.stack([clip.f_mot.mean(0) for clip in labelled])
    y = np.array([labels.index(clip.emotion) for clip in labelled])
    learn = np.arange(len(y)) % 4 != 0
    mean, deviation = x[learn].mean(0), x[learn].std(0) + 1e-6

    def features(codes: Array) -> Array:
        return np.concatenate([(codes - mean) / deviation, np.ones((len(codes), 1))], axis=1)

    a = features(x[learn])
    weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ np.eye(len(labels))[y[learn]])
    asked = [index for index in range(len(labels)) for _ in range(4)]
    made = [
        outpaint_motion(tokenizer, generator, None, 64, seed, emotion=labels[index], intensity=3).f_mot.mean(0)
        for seed, index in enumerate(asked)
    ]
    return {"summary": {
        "real": float(((features(x[~learn]) @ weights).argmax(1) == y[~learn]).mean()),
        "generated": float(((features(np.stack(made)) @ weights).argmax(1) == np.array(asked)).mean()),
        "chance": 1 / len(labels),
    }}  # fmt: skip


def paths(model: XNeMo, drawn: list[Drawn]) -> dict[str, Any]:
    """Monotony and linearity of measured pose on the way between two moments of different clips."""
    rows = []
    for index, each in enumerate(drawn):
        other = drawn[(index + 1) % len(drawn)]
        keys = [Key(replace(clip.motion, f_rts=still_rts(len(clip.motion))), 1.0) for clip in (each, other)]
        seen = _measured(model, each.portrait, interpolate(keys, 24))
        wanted = {name: other.truth[name][25] - each.truth[name][25] for name in POSES}
        rows.append({name: [wanted[name], quality.monotony(getattr(seen, name)), quality.linearity(getattr(seen, name))]
                     for name in POSES})  # fmt: skip
    summary = {}
    for name in POSES:
        far = [row[name] for row in rows if abs(row[name][0]) > 8]  # degrees: shorter ways drown in the measuring error
        figures = np.mean(far, axis=0) if far else np.zeros(3)
        summary[name] = {"paths": len(far), "monotony": float(figures[1]), "linearity": float(figures[2])}
    return {"summary": summary, "rows": rows}


if __name__ == "__main__":
    sys.exit(run(main))
