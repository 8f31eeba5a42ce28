"""Ablations: from the rows of several models to Table 2, paired differences and a verdict on each claim."""

import csv
import json

import numpy as np
import pytest

from pipelines.evaluate import EvaluateConfig
from pipelines.evaluation import ablation, rows
from pipelines.evaluation.ablation import Run
from pipelines.evaluation.drawn import TRACKS
from pipelines.evaluation.keys import fingerprint
from pipelines.evaluation.transfer import CHUNK
from xnemo_platform.errors import PlatformError

COUNT, CLIPS = 40, 3


def _clip(index, strength):
    """A clip whose result moves by `strength` of what the driver does."""
    track = np.random.default_rng(index).normal(size=30)
    driver = {name: track.tolist() for name in TRACKS}
    result = {name: (strength * track).tolist() for name in TRACKS}
    return {"clip": index, "driver": driver, "driver_measured": driver, "result": result, "single": result, "video": ""}


def _lay(root, variant, number, config, made, strength):
    """The rows of an evaluated model, as a run leaves them."""
    model, output = root / f"model-{variant}-{number}", root / f"{variant}-{number}"
    (output / "pairs").mkdir(parents=True)
    model.mkdir()
    (model / "digests.json").write_text(f"{variant} {number}")
    config = config.model_copy(update={"protocol": "synthetic", "model": str(model), "output": str(output)})
    key = fingerprint(config, model)
    told = {name: array for name, array in made.items() if not name.startswith("probe/")}
    told["model/motion"] = strength * made["true/motion"] + 0.01 * np.random.default_rng(number).normal(
        size=(COUNT, 16)
    )
    for first in range(0, COUNT, CHUNK):
        part = {name: array[first : first + CHUNK] for name, array in told.items()}
        np.savez(output / "pairs" / f"{key}-{first}-{len(part['true/motion'])}.npz", **part)
    asked = {name.removeprefix("probe/"): array for name, array in made.items() if name.startswith("probe/")}
    np.savez(output / "pairs" / f"{key}--1-{config.people}.npz", **asked)
    for index in range(CLIPS):
        (output / f"row-{index:03}.json").write_text(json.dumps(_clip(index, strength) | {"key": key}))
    return Run(variant, model, config)


@pytest.fixture
def config(tmp_path):
    return EvaluateConfig(protocol="ablation", output=str(tmp_path / "out"), pairs=COUNT, clips=CLIPS, people=400)


def test_variants_of_several_seeds_are_held_against_the_paper(tmp_path, made, config):
    seeds = (("full", 1, 0.8), ("full", 2, 0.9), ("noGAN", 1, 0.4), ("noGAN", 2, 0.5), ("noRFM", 1, 0.85))
    runs = [_lay(tmp_path, name, number, config, made, strength) for name, number, strength in seeds]
    summary, metrics = ablation.report(config, runs)
    assert summary["full"]["seeds"] == 2
    assert summary["full"]["alpha"] == pytest.approx(0.85, abs=0.01), "the mean of its seeds"
    assert summary["noRFM"]["alpha"] == pytest.approx(0.85, abs=0.01)
    assert metrics["noGAN_alpha"] == pytest.approx(0.45, abs=0.01)
    text = (tmp_path / "out/artifacts/report.md").read_text()
    assert "full (2 seeds), noGAN (2 seeds), noRFM (1 seed); 40 pairs drawn" in text
    assert "| w/o GAN | 0.789 |" in text
    lines = [line for line in text.splitlines() if line.startswith("| no") and "reproduced" in line]
    verdicts = {"".join(line.split(" | ")[:2]): line for line in lines}
    assert "| reproduced |" in verdicts["| noGANEMO-SIM* ↑"]
    assert "| reproduced |" in verdicts["| noGANAED* ↓"]
    assert "**not reproduced**" in verdicts["| noRFMβ ↓"]
    told = json.loads((tmp_path / "out/artifacts/summary.json").read_text())
    low, high = (told["differences"]["noGAN"]["alpha"][end] for end in ("low", "high"))
    assert low < -0.45 < -0.35 < high, "the interval holds the spread of the seeds, not of the pairs alone"
    with (tmp_path / "out/artifacts/pairs.csv").open() as file:
        raw = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"], row["pair"]) for row in raw[::COUNT]] == [
        ("full", "0", "0"), ("full", "1", "0"), ("noGAN", "0", "0"), ("noGAN", "1", "0"), ("noRFM", "0", "0"),
    ]  # fmt: skip
    errors = {name: np.mean([float(row["aed"]) for row in raw if row["variant"] == name]) for name in seen(raw)}
    assert {name: round(float(error), 3) for name, error in errors.items()} == {
        name: round(each["aed"], 3) for name, each in summary.items()
    }
    page = (tmp_path / "out/artifacts/report.html").read_text()
    assert page.count("<svg") == len(ablation.DRAWN)


def seen(raw):
    return dict.fromkeys(row["variant"] for row in raw)


def _video(name, apd, **more):
    return {"id": name, "status": "ok", "stage": "", "reason": "", "apd": apd, "aed_mesh": 0.1, **more}


def test_on_videos_only_the_pairs_that_all_models_have_are_compared(tmp_path, config):
    config = config.model_copy(update={"data": "pairs.json"})
    series = np.random.default_rng(0).normal(size=(20, 2)).tolist()
    felt = {"emotion_result": series, "emotion_driver": series}
    tables = {
        "full": [_video("a", 3.0, **felt), _video("b", 5.0, **felt), _video("c", 90.0), _video("d", None)],
        "noAug": [
            _video("a", 4.0, **felt),
            _video("b", 6.0, **felt),
            {"id": "c", "status": "failed"},
            _video("d", 1.0),
        ],
    }
    runs = []
    for name, table in tables.items():
        own = config.model_copy(update={"output": str(tmp_path / name)})
        rows.publish(tmp_path / name / "artifacts", rows=table)
        runs.append(Run(name, tmp_path, own))
    summary, _ = ablation.report(config, runs)
    assert summary["full"]["apd"] == pytest.approx(4)
    assert summary["noAug"]["apd"] == pytest.approx(5)
    assert summary["full"]["emo_sim"] == pytest.approx(1)
    told = json.loads((tmp_path / "out/artifacts/summary.json").read_text())
    assert told["pairs"] == 3
    assert told["differences"]["noAug"]["apd"]["mean"] == pytest.approx(1)
    text = (tmp_path / "out/artifacts/report.md").read_text()
    assert "| noAug | ID-SIM ↑ | lower |  | not computed |" in text
    rows.publish(tmp_path / "noAug/artifacts", rows=[_video("x", 1.0)])
    with pytest.raises(PlatformError, match="no pair has figures by every model"):
        ablation.report(config, runs)
