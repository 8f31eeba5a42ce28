"""The tables of drawn pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation import gates
from pipelines.evaluation.tables import Table

KINDS = {"id_sim": "ID-SIM* ↑", "id_leak": "to driver ↓", "nie": "NIE ↓", "aed": "AED* ↓", "apd": "APD* ° ↓",
         "nme_aed": "NME expr ↓", "nme_apd": "NME pose ↓", "psnr": "PSNR dB ↑", "ssim": "SSIM ↑"}  # fmt: skip
PROBES = {"motion_r2": "R² motion ↑", "identity_r2": "R² identity ↓", "retrieval": "retrieval of 64 people ↓",
          "invariance": "invariance ρ ↓"}  # fmt: skip


def transfer_tables(figures: Mapping[str, Any]) -> list[Table]:
    """The drawn pairs: gates, methods, coefficients, leakage, placement, interpolation, gaps, probes."""
    return [
        gates.table(figures),
        gates.half_hour(figures),
        _methods(figures["methods"], figures["pairs"]),
        _coefficients(figures["motion"], ("α", "β"), "Transfer: measured = α driver + β portrait + c", "parameter",
                      "α = 1, β = 0 is perfect; the oracle's α is what the measuring network can show."),
        _coefficients(figures["identity"], ("α'", "β' (leak)"), "Identity: measured = α' portrait + β' driver + c",
                      "trait", "The last rows are confounded with motion on purpose. Where the oracle's α' is low a "
                      "trait is not read."),
        _placement(figures["placement"]),
        _interpolation(figures["interpolation"]),
        _gaps(figures["gaps"]),
        _probes(figures["probes"]),
    ]  # fmt: skip


def steadiness(figures: Mapping[str, Mapping[str, float]]) -> Table:
    """Mean |second difference| per frame of the clips' parameters, with the temporal modules and without."""
    rows = tuple((name, *(f"{value:.4g}" for value in each.values())) for name, each in figures.items())
    return Table(
        "Steadiness of the clips: mean |Δ²| of measured parameters per frame",
        ("parameter", "with temporal modules", "without", "the driver, measured"),
        rows,
        "Without: the same clips with the temporal modules switched off. Nearer to the driver is better. Where both "
        "are the same, the model's temporal modules are untrained.",
    )


def _methods(methods: Mapping[str, Any], count: int) -> Table:
    rows = tuple((name, *(f"{methods[name][kind]['mean']:.3f}" for kind in KINDS)) for name in methods)
    note = "PSNR and SSIM are to the true picture; copying the reference does well there: no proof alone."
    return Table(f"Errors on {count} drawn pairs, between four controls", ("method", *KINDS.values()), rows, note)


def _coefficients(fits: Mapping[str, Any], names: tuple[str, str], title: str, what: str, note: str) -> Table:
    oracle = fits["renderer oracle"]
    rows = tuple(
        (name, _interval(c, "alpha"), _interval(c, "beta"), f"{oracle[name]['alpha']:.2f}")
        for name, c in fits["model"].items()
    )
    return Table(title, (what, *names, f"{names[0]} of the oracle"), rows, note)


def _placement(told: Mapping[str, Any]) -> Table:
    """How the head follows f_rts."""
    rows = tuple(
        (
            axis,
            f"{slope['mean']:.2f} ({slope['low']:.2f} to {slope['high']:.2f})",
            f"{told['renderer oracle'][axis]['mean']:.2f}",
            *(f"{told[kind][axis]['mean']:.3f}" for kind in ("still", "reading", "commanded")),
        )
        for axis, slope in told["model"].items()
    )
    return Table(
        "Placement: the box of the result against the commanded f_rts",
        ("axis", "slope", "of the oracle", "away at (0, 0, 1)", "reading error", "mean command"),
        rows,
        "Slope 1 is perfect. Away at (0, 0, 1): how far the box leaves the portrait's when it shall stay, in its sides;"
        " the reading error is what is measured on the portrait itself, the mean command what the other pairs ask for.",
    )


def _interpolation(told: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, *(f"{each[kind]:.2f}" for kind in ("reach", "monotone", "linear"))) for name, each in told.items()
    )
    return Table(
        "Interpolation of f_mot, from the portrait's own to the driver's",
        ("parameter", "reach ↑", "monotone steps ↑", "R² of a line ↑"),
        rows,
        "Five readings per pair. Reach: share of the asked change that is seen at the driver's end (α of an expression "
        "that goes all the way is 1). A parameter that does not follow has no meaning in the other columns.",
    )


def _gaps(gaps: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, *(f"{gap['mean']:.4f} ({gap['low']:.4f} to {gap['high']:.4f})" for gap in each.values()))
        for name, each in gaps.items()
    )
    times = tuple(f"t = {t}" for t in next(iter(gaps.values())))
    note = "motion and identity should be above 0, swap (the same motion on another person) about 0."
    return Table("Loss gaps: false condition less true one", ("condition", *times), rows, note)


def _probes(told: Mapping[str, Any]) -> Table:
    rows = tuple((who, *(f"{each[k]:.3f}" if k in each else "" for k in PROBES)) for who, each in told.items())
    note = (
        "Ridge regression on one half of the people, told on the other; pixels: as many principal axes of the crops as "
        "the code has numbers; supervised: the measuring network, tuned on the same crops: the ceiling, since one "
        "picture does not tell all. ρ: distance of two people in one motion over that of one person in two."
    )
    return Table("Probes on f_mot", ("code", *PROBES.values()), rows, note)


def _interval(c: Mapping[str, float], kind: str) -> str:
    return f"{c[kind]:.2f} ({c[f'{kind}_low']:.2f} to {c[f'{kind}_high']:.2f})"
