"""The figures of the motion models (`motion_models`) as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.motion_models import LAG, PIECE, POSES, TRACKS, WINDOW
from pipelines.evaluation.tables import Table

KINDS = ("truth", "real", "tokens", "generated", "last frame repeated", "windows shuffled", "random walk")


def page(found: Mapping[str, Any]) -> str:
    """Markdown."""
    head = (
        f"# Motion tokenizer and generator on unseen identities\n\n{found['clips']} drawn heads of {found['frames']} "
        f"frames; {found['drawn']} of them act at intensity 3, and their motions are put on other unseen heads and "
        "measured in the pictures. Seed 0 of each.\n\n"
    )
    tables = (_tokenizer(found), _distances(found), _liveliness(found), _emotions(found), _paths(found))
    return head + "\n".join(table.markdown() for table in tables)


def _tokenizer(found: Mapping[str, Any]) -> Table:
    figures = found["tokenizer"]["summary"]
    book = found["codebook"]["summary"]
    ways = [kind for kind in figures[TRACKS[0]] if kind != "real"]
    rows = tuple(
        (name, f"{f['real']:.3f}", *(f"{f[kind]:.3f} (×{f[kind] / f['real']:.2f})" for kind in ways))
        for name, f in figures.items()
    )
    return Table(
        "Through the tokenizer",
        ("parameter", "error without it", *ways),
        rows,
        "Mean absolute difference between what is measured in the pictures and the driver's truth, each clip's mean "
        "removed; degrees, or units of the range. At most ×1.30 is wanted. Normalised error of the codes "
        f"{book['nrmse']:.2f} (1 is the mean's), perplexity {book['perplexity']:.0f} of {book['codes']}, "
        f"{book['usage']:.0%} of them used.",
    )


def _distances(found: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, f"{f['frechet']:.4f}", f"{f['movement']:.4f}", f"{f['speed']:.2f}")
        for name, f in found["generator"]["summary"].items()
    )
    return Table(
        "Codes: distance to real motion",
        ("motion", "Fréchet ↓", "of the movement ↓", "speed, real = 1"),
        rows,
        f"Fréchet distance on windows of {WINDOW} frames of f_mot between the second parts of the unseen clips and "
        "what is made of their first parts. Of the movement: of windows less their own mean. Controls know "
        f"the first part only; shuffled are its windows of {PIECE} frames.",
    )


def _liveliness(found: Mapping[str, Any]) -> Table:
    figures = found["rendered"]["summary"]
    rows = [
        (
            name,
            *(
                f"{f['speed']:.3g} / {f['apart']:.2f} / {f['autocorrelation']:.2f}"
                for f in (figures[name][kind] for kind in KINDS)
            ),
        )
        for name in TRACKS
    ]
    rows.append(("blinks a minute", *(f"{figures['blinks'][kind]:.0f}" for kind in KINDS)))
    return Table(
        "Pictures: how it moves",
        ("parameter", *KINDS),
        tuple(rows),
        "Mean speed (degrees or units a frame) / distance of the distribution of speeds to the real one's, in its "
        f"mean / autocorrelation over {LAG} frames. truth is the driver's; real is measured where another head does "
        "his motion.",
    )


def _emotions(found: Mapping[str, Any]) -> Table:
    figures = found["emotion"]["summary"]
    rows = [
        (
            way,
            *(f"{values[kind]:.0%}" if kind in values else "" for kind in ("renderer", "real", "tokens", "generated")),
        )
        for way, values in ((way, figures[way]) for way in ("codes", "pictures"))
        if not isinstance(values, str)
    ]
    note = "" if isinstance(figures["codes"], Mapping) else f" Codes: {figures['codes']}."
    return Table(
        "Emotion: how often it is recognised",
        ("read from", "renderer's own pictures", "real motion", "through the tokenizer", "generated on request"),
        tuple(rows),
        f"Eight emotions, so chance is {figures['chance']:.1%}; {figures['clips']} clips of intensity 3. The reader of "
        "codes learnt from training clips, that of pictures from renders of other people. The ceiling of a generated "
        f"clip is what is read from real motion.{note}",
    )


def _paths(found: Mapping[str, Any]) -> Table:
    figures = found["interpolation"]["summary"]
    rows = tuple(
        (name, str(f["paths"]), f"{f['monotony']:.2f}", f"{f['linearity']:.2f}")
        for name in POSES
        for f in [figures[name]]
    )
    return Table(
        "Interpolation between key poses of two people",
        ("parameter", "paths", "monotony", "R² of a straight line"),
        rows,
        "Monotony: net change over the sum of all changes, 1 for a monotone track.",
    )
