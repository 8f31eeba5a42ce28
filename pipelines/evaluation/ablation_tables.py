"""Tables and plots of an ablation: our variants in the columns of Table 2, and what of the paper's claims was found."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.evaluation import page, paper
from pipelines.evaluation.tables import PUBLISHED, Table
from xnemo.metrics.intervals import Interval

TITLES = {"id_sim": "ID-SIM ↑", "identity_beta": "β' (leak) ↓", "aed": "AED ↓", "apd": "APD ° ↓",
          "emo_sim": "EMO-SIM ↑", "alpha": "α ↑", "beta": "β ↓", "id_leak": "ID-SIM to driver ↓",
          "aed_mesh": "AED-mesh cm ↓"}  # fmt: skip
STARRED = ("id_sim", "aed", "apd", "emo_sim")  # drawn heads' own versions of the paper's figures
Figures = Mapping[str, Mapping[str, Interval]]


def tables(figures: Figures, differences: Figures, of_videos: bool) -> list[Table]:
    """Table 2 with ours below, the verdict on each claim of the paper, and every difference."""
    first = next(iter(figures))
    kinds = [kind for kind in next(iter(figures.values())) if any(each[kind].count for each in figures.values())]
    absent = [kind for kind in paper.CROSS if kind not in kinds]
    heads = [_title(kind, of_videos) for kind in kinds]
    ours = tuple((f"**{name}**", *(str(each[kind]) for kind in kinds)) for name, each in figures.items())
    columns = list(paper.CROSS)
    published = tuple(
        (name, *(dict(zip(columns, paper.printed(row), strict=True)).get(kind, "") for kind in kinds))
        for name, row in paper.TABLE_2.items()
    )
    note = PUBLISHED + (" * of drawn heads: other definitions, other numbers." if not of_videos else "")
    if absent:
        note += f" Not computed: {', '.join(paper.CROSS[kind].split()[0] for kind in absent)}; see the single reports."
    every = tuple((name, *(_signed(each[kind]) for kind in kinds)) for name, each in differences.items())
    return [
        Table("Table 2: the paper's rows, then ours", ("model", *heads), (*published, *ours), note),
        verdicts(differences, of_videos),
        Table(f"Differences to {first}, paired", ("model", *heads), every,
              "* the 95 % interval does not hold 0. An interval that holds 0 shows no difference."),
    ]  # fmt: skip


def verdicts(differences: Figures, of_videos: bool) -> Table:
    """The paper's claims on these variants: reproduced only if the sign agrees and the interval does not hold 0."""
    rows = []
    for name, each in differences.items():
        for kind, sign in paper.CLAIMS.get(paper.variant(name), {}).items():
            if kind not in each or not each[kind].count:
                rows.append((name, _title(kind, of_videos), _claim(sign), "", "not computed"))
                continue
            found = each[kind]
            verdict = "**not reproduced**: no difference shown"
            if found.low > 0 or found.high < 0:
                agrees = (found.mean > 0) == (sign > 0)
                verdict = "reproduced" if agrees else "**not reproduced**: the difference is the other way"
            rows.append((name, _title(kind, of_videos), _claim(sign), _signed(found), verdict))
    unknown = [name for name in differences if not paper.variant(name)]
    note = "Counted as reproduced only if the sign agrees with the paper and the paired 95 % interval does not hold 0."
    if unknown:
        note += f" The paper has no row for {', '.join(unknown)}; its names: {', '.join(paper.CLAIMS)}."
    head = ("model", "figure", "paper: without it", "ours: model less full", "verdict")
    return Table("What the paper claims", head, tuple(rows), note)


def plots(differences: Figures, first: str) -> list[str]:
    """For every figure the differences of all variants with their intervals."""
    kinds = next(iter(differences.values()), {})
    return [
        page.forest(f"{TITLES[kind]}: difference to {first}", {name: each[kind] for name, each in differences.items()})
        for kind in kinds
    ]


def _title(kind: str, of_videos: bool) -> str:
    title = TITLES[kind]
    return title.replace(" ", "* ", 1) if kind in STARRED and not of_videos else title


def _claim(sign: int) -> str:
    return "higher" if sign > 0 else "lower"


def _signed(value: Interval) -> str:
    if not value.count:
        return "none"
    sure = "" if value.low <= 0 <= value.high else " *"
    return f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f}){sure}"
