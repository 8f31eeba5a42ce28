"""The paper's tables beside our figures: plain rows of text, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xnemo.metrics.intervals import Interval, mean

SELF = {"l1": "L1 ↓", "ssim": "SSIM ↑", "lpips": "LPIPS ↓"}
CROSS = {"id_sim": "ID-SIM ↑", "aed": "AED ↓", "apd": "APD ↓", "emo_sim": "EMO-SIM ↑"}
EXTRA = {
    "self": {"psnr": "PSNR dB ↑", "lpips_vgg": "LPIPS-VGG ↓"},
    "cross": {"id_leak": "ID-SIM to driver ↓", "id_between": "portrait to driver", "aed_mesh": "AED-mesh cm ↓",
              "detected_result": "faces found, result", "detected_driver": "faces found, driver"},
    "temporal": {"flicker": "flicker ↓", "warping_error": "warping error ↓",
                 "flicker_driver": "flicker of the driver", "warping_error_driver": "warping error of the driver"},
}  # fmt: skip
# Table 1: L1, SSIM, LPIPS | ID-SIM, AED, APD, EMO-SIM. Table 2: the right half.
TABLE_1: dict[str, tuple[float, ...]] = {
    "PD-FGC": (0.085, 0.728, 0.291, 0.604, 0.045, 3.95, 0.49),
    "LivePortrait": (0.074, 0.770, 0.236, 0.702, 0.055, 6.61, 0.48),
    "X-Portrait": (0.063, 0.793, 0.209, 0.695, 0.041, 4.07, 0.52),
    "FYE": (0.075, 0.741, 0.249, 0.725, 0.062, 4.49, 0.41),
    "AniPortrait": (0.057, 0.812, 0.198, 0.713, 0.043, 4.14, 0.46),
    "X-NeMo": (0.055, 0.826, 0.168, 0.787, 0.039, 3.42, 0.65),
}
TABLE_2: dict[str, tuple[float, ...]] = {
    "w/o GAN head": (0.789, 0.045, 4.64, 0.43),
    "w/o end-to-end": (0.782, 0.040, 3.49, 0.52),
    "w/o RFM": (0.791, 0.039, 3.41, 0.62),
    "w/o augmentation": (0.724, 0.042, 3.63, 0.50),
    "w/o cross-attention": (0.697, 0.040, 3.55, 0.48),
    "full": (0.787, 0.039, 3.42, 0.65),
}
PUBLISHED = "Published rows are the paper's, on its own unpublished sets: they show the range, not a contest."


@dataclass(frozen=True)
class Table:
    """A titled table of text; `note` goes below it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", f"| {' | '.join(self.head)} |", "|" + "---|" * len(self.head)]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


def metrics_of(protocol: str) -> dict[str, str]:
    """Metric name to column title of a video protocol."""
    return {"self": SELF, "cross": CROSS, "temporal": {}}[protocol] | EXTRA[protocol]


def summarise(rows: Sequence[Mapping[str, Any]], protocol: str, seed: int = 0) -> dict[str, Interval]:
    """Mean over videos of every metric; EMO-SIM pools the frames of all videos first, and is resampled by video."""
    ok = [row for row in rows if row["status"] == "ok"]
    found = {name: mean([row.get(name, float("nan")) for row in ok], seed) for name in metrics_of(protocol)}
    if protocol == "cross" and any(row.get("emotion_result") for row in ok):
        found["emo_sim"] = _pooled_emotion(ok, seed)
    return found


def _pooled_emotion(rows: Sequence[Mapping[str, Any]], seed: int, draws: int = 300) -> Interval:
    import numpy as np

    from xnemo.metrics.emotion import pooled

    rows = sorted((row for row in rows if row.get("emotion_result")), key=lambda row: str(row["id"]))
    pairs = [(np.array(row["emotion_result"]), np.array(row["emotion_driver"])) for row in rows]
    drawn = np.random.default_rng(seed).integers(0, len(pairs), (draws, len(pairs)))
    low, high = np.nanquantile([pooled([pairs[i] for i in each]) for each in drawn], [0.025, 0.975])
    return Interval(pooled(pairs), float(low), float(high), len(pairs))


def table_1(figures: Mapping[str, Interval], protocol: str, missing: Mapping[str, str], name: str) -> Table:
    """Table 1's columns of one protocol, published rows first, ours last."""
    titles = SELF if protocol == "self" else CROSS
    part = slice(0, 3) if protocol == "self" else slice(3, 7)
    published = tuple((method, *(f"{value:g}" for value in row[part])) for method, row in TABLE_1.items())
    ours = (f"**{name}**", *(_cell(figures.get(metric), metric in missing) for metric in titles))
    what = "Self-reenactment" if protocol == "self" else "Cross-reenactment"
    absent = " ".join(f"{titles[metric].split()[0]} {missing[metric]}." for metric in titles if metric in missing)
    return Table(f"{what} (Table 1)", ("method", *titles.values()), (*published, ours), f"{PUBLISHED} {absent}".strip())


def extra(figures: Mapping[str, Interval], protocol: str, missing: Mapping[str, str]) -> Table:
    """What we report beside the paper's columns."""
    rows = tuple(
        (title, _cell(figures.get(metric), metric in missing), str(figures[metric].count) if metric in figures else "0")
        for metric, title in EXTRA[protocol].items()
    )
    absent = " ".join(
        f"{EXTRA[protocol][name].split()[0]} {missing[name]}." for name in EXTRA[protocol] if name in missing
    )
    return Table("Further figures", ("metric", "mean (95 % interval over videos)", "videos"), rows, absent)


def failures(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The pairs without figures and why; and how many frames the others compared and skipped."""
    bad = [row for row in rows if row["status"] != "ok"]
    uneven = [row for row in rows if row["status"] == "ok" and row["frames_compared"] < 0.9 * row["frames_driving"] - 2
              and abs(row["fps_driving"] - 25) < 1]  # fmt: skip
    listed = [(str(row["id"]), str(row["stage"]), str(row["reason"])) for row in bad]
    listed += [
        (str(row["id"]), "measure", f"only {row['frames_compared']} of {row['frames_driving']} driving frames compared")
        for row in uneven
    ]
    skipped = sum(int(row.get("skipped_frames", 0)) for row in rows)
    note = f"{len(rows) - len(bad)} of {len(rows)} pairs have figures."
    note += (
        f" {skipped} frames were skipped for want of a face." if any("skipped_frames" in row for row in rows) else ""
    )
    return Table("Failed and shortened pairs", ("pair", "stage", "reason"), tuple(listed), note)


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


def _fit(c: Mapping[str, float], kind: str) -> str:
    return f"{c[kind]:.2f} ({c[f'{kind}_low']:.2f} to {c[f'{kind}_high']:.2f})"


def _cell(interval: Interval | None, missing: bool) -> str:
    if interval is None or not interval.count:
        return "not computed" if missing else "none"
    return str(interval)
