"""What the paper published (Tables 1 and 2), on its own unpublished sets: the range of such figures, not a contest."""

SELF = {"l1": "L1 ↓", "ssim": "SSIM ↑", "lpips": "LPIPS ↓"}
CROSS = {"id_sim": "ID-SIM ↑", "aed": "AED ↓", "apd": "APD ° ↓", "emo_sim": "EMO-SIM ↑"}

TABLE_1: dict[str, tuple[float, ...]] = {
    "PD-FGC": (0.085, 0.728, 0.291, 0.604, 0.045, 3.95, 0.49),
    "LivePortrait": (0.074, 0.770, 0.236, 0.702, 0.055, 6.61, 0.48),
    "X-Portrait": (0.063, 0.793, 0.209, 0.695, 0.041, 4.07, 0.52),
    "FYE": (0.075, 0.741, 0.249, 0.725, 0.062, 4.49, 0.41),
    "AniPortrait": (0.057, 0.812, 0.198, 0.713, 0.043, 4.14, 0.46),
    "X-NeMo": (0.055, 0.826, 0.168, 0.787, 0.039, 3.42, 0.65),
}
"""Columns of SELF, then of CROSS."""
DIGITS = (3, 3, 3, 3, 3, 2, 2)  # as printed
FULL = "full"
TABLE_2: dict[str, tuple[float, ...]] = {
    "w/o GAN": (0.789, 0.045, 4.64, 0.43),
    "w/o end-to-end": (0.782, 0.040, 3.49, 0.52),
    "w/o RFM": (0.791, 0.039, 3.41, 0.62),
    "w/o augmentation": (0.724, 0.042, 3.63, 0.50),
    "w/o cross-attention": (0.697, 0.040, 3.55, 0.48),
    FULL: (0.787, 0.039, 3.42, 0.65),
}
"""Columns of CROSS."""
CLAIMS: dict[str, dict[str, int]] = {
    "w/o GAN": {"emo_sim": -1, "aed": 1},
    "w/o end-to-end": {"emo_sim": -1},
    "w/o RFM": {"emo_sim": -1, "beta": 1},
    "w/o augmentation": {"id_sim": -1, "identity_beta": 1},
    "w/o cross-attention": {"id_sim": -1, "identity_beta": 1},
}
"""What each part is there for, by the paper's text and table: the sign of "without it, less full"."""
NAMES = {
    "gan": "w/o GAN", "ganhead": "w/o GAN", "e2e": "w/o end-to-end", "endtoend": "w/o end-to-end", "rfm": "w/o RFM",
    "aug": "w/o augmentation", "augmentation": "w/o augmentation", "crossattention": "w/o cross-attention",
    "crossattn": "w/o cross-attention",
}  # fmt: skip


def printed(row: tuple[float, ...]) -> tuple[str, ...]:
    """A row of either table as the paper prints it."""
    return tuple(f"{value:.{digits}f}" for value, digits in zip(row, DIGITS[-len(row) :], strict=True))


def variant(name: str) -> str:
    """The row of TABLE_2 that a model's name means ("noRFM", "w/o GAN head", "no-aug"), or ""."""
    plain = "".join(letter for letter in name.lower().removeprefix("w/o") if letter.isalnum())
    return NAMES.get(plain.removeprefix("without").removeprefix("no"), "")
