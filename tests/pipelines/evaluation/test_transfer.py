"""Figures of the drawn pairs, from arrays whose answer is known; and the ablation's list of models."""

import numpy as np
import pytest

from pipelines.evaluation import ablation, tables, transfer
from xnemo.synthetic.cross_pairs import NAMES
from xnemo.synthetic.identity import IDENTITY
from xnemo_platform.errors import PlatformError


@pytest.fixture(scope="module")
def made():
    """A model that transfers 70 % of the motion and leaks 20 % of the driver's face."""
    rng = np.random.default_rng(0)
    count = 40
    true, portrait = rng.uniform(-1, 1, (2, count, len(NAMES)))
    person, driver = rng.uniform(-1, 1, (2, count, len(IDENTITY)))
    result = {"true/motion": true, "portrait/motion": portrait, "portrait/identity": person, "driver/identity": driver,
              "portrait/read": person, "driver/read": driver}  # fmt: skip
    motions = {"model": 0.7 * true + 0.1 * portrait, "copy-reference": portrait, "shuffled motion": np.roll(true, 1, 0),
               "untrained encoder": portrait, "renderer oracle": true}  # fmt: skip
    for method in transfer.METHODS:
        result[f"{method}/motion"] = motions[method]
        result[f"{method}/identity"] = 0.8 * person + 0.2 * driver if method == "model" else person
        result |= {f"{method}/{kind}": np.full(count, 0.5) for kind in ("l1", "psnr", "ssim")}
    result |= {f"gap/{name}": np.full((count, len(transfer.TIMES)), 0.1) for name in ("motion", "swap", "identity")}
    people, motion = rng.normal(size=(transfer.PEOPLE, 1, 28)), rng.normal(size=(transfer.PEOPLE, transfer.MOTIONS, 13))
    result["probe/people"] = np.repeat(people, transfer.MOTIONS, 1).reshape(-1, 28)
    result["probe/motions"] = motion.reshape(-1, 13)
    shared = np.repeat(motion[:1], transfer.PEOPLE, 0).reshape(-1, 13)
    for who in ("model", "untrained", "pixels"):
        result |= {f"probe/free/{who}": motion.reshape(-1, 13), f"probe/shared/{who}": shared}
    return result


def test_what_was_put_in_is_reported(made):
    figures = transfer.figures(made)
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


def test_every_figure_has_its_place_in_the_report_and_the_raw_ones_are_kept(made):
    text = "\n".join(table.markdown() for table in tables.transfer_tables(transfer.figures(made)))
    for word in (*transfer.METHODS, "mouth_width", "t = 850", "invariance", "log_scale"):
        assert word in text, word
    lines = transfer.to_csv(made).splitlines()
    assert len(lines) == 1 + 40 * len(transfer.METHODS)
    assert lines[0].startswith("pair,method,l1,psnr,ssim,is_yaw")


def test_an_ablation_names_its_models():
    assert ablation.models("full=a,w/o RFM=b/c") == {"full": "a", "w/o RFM": "b/c"}
    for text in ("a", "full=a", "full=a,b", "full=a,full=b", "full=a,../x=b"):
        with pytest.raises(PlatformError):
            ablation.models(text)
