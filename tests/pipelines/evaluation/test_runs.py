"""Whole runs on a private Ray with the bundled model: cross, temporal on the same results, and an ablation."""

import json
import shutil

import numpy as np
import pytest

import xnemo
from pipelines.evaluate import EvaluateConfig, evaluate
from pipelines.evaluation.compare import compare
from pipelines.evaluation.rows import read_rows
from pipelines.models import BUNDLED
from xnemo.media.images import write_image
from xnemo.synthetic.clips import portrait, write_clip
from xnemo_platform.errors import PlatformError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XNEMO_HOME", str(tmp_path_factory.mktemp("home")))
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two drivers, a portrait, a picture of nobody, and a manifest of what goes with what."""
    root = tmp_path_factory.mktemp("media")
    portrait(root / "p.png", 5, 192)
    write_image(root / "grey.png", np.full((128, 128, 3), 128, np.uint8))
    for k in (1, 2):
        write_clip(root / f"d{k}.mp4", k, k, 0.6, 192)
    (root / "cut.mp4").write_bytes((root / "d1.mp4").read_bytes()[:2000])
    named = {"good": ("p.png", "d1.mp4"), "other": ("p.png", "d2.mp4"), "nobody": ("grey.png", "d1.mp4"),
             "cut": ("p.png", "cut.mp4"), "gone": ("p.png", "nowhere.mp4")}  # fmt: skip
    rows = [{"id": name, "portrait": who, "driving": how} for name, (who, how) in named.items()]
    (root / "pairs.json").write_text(json.dumps({"pairs": rows}))
    return root


def test_cross_and_temporal_report_the_pairs_that_worked_and_name_the_others(cluster, media, tmp_path):
    config = EvaluateConfig(
        protocol="cross", model="bundled", output=str(tmp_path / "cross"), data=str(media / "pairs.json"), steps=2,
        workers=1,
    )  # fmt: skip
    summary = evaluate(config, BUNDLED)
    assert summary["pairs"] == {"all": 5, "measured": 2}
    assert {"id_sim", "aed", "emo_sim"} <= set(summary["not_computed"])
    page = (tmp_path / "cross/artifacts/report.html").read_text()
    assert page.count("data:video/mp4") == 2, "best and worst"
    for text in ("LivePortrait", "w/o RFM", "place arcface_backbone.pth", "nobody", "gone", "<svg"):
        assert text in page, text
    reasons = {row["id"]: row["reason"] for row in read_rows(str(tmp_path / "cross"))}
    assert "face" in reasons["nobody"]
    assert "nowhere.mp4 is missing" in reasons["gone"]
    steady = config.model_copy(update={"protocol": "temporal", "output": str(tmp_path / "steady"), "model": "",
                                       "results": str(tmp_path / "cross/results")})  # fmt: skip
    found = evaluate(steady, None)
    assert found["flicker"]["mean"] > 0
    assert found["warping_error"]["count"] == 2
    differences, _ = compare(str(tmp_path / "steady"), str(tmp_path / "steady"))
    assert all(row[3].startswith("+0") for row in differences.rows)


def test_an_ablation_evaluates_every_model_and_says_what_was_not_reproduced(cluster, tmp_path):
    import torch

    model = xnemo.load(BUNDLED)
    for k in range(2):
        torch.manual_seed(k)
        with torch.no_grad():
            layer = model.motion_encoder.final_proj.weight
            layer.add_(0.05 * layer.float().std() * torch.randn(layer.shape).to(layer))
        xnemo.save(model, tmp_path / f"m{k}")
    names = ("full", "noGAN")
    told = ",".join(f"{name}={tmp_path / f'm{k}'}" for k, name in enumerate(names))
    config = EvaluateConfig(
        protocol="ablation", model=told, output=str(tmp_path / "table2"), pairs=8, clips=2, frames=8, people=128,
        steps=2, workers=1, clip_size=128,
    )  # fmt: skip
    summary = evaluate(config, None)
    assert {name: each["seeds"] for name, each in summary.items()} == {"full": 1, "noGAN": 1}
    text = (tmp_path / "table2/artifacts/report.md").read_text()
    for part in (
        "| w/o GAN | 0.789 |",
        "**noGAN**",
        "not reproduced",
        "full (1 seed), noGAN (1 seed)",
        "and not that of",
    ):
        assert part in text, part
    assert (tmp_path / "table2/run_id").exists(), "in MLflow"
    single = (tmp_path / "table2/full-1/artifacts/report.md").read_text()
    for part in ("Gates of the training recipe", "Steadiness of the clips", "supervised", "Interpolation of f_mot"):
        assert part in single, part
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "table2").rglob("*.npz")}
    assert evaluate(config, None) == summary
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "table2").rglob("*.npz")} == before, "nothing is done again"
    lean = config.model_copy(update={"controls": False, "output": str(tmp_path / "lean")})
    assert evaluate(lean, None) == summary, "controls change no figure"
    assert not (tmp_path / "lean/full-1/artifacts").exists()
    shutil.rmtree(tmp_path / "m1")
    with pytest.raises(PlatformError, match="m1: no model folder here"):
        evaluate(config, None)
