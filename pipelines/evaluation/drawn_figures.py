"""What the drawn pairs tell: errors between controls, transfer, leakage, placement, interpolation, loss gaps (I6)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.evaluation import probes
from pipelines.evaluation.drawn import EMOTION as EXPRESSION
from pipelines.evaluation.transfer import METHODS, SHARES, TIMES
from xnemo.metrics import intervals, transfer
from xnemo.metrics.identity import cosines
from xnemo.synthetic.cross_pairs import NAMES
from xnemo.synthetic.identity import IDENTITY
from xnemo.synthetic.measure_identity import CONFOUNDED, readable

Made = Mapping[str, np.ndarray]
POSE = ("pitch", "yaw", "roll")
PLACE = ("x", "y", "log_scale")
HEADLINE = (*POSE, "jaw", "smile", "blink_left", "blink_right")  # what the mean α and β of the gates are over
RTS = ("down", "right", "scale")  # f_rts in its stored order


def figures(made: Made, seed: int = 0) -> dict[str, Any]:
    """Everything that is reported of the pairs, as numbers and intervals ({mean, low, high, count})."""
    count = len(made["true/motion"])
    per_pair = {method: pair_figures(made, method) for method in METHODS}
    means = {m: {k: vars(intervals.mean(v.tolist(), seed)) for k, v in each.items()} for m, each in per_pair.items()}
    for method in METHODS:
        for name in ("aed", "apd"):
            copied = means["copy-reference"][name]["mean"]
            means[method][f"nme_{name}"] = {"mean": means[method][name]["mean"] / max(copied, 1e-9)}
    drawn = draws(made, intervals.resamples(count, transfer.DRAWS, seed))
    gates = {name: vars(intervals.of_draws(each, count)) for name, each in drawn.items()}
    gates["gap_late"] |= {"p": float((drawn["gap_late"][1:] <= 0).mean())}  # one-sided, of the bootstrap
    return {
        "pairs": count, "methods": means,
        "motion": {method: _fits(made, method, "motion", seed) for method in METHODS},
        "identity": {method: _fits(made, method, "identity", seed) for method in METHODS},
        "placement": placement(made, seed),
        "interpolation": interpolation(made["line/motion"], made["true/motion"] - made["portrait/motion"]),
        "gaps": {
            name: {str(t): vars(intervals.mean(made[f"gap/{name}"][:, i].tolist(), seed)) for i, t in enumerate(TIMES)}
            for name in ("motion", "swap", "identity")
        },
        "probes": probes.figures({k.removeprefix("probe/"): v for k, v in made.items() if k.startswith("probe/")}),
        "readable_traits": [IDENTITY[place] for place in readable()], "intervals": gates,
        **{name: gates[name]["mean"] for name in ("alpha", "beta", "identity_beta")},
    }  # fmt: skip


def draws(made: Made, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The model's headline figures [D] for each row of counts [D, N]: means over pairs, mean coefficients, and NME.

    identity_beta is over the readable traits, confounded_beta over those of them that motion imitates.
    """
    columns, total = pair_figures(made, "model"), counts.sum(1)
    found = {name: counts @ columns[name] / total for name in ("id_sim", "id_leak", "aed", "apd", "nie", "psnr")}
    motion = np.stack([_slopes(made, "model", name, "motion", counts) for name in HEADLINE])  # [K, D, 2]
    found |= {"alpha": motion[..., 0].mean(0), "beta": motion[..., 1].mean(0)}
    traits = [IDENTITY[place] for place in readable()]
    leaks = np.stack([_slopes(made, "model", name, "identity", counts)[:, 1] for name in traits])
    found["identity_beta"] = leaks.mean(0)
    found["confounded_beta"] = leaks[[name in CONFOUNDED for name in traits]].mean(0)
    at = [NAMES.index(name) for name in HEADLINE]
    error, copied = (np.abs(made[f"{m}/motion"] - made["true/motion"])[:, at] for m in ("model", "copy-reference"))
    found["nme_motion"] = ((counts @ error) / np.maximum(counts @ copied, 1e-9)).mean(1)
    other = np.roll(made["portrait/read"], 1, 0)  # another pair's portrait, read from its picture
    stranger = np.abs(other - made["portrait/identity"])[:, readable()].mean(1)
    found["nme_identity"] = (counts @ columns["nie"]) / np.maximum(counts @ stranger, 1e-9)
    if "gap/motion" in made:
        late = [i for i, t in enumerate(TIMES) if t >= 500]
        found["gap_late"] = counts @ made["gap/motion"][:, late].mean(1) / total
    return found


def placement(made: Made, seed: int) -> dict[str, Any]:
    """f_rts as measured on f_rts as commanded: slope and interval per axis, for the model and the true picture; and the
    mean distance of the measured one from (0, 0, 1) where that was commanded. "reading": of the portrait itself."""
    asked = made["f_rts/asked"]
    counts = intervals.resamples(len(asked), transfer.DRAWS, seed)
    told: dict[str, Any] = {}
    for who in ("model", "renderer oracle"):
        told[who] = {
            axis: vars(
                intervals.of_draws(transfer.slopes(made[f"f_rts/{who}"][:, i], asked[:, i : i + 1], counts)[:, 0],
                                   len(asked))
            )
            for i, axis in enumerate(RTS)
        }  # fmt: skip
    for who, kind in (("still", "still"), ("copy-reference", "reading")):
        away = np.abs(made[f"f_rts/{who}"] - [0.0, 0.0, 1.0])
        told[kind] = {axis: vars(intervals.mean(away[:, i].tolist(), seed)) for i, axis in enumerate(RTS)}
    moved = np.abs(asked - [0.0, 0.0, 1.0])
    told["commanded"] = {axis: vars(intervals.mean(moved[:, i].tolist(), seed)) for i, axis in enumerate(RTS)}
    return told


def interpolation(line: np.ndarray, asked: np.ndarray) -> dict[str, dict[str, float]]:
    """What parameters [N, S, 16] do from the portrait's own code to the driver's, who differ by asked [≥ N, 16].

    linear: R² of a straight line through each pair's readings, pooled. monotone: share of the steps that go towards
    the reading at the driver's end, of the pairs whose ends differ more than the median pair's do (chance: ½ and
    somewhat more, since the ends are readings themselves). reach: slope of what the ends differ by on what was asked.
    """
    share, told = np.array(SHARES) - np.mean(SHARES), {}
    for name in HEADLINE:
        read, wanted = line[:, :, NAMES.index(name)], asked[: len(line), NAMES.index(name)]
        centred = read - read.mean(1, keepdims=True)
        slope = centred @ share / (share @ share)
        left, whole = ((centred - slope[:, None] * share) ** 2).sum(), (centred**2).sum()
        ends = read[:, -1] - read[:, 0]
        wide = np.abs(ends) >= np.median(np.abs(ends))
        steps = np.diff(read, axis=1)[wide] * np.sign(ends[wide])[:, None] > 0
        told[name] = {
            "linear": float(1 - left / max(whole, 1e-12)),
            "monotone": float(steps.mean()),
            "reach": float(ends @ wanted / max(wanted @ wanted, 1e-12)),
        }
    return told


def pair_figures(made: Made, method: str) -> dict[str, np.ndarray]:
    """Per pair [N]: AED*, APD*, NIE, ID-SIM* to portrait and driver, and distance to the true picture."""
    traits = readable()
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


def per_pair(made: Made, seed: int = 0) -> list[dict[str, Any]]:
    """One row per pair with the model's own figures, for comparing runs."""
    columns = pair_figures(made, "model")
    count = len(made["true/motion"])
    return [{"id": f"pair-{seed}.{i:04}"} | {name: float(v[i]) for name, v in columns.items()} for i in range(count)]


def to_csv(made: Made) -> str:
    """The raw figures: a line per pair and method, parameters as measured, as true, and as the portrait has them."""
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


def _fits(made: Made, method: str, kind: str, seed: int) -> dict[str, dict[str, float]]:
    """α and β of every reported parameter or trait, with intervals."""
    names: Sequence[str] = (*POSE, *EXPRESSION, *PLACE)
    if kind == "identity":
        names = list(dict.fromkeys([*(IDENTITY[place] for place in readable()), *CONFOUNDED]))
    return {name: vars(transfer.coefficients(*_columns(made, method, name, kind), seed=seed)) for name in names}


def _slopes(made: Made, method: str, name: str, kind: str, counts: np.ndarray) -> np.ndarray:
    """(α, β) [D, 2] of one parameter or trait."""
    measured, first, second = _columns(made, method, name, kind)
    return transfer.slopes(measured, np.stack([first, second], 1), counts)


def _columns(made: Made, method: str, name: str, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(as measured, what α is on, what β is on): motion on driver and portrait, identity on portrait and driver."""
    if kind == "motion":
        at, on = NAMES.index(name), ("true/motion", "portrait/motion")
    else:
        at, on = IDENTITY.index(name), ("portrait/identity", "driver/identity")
    return made[f"{method}/{kind}"][:, at], made[on[0]][:, at], made[on[1]][:, at]
