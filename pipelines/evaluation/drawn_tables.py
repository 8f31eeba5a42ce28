"""The tables of drawn pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.tables import Table

def transfer_tables(figures: Mapping[str, Any]) -> list[Table]:
    """The drawn pairs: methods, coefficients, leakage, gaps, probes."""
    methods = figures["methods"]
    kinds = {"id_sim": "ID-SIM* ↑", "id_leak": "to driver ↓", "nie": "NIE ↓", "aed": "AED* ↓", "apd": "APD* ° ↓",
             "nme_aed": "NME expr ↓", "nme_apd": "NME pose ↓", "psnr": "PSNR dB ↑", "ssim": "SSIM ↑"}  # fmt: skip
    main = tuple((name, *(f"{methods[name][kind]['mean']:.3f}" for kind in kinds)) for name in methods)
    motion, oracle = figures["motion"]["model"], figures["motion"]["renderer oracle"]
    fits = tuple(
        (name, _fit(c, "alpha"), _fit(c, "beta"), f"{oracle[name]['alpha']:.2f}") for name, c in motion.items()
    )
    identity, floor = figures["identity"]["model"], figures["identity"]["renderer oracle"]
    leaks = tuple(
        (name, _fit(c, "alpha"), _fit(c, "beta"), f"{floor[name]['alpha']:.2f}") for name, c in identity.items()
    )
    gaps = tuple(
        (name, *(f"{gap['mean']:.4f} ({gap['low']:.4f} to {gap['high']:.4f})" for gap in each.values()))
        for name, each in figures["gaps"].items()
    )
    probes = tuple(
        (
            name,
            *(
                f"{each[kind]:.3f}" if kind in each else ""
                for kind in ("motion_r2", "identity_r2", "retrieval", "invariance")
            ),
        )
        for name, each in figures["probes"].items()
    )
    times = tuple(f"t = {t}" for t in next(iter(figures["gaps"].values())))
    return [
        Table(
            f"Errors on {figures['pairs']} drawn pairs, between four controls",
            ("method", *kinds.values()),
            main,
            "PSNR and SSIM are to the true picture; copying the reference does well there: no proof alone.",
        ),
        Table(
            "Transfer: measured = α driver + β portrait + c",
            ("parameter", "α", "β", "α of the oracle"),
            fits,
            "α = 1, β = 0 is perfect; the oracle's α is what the measuring network can show. The slopes of x, y and "
            "log_scale answer the commanded f_rts.",
        ),
        Table(
            "Identity: measured = α' portrait + β' driver + c",
            ("trait", "α'", "β' (leak)", "α' of the oracle"),
            leaks,
            "The last rows are confounded with motion on purpose. Where the oracle's α' is low a trait is not read.",
        ),
        Table(
            "Loss gaps: false condition less true one",
            ("condition", *times),
            gaps,
            "motion and identity should be above 0, swap (the same motion on another person) about 0.",
        ),
        Table(
            "Probes on f_mot",
            ("code", "R² motion ↑", "R² identity ↓", "retrieval of 64 people ↓", "invariance ρ ↓"),
            probes,
        ),
    ]


def ablation(
    by_model: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Mapping[str, Interval]]
) -> list[Table]:
    """Table 2 in the drawn world, the published table beside it, and paired differences to the first model."""
    head = ("model", "ID-SIM* ↑", "β' ↓", "AED* ↓", "APD* ° ↓", "EMO-SIM* ↑", "α ↑", "β ↓")
    rows = []
    for name, f in by_model.items():
        own = f["methods"]["model"]
        values = [own["id_sim"]["mean"], f["identity_beta"], own["aed"]["mean"], own["apd"]["mean"], f["emo_sim"],
                  f["alpha"], f["beta"]]  # fmt: skip
        rows.append((name, *(f"{value:.3f}" for value in values)))
    published = tuple((name, *(f"{value:g}" for value in row)) for name, row in TABLE_2.items())
    first = next(iter(by_model))
    paired = tuple((name, *(str(value) for value in each.values())) for name, each in differences.items())
    kinds = tuple(next(iter(differences.values()), {}))
    return [
        Table("Ablation on drawn pairs (columns of Table 2)", head, tuple(rows)),
        *([Table(f"Paired differences to {first} (95 % interval)", ("model", *kinds), paired,
                 "An interval that holds 0 shows no difference.")] if paired else []),
        Table("Published Table 2", ("model", *CROSS.values()), published, PUBLISHED),
    ]  # fmt: skip


