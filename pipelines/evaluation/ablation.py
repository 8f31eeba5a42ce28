"""Protocol "ablation": several models on the same drawn pairs and clips, in the columns of Table 2.

The models are given: training them, on the same budget each, is the user's affair. The first is what the others are
held against.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.evaluation import page, rows, tables
from pipelines.models import locate
from xnemo.metrics.intervals import difference
from xnemo_platform.errors import PlatformError

COMPARED = {"id_sim": "ID-SIM*", "id_leak": "to driver", "aed": "AED*", "apd": "APD* °", "psnr": "PSNR dB"}


def models(text: str) -> dict[str, str]:
    """name=folder, comma-separated, to folders by name, in order."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    found = {name.strip(): folder.strip() for name, equals, folder in parts if equals}
    if len(found) < 2 or len(found) != len(parts):
        raise PlatformError(
            "--protocol ablation compares models: give --model full=FOLDER --model NAME=FOLDER …, the full one first, "
            "every name once."
        )
    if wrong := [name for name in found if not re.fullmatch(r"(w/o )?\w[\w .+-]*", name)]:
        raise PlatformError(f"--model: {wrong[0]!r} is no plain name.")
    return found


def run(config: Any, evaluate: Callable[[Any, Path], dict[str, Any]]) -> dict[str, Any]:
    """Evaluate every model on the drawn protocol (each in its own folder) and lay the tables side by side."""
    if not config.pairs:
        raise PlatformError("pairs is 0: the ablation compares drawn pairs; give pairs=512, say.")
    found = {name: (folder, locate(folder)) for name, folder in models(config.model).items()}
    figures: dict[str, dict[str, Any]] = {}
    runs: dict[str, Path] = {}
    for name, (told, folder) in found.items():
        runs[name] = Path(config.output) / name.replace("/", "").replace(" ", "-")
        print(f"model {name}", flush=True)
        evaluate(config.model_copy(update={"protocol": "synthetic", "model": told, "output": str(runs[name])}), folder)
        figures[name] = json.loads((runs[name] / "artifacts" / "transfer.json").read_text())
    first = next(iter(found))
    columns = {name: _columns(path) for name, path in runs.items()}
    differences = {
        name: {
            title: difference(columns[first][kind], columns[name][kind], config.seed)
            for kind, title in COMPARED.items()
        }
        for name in list(found)[1:]
    }
    shown = tables.ablation(figures, differences)
    folder = Path(config.output) / "artifacts"
    heading = (
        f"{config.pairs} drawn pairs and {config.clips} clips of people no training saw, the same for every model."
    )
    page.write(folder, "Ablation", heading, shown, [])
    summary = {
        name: {"alpha": f["alpha"], "beta": f["beta"], "identity_beta": f["identity_beta"], "emo_sim": f["emo_sim"],
               **{kind: f["methods"]["model"][kind]["mean"] for kind in COMPARED}}
        for name, f in figures.items()
    }  # fmt: skip
    rows.publish(folder, summary=summary)
    return summary


def _columns(run: Path) -> dict[str, dict[str, float]]:
    found = {key: row for key, row in rows.read(str(run)).items() if key.startswith("pair-")}
    return {kind: {key: float(row[kind] or 0.0) for key, row in found.items()} for kind in COMPARED}
