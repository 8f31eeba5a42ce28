"""What the motion tokenizer and generator are worth, on drawn heads that no training saw (paper: appendix D).

Four questions, each between controls: how much the tokenizer costs, whether invented motion is distributed and moves
like real motion, whether an asked emotion is recognised, and whether interpolation goes straight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.evaluation.studio import Studio, Subject
from pipelines.motions import ClipMotion
from xnemo.errors import XNeMoError
from xnemo.synthetic.codes import draw, drawn_motion
from xnemo.synthetic.measure import Measurement, measure
from xnemo.synthetic.motion import EMOTIONS, MOTION
from xnemo.tokens import quality
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.interpolate import Key, interpolate
from xnemo.tokens.motion_file import Motion, still_rts
from xnemo.tokens.outpaint import outpaint_motion
from xnemo.tokens.quality import LabelReader
from xnemo.tokens.vqvae import MotionTokenizer, code_report

TRACKS = ("roll", "yaw", "pitch", "jaw", "smile", "blink_left", "brow_left")
POSES = ("roll", "yaw", "pitch")
WINDOW, STRIDE, PIECE, LAG = 16, 4, 4, 5  # frames
GUIDANCE = 2.0  # of emotions
NAMES = tuple(EMOTIONS)
FAR = 8.0  # degrees between two key poses: shorter ways drown in the measuring error
SPARE = 3  # other heads that may take a place
SCHOOL, CLASS = 20_000_000, 40  # identities whose pictures teach what an emotion looks like: first seed, per emotion

OTHER = 1_000_000  # a head that does the motion: this much further than the one it was taken from

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Models:
    """What is measured, and the motions it was trained on."""

    studio: Studio
    tokenizer: MotionTokenizer
    generator: MotionGenerator
    known: Sequence[ClipMotion]
    single: MotionTokenizer | None = None  # one with one code a step, to compare

    def invent(self, frames: int, seed: int, prefix: Motion | None = None, **options: Any) -> Motion:
        """`frames` new frames, after the prefix where there is one."""
        done = len(prefix) if prefix else 0
        return outpaint_motion(self.tokenizer, self.generator, prefix, done + frames, seed, **options).part(
            done, done + frames
        )


@torch.no_grad()
def coded(tokenizer: MotionTokenizer, motion: Motion) -> Motion:
    """Through a tokenizer and back; frames that fill no time step are dropped."""
    usable = motion.part(0, len(motion) // tokenizer.config.factor * tokenizer.config.factor)
    f_mot = torch.from_numpy(usable.f_mot)[None]
    return replace(usable, f_mot=tokenizer.decode(tokenizer.encode(f_mot))[0].numpy())


def cast(studio: Studio, count: int, strong: int, frames: int, seed: int) -> list[Subject]:
    """`count` heads; emotions take turns, the first `strong` act at intensity 3, the others at 1 and 2. A head whose
    face is lost while it acts makes room for another."""

    def film(i: int) -> Subject:
        emotion, intensity = NAMES[i % len(NAMES)], 3 if i < strong else 1 + i // len(NAMES) % 2
        for other in range(SPARE):
            with contextlib.suppress(XNeMoError):
                return studio.film(seed + i + other * count, frames, emotion, intensity)
        return studio.film(seed + i + SPARE * count, frames, emotion, intensity)

    return [film(i) for i in range(count)]


def distances(models: Models, subjects: Sequence[Subject], sampling: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fréchet distances of windows of f_mot to the real ones: each real clip is cut, and its second part is compared
    with what the generator, or a control, makes of the first. "movement" is of windows less their own mean.

    sampling: options of `outpaint_motion` to compare; the first are the default."""
    rng = np.random.default_rng(0)
    cut = len(subjects[0].motion) * 2 // 5 // 4 * 4
    prefixes = [each.motion.part(0, cut) for each in subjects]
    real = [each.motion.f_mot[cut:] for each in subjects]
    steps = np.concatenate([np.diff(clip.f_mot, axis=0) for clip in models.known])
    sets = {"real, other identities": [clip.f_mot[cut:] for clip in models.known if len(clip.f_mot) >= cut + WINDOW]}
    sets["real, through the tokenizer"] = [coded(models.tokenizer, each.motion).f_mot[cut:] for each in subjects]
    for options in sampling:
        name = ", ".join(f"{key} {value:g}" for key, value in options.items())
        sets[f"generated, {name}"] = [
            models.invent(len(clip), i, prefix, **options).f_mot
            for i, (clip, prefix) in enumerate(zip(real, prefixes, strict=True))
        ]
    sets["last frame repeated"] = [np.repeat(p.f_mot[-1:], len(c), 0) for p, c in zip(prefixes, real, strict=True)]
    sets["windows shuffled"] = [shuffled(p.f_mot, len(c), rng) for p, c in zip(prefixes, real, strict=True)]
    sets["random walk"] = [walk(p.f_mot[-1], steps, len(c), rng) for p, c in zip(prefixes, real, strict=True)]
    whole, movement = (quality.windows(real, WINDOW, STRIDE, centred=centred) for centred in (False, True))
    speed = np.mean([_code_speed(clip) for clip in real])
    return {"summary": {
        name: {
            "frechet": quality.frechet(whole, quality.windows(each, WINDOW, STRIDE)),
            "movement": quality.frechet(movement, quality.windows(each, WINDOW, STRIDE, centred=True)),
            "speed": float(np.mean([_code_speed(clip) for clip in each]) / speed),
        }
        for name, each in sets.items()
    }}  # fmt: skip


def shuffled(f_mot: Array, frames: int, rng: np.random.Generator) -> Array:
    """Windows of PIECE frames of a motion [T,D] in any order: [frames,D]."""
    starts = PIECE * rng.integers(0, len(f_mot) // PIECE, -(-frames // PIECE))
    return np.concatenate([f_mot[start : start + PIECE] for start in starts])[:frames]


def walk(start: Array, steps: Array, frames: int, rng: np.random.Generator) -> Array:
    """From `start` [D] with real steps [N,D] in any order: [frames,D]."""
    return start + np.cumsum(steps[rng.integers(0, len(steps), frames)], axis=0)


def _code_speed(f_mot: Array) -> float:
    return float(np.linalg.norm(np.diff(f_mot, axis=0), axis=1).mean())


def performances(models: Models, subjects: Sequence[Subject], controls: int) -> dict[str, list[Motion]]:
    """Each kind of motion, the head kept in its place: `real`, `tokens` and `generated` (from nothing, of the
    subject's emotion) of all subjects; controls for the first ones."""
    rng, real = np.random.default_rng(0), [_still(each.motion) for each in subjects]
    steps = np.concatenate([np.diff(clip.f_mot, axis=0) for clip in models.known])

    def control(of: Callable[[Array], Array]) -> list[Motion]:
        return [replace(motion, f_mot=of(motion.f_mot)) for motion in real[:controls]]

    found = {
        "real": real,
        "tokens": [coded(models.tokenizer, motion) for motion in real],
        "generated": [
            models.invent(
                len(each.motion), each.seed, emotion=each.emotion, intensity=each.intensity, guidance=GUIDANCE
            )
            for each in subjects
        ],
        "last frame repeated": control(lambda f_mot: np.repeat(f_mot[-1:], len(f_mot), 0)),
        "windows shuffled": control(lambda f_mot: shuffled(f_mot, len(f_mot), rng)),
        "random walk": control(lambda f_mot: walk(f_mot[0], steps, len(f_mot), rng)),
    }
    return found | ({"one code a step": [coded(models.single, motion) for motion in real]} if models.single else {})


def pictured(
    studio: Studio, subjects: Sequence[Subject], motions: Mapping[str, Sequence[Motion]]
) -> dict[str, list[Measurement]]:
    """What is measured on pictures of another unseen head that does these motions."""
    return {
        kind: [
            measure(studio.draw(each.seed + OTHER, motion))
            for each, motion in zip(subjects, motions_of_kind, strict=False)
        ]
        for kind, motions_of_kind in motions.items()
    }


def _still(motion: Motion) -> Motion:
    return replace(motion, f_rts=still_rts(len(motion)))


@torch.no_grad()
def codebook(tokenizer: MotionTokenizer, subjects: Sequence[Subject]) -> dict[str, Any]:
    """Of unseen motion: normalised RMSE after decoding (1 is the mean's), perplexity and share of the codes used."""
    squares, ids = [], []
    for each in subjects:
        after = coded(tokenizer, each.motion).f_mot
        squares.append(np.square((after - each.motion.f_mot[: len(after)]) / tokenizer.std.numpy()).mean())
        ids.append(tokenizer.encode(torch.from_numpy(each.motion.f_mot[None, : len(after)])).flatten())
    report = {name: float(value) for name, value in code_report(torch.cat(ids), tokenizer.config.codes).items()}
    return {"summary": {"nrmse": float(np.sqrt(np.mean(squares))), "codes": tokenizer.config.codes, **report}}


def reconstruction(subjects: Sequence[Subject], seen: Mapping[str, Sequence[Measurement]]) -> dict[str, Any]:
    """Error of what is measured against the truth (means removed), without a tokenizer and with one, or two."""
    kinds = [kind for kind in ("real", "tokens", "one code a step") if kind in seen]
    rows = [
        {name: {kind: _error(getattr(seen[kind][i], name), each.truth[name]) for kind in kinds} for name in TRACKS}
        for i, each in enumerate(subjects)
    ]
    summary = {name: {kind: float(np.mean([row[name][kind] for row in rows])) for kind in kinds} for name in TRACKS}
    return {"summary": summary, "rows": rows}


def _error(track: Array, truth: Array) -> float:
    wanted = truth[: len(track)]
    return float(np.abs((track - track.mean()) - (wanted - wanted.mean())).mean())


def liveliness(subjects: Sequence[Subject], seen: Mapping[str, Sequence[Measurement]]) -> dict[str, Any]:
    """Per parameter and kind of motion: mean speed (unit per frame), how far its distribution is from the real one's,
    and autocorrelation over LAG frames; of the eyes, blinks per minute."""
    tracks = {kind: {name: [getattr(m, name) for m in each] for name in TRACKS} for kind, each in seen.items()}
    tracks["truth"] = {name: [each.truth[name] for each in subjects] for name in TRACKS}
    summary: dict[str, Any] = {}
    rows: dict[str, Any] = {}  # per clip: speed, autocorrelation
    for name in TRACKS:
        speeds = {kind: np.concatenate([np.abs(np.diff(t)) for t in each[name]]) for kind, each in tracks.items()}
        rows[name] = {
            kind: [[quality.speed(track), quality.autocorrelation(track, LAG)] for track in each[name]]
            for kind, each in tracks.items()
        }
        summary[name] = {
            kind: {
                "speed": float(speeds[kind].mean()),
                "apart": quality.speeds_apart(speeds["real"], speeds[kind]),
                "autocorrelation": float(np.mean(rows[name][kind], axis=0)[1]),
            }
            for kind in tracks
        }
    summary["blinks"] = {
        kind: float(np.mean([quality.blinks(t, 25.0) for t in each["blink_left"]])) for kind, each in tracks.items()
    }
    return {"summary": summary, "rows": rows}


def emotions(
    models: Models,
    subjects: Sequence[Subject],
    motions: Mapping[str, Sequence[Motion]],
    seen: Mapping[str, Sequence[Measurement]],
) -> dict[str, Any]:
    """How often the asked emotion is recognised, from codes and from pictures; what is real is the ceiling.

    Codes: a linear reader of a clip's mean and deviation, taught by the training clips. Pictures: one of the measured
    parameters, taught by the renderer's own pictures of other people. `subjects` act at intensity 3.
    """
    labels, kinds = [each.emotion for each in subjects], ("real", "tokens", "generated")
    known, rows = [clip for clip in models.known if clip.emotion in NAMES], {"asked": labels}
    codes: dict[str, float] | str = "the training motions bear no emotions: ingest their clips with --dataset synthetic"
    if len({clip.emotion for clip in known}) > 1:
        reader = LabelReader.fit(np.stack([_facts(c.f_mot) for c in known]), [c.emotion for c in known])
        named = {kind: reader.read(np.stack([_facts(m.f_mot) for m in motions[kind]])) for kind in kinds}
        codes = {kind: _agreement(names, labels) for kind, names in named.items()}
        rows |= {f"codes, {kind}": names for kind, names in named.items()}
    reader = LabelReader.fit(*_school(SCHOOL, CLASS))
    looks, names_of_looks = _school(SCHOOL + 10_000, CLASS // 4)
    named = {kind: reader.read(np.stack([_look(m) for m in seen[kind]])) for kind in kinds}
    pictures = {kind: _agreement(names, labels) for kind, names in named.items()}
    pictures["renderer"] = _agreement(reader.read(looks), names_of_looks)
    rows |= {f"pictures, {kind}": names for kind, names in named.items()}
    summary = {"chance": 1 / len(NAMES), "clips": len(subjects), "codes": codes, "pictures": pictures}
    return {"summary": summary, "rows": rows}


def _agreement(names: Sequence[str], labels: Sequence[str]) -> float:
    return float(np.mean([name == label for name, label in zip(names, labels, strict=True)]))


def _facts(f_mot: Array) -> Array:
    return np.concatenate([f_mot.mean(0), f_mot.std(0)])


def _look(seen: Measurement) -> Array:
    """Mean and deviation of what tells an emotion: [2·parameters]."""
    values = np.stack([getattr(seen, name) for name in MOTION if name != "roll"])
    return np.concatenate([values.mean(1), values.std(1)])


def _school(seed: int, per_emotion: int) -> tuple[Array, list[str]]:
    """What is measured on the renderer's pictures of people acting at intensity 3, and which emotion it is."""
    labels = [name for _ in range(per_emotion) for name in NAMES]
    looks = []
    for i, name in enumerate(labels):
        motion = drawn_motion(seed + i, 80, name, 3)
        few = replace(motion, f_mot=motion.f_mot[::8], f_rts=motion.f_rts[::8])
        looks.append(_look(measure(draw(seed + i, few, 64))))
    return np.stack(looks), labels


def paths(models: Models, subjects: Sequence[Subject]) -> dict[str, Any]:
    """Monotony and linearity of measured pose on the way between the same moment of two people's clips."""
    rows, moment = [], 1.0
    for index, each in enumerate(subjects):
        other = subjects[(index + 1) % len(subjects)]
        keys = [Key(_still(one.motion), moment) for one in (each, other)]
        seen = measure(models.studio.draw(each.seed + OTHER, interpolate(keys, 24)))
        at = round(moment * 25)
        rows.append({
            name: [other.truth[name][at] - each.truth[name][at], quality.monotony(getattr(seen, name)),
                   quality.linearity(getattr(seen, name))]
            for name in POSES
        })  # fmt: skip
    summary = {}
    for name in POSES:
        far = [row[name] for row in rows if abs(row[name][0]) > FAR]
        figures = np.mean(far, axis=0) if far else np.zeros(3)
        summary[name] = {"paths": len(far), "monotony": float(figures[1]), "linearity": float(figures[2])}
    return {"summary": summary, "rows": rows}
