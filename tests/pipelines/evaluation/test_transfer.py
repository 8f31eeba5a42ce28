"""Figures of the drawn pairs, from arrays whose answer is known; and the ablation's list of models."""

import numpy as np
import pytest

from pipelines.evaluation import ablation, ablation_tables, drawn_figures, drawn_tables, gates, transfer
from xnemo.metrics.intervals import Interval
from xnemo_platform.errors import PlatformError


def test_what_was_put_in_is_reported(figures):
    assert figures["alpha"] == pytest.approx(0.7, abs=1e-3)
    assert figures["beta"] == pytest.approx(0.1, abs=1e-3)
    assert figures["identity_beta"] == pytest.approx(0.2, abs=1e-3)
    assert figures["methods"]["renderer oracle"]["apd"]["mean"] == 0
    assert figures["methods"]["copy-reference"]["nme_apd"]["mean"] == pytest.approx(1)
    assert figures["methods"]["model"]["nme_apd"]["mean"] < 0.6
    assert figures["methods"]["copy-reference"]["id_sim"]["mean"] == pytest.approx(1)
    assert figures["probes"]["model"]["motion_r2"] > 0.99
    assert figures["probes"]["model"]["identity_r2"] < 0.2
    assert figures["probes"]["model"]["invariance"] == 0


def test_every_figure_has_its_place_in_the_report_and_the_raw_ones_are_kept(made, figures):
    text = "\n".join(table.markdown() for table in drawn_tables.transfer_tables(figures))
    for word in (*transfer.METHODS, "mouth_width", "t = 850", "invariance", "log_scale"):
        assert word in text, word
    lines = drawn_figures.to_csv(made).splitlines()
    assert len(lines) == 1 + 40 * len(transfer.METHODS)
    assert lines[0].startswith("pair,method,l1,psnr,ssim,is_yaw")


def test_every_headline_figure_has_the_interval_of_its_own_statistic(made, figures):
    told = figures["intervals"]
    assert told["alpha"]["low"] <= told["alpha"]["mean"] == pytest.approx(0.7, abs=1e-3)
    assert told["nme_motion"]["mean"] < 0.5
    assert told["nme_identity"]["mean"] < told["nme_identity"]["high"] < 0.5
    assert told["gap_late"]["mean"] == pytest.approx(0.1)
    own = drawn_figures.pair_figures(made, "model")["aed"].mean()
    assert told["aed"]["mean"] == pytest.approx(own)


def test_placement_and_interpolation_answer_what_was_commanded(figures):
    for axis in drawn_figures.RTS:
        assert figures["placement"]["model"][axis]["mean"] == pytest.approx(0.8, abs=1e-3)
        assert figures["placement"]["renderer oracle"][axis]["mean"] == pytest.approx(1, abs=1e-3)
    assert figures["placement"]["still"]["down"]["mean"] == pytest.approx(0.1)
    assert figures["placement"]["still"]["scale"]["mean"] == 0
    for each in figures["interpolation"].values():
        assert each == pytest.approx({"linear": 1, "monotone": 1, "reach": 0.6}, abs=1e-6)


def test_gates_are_told_whether_met_or_missed(figures):
    text = gates.table(figures).markdown()
    assert "| mean α (pose, jaw, smile, blinks) | 0.700 (0.700 to 0.700) | ≥ 0.5: met | ≥ 0.85: missed |" in text
    assert "| β' of all readable traits | 0.200 (0.200 to 0.200) | ≤ 0.15: missed | ≤ 0.08: missed |" in text
    assert "probe R² of motion / supervised ceiling" in text
    assert "| loss gap of false motion, t ≥ 500 | 0.1000 (0.1000 to 0.1000) | > 0, p < .01: met |" in text
    intervals = figures["intervals"]
    unsure = figures | {"intervals": intervals | {"gap_late": intervals["gap_late"] | {"p": 0.02}}}
    assert "p < .01: missed" in gates.table(unsure).markdown()


def test_half_an_hour_has_gates_of_its_own(figures):
    text = gates.half_hour(figures).markdown()
    assert "| α of roll | 0.700 (0.700 to 0.700) | ≥ 0.5: met |" in text
    assert "| slope of f_rts, scale | 0.800 (0.800 to 0.800) | ≥ 0.4: met |" in text
    assert "| β' of all readable traits | 0.200 (0.200 to 0.200) | ≤ 0.15: missed |" in text
    gaps = figures["gaps"]
    unsure = gaps | {"motion": gaps["motion"] | {"850": {"mean": 0.1, "low": -0.1, "high": 0.3}}}
    lines = gates.half_hour(figures | {"gaps": unsure}).markdown().splitlines()
    assert any("t = 850" in line and "missed" in line for line in lines)


def test_an_ablation_names_its_models_and_their_seeds():
    assert ablation.models("full=a,w/o RFM=b/c") == [("full", "a"), ("w/o RFM", "b/c")]
    assert ablation.models("full=a,full=b,x=c") == [("full", "a"), ("full", "b"), ("x", "c")]
    for text in ("a", "full=a", "full=a,b", "full=a,full=b", "full=a,../x=b", "full=a,full=a,x=b"):
        with pytest.raises(PlatformError):
            ablation.models(text)


def test_seeds_are_pooled_and_drawn_anew():
    rng = np.random.default_rng(0)
    seeds = [{"aed": np.full(2001, value)} for value in (1.0, 2.0, 6.0)]
    pooled = ablation._pool(seeds, rng)["aed"]
    assert pooled[0] == 3
    assert set(np.round(3 * pooled[1:])) <= {3, 4, 5, 6, 8, 9, 10, 13, 14, 18}, "three of the seeds, each time"
    assert pooled[1:].min() == 1, "the same one thrice"
    assert (ablation._pool(seeds[:1], rng)["aed"] == 1).all()


def test_a_claim_is_reproduced_only_by_its_sign_and_beyond_chance():
    differences = {
        "noGAN": {"emo_sim": Interval(-0.2, -0.3, -0.1, 9), "aed": Interval(0.01, -0.01, 0.03, 9)},
        "noRFM": {"emo_sim": Interval(0.2, 0.1, 0.3, 9)},
        "other": {"emo_sim": Interval(0.2, 0.1, 0.3, 9)},
    }
    table = ablation_tables.verdicts(differences, of_videos=True)
    told = {(row[0], row[1]): row[4] for row in table.rows}
    assert told["noGAN", "EMO-SIM ↑"] == "reproduced"
    assert told["noGAN", "AED ↓"] == "**not reproduced**: no difference shown"
    assert told["noRFM", "EMO-SIM ↑"] == "**not reproduced**: the difference is the other way"
    assert told["noRFM", "β ↓"] == "not computed"
    assert "no row for other" in table.note
