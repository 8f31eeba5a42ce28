"""Drawn pairs: what is in them, and that the oracle answers as it should."""

import numpy as np
import pytest
import torch

from xnemo.config import ModelConfig
from xnemo.model import seeded
from xnemo.synthetic import measure_identity
from xnemo.synthetic.cross_pairs import NAMES, animate_pairs, draw_pairs, loss_gaps, placed
from xnemo.synthetic.identity import IDENTITY, random_identities


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(0, 12, 64, 48)


def test_a_pair_depends_on_its_number_alone(pairs):
    later = draw_pairs(9, 2, 64, 48)
    assert torch.equal(later.reference, pairs.reference[9:11])
    assert torch.equal(later.truth, pairs.truth[9:11])
    assert torch.equal(later.f_rts, pairs.f_rts[9:11])
    assert not torch.equal(draw_pairs(9, 2, 64, 48, seed=1).truth, later.truth)


def test_the_true_picture_shows_the_drivers_motion_and_the_portraits_its_own(pairs):
    for pictures, motion in ((pairs.truth, pairs.target_motion), (pairs.reference, pairs.portrait_motion)):
        error = np.abs(placed(pictures, pairs.squares) - motion.numpy()).mean(0)
        for name, bound in (("yaw", 8), ("pitch", 6), ("roll", 5), ("x", 0.04), ("y", 0.05), ("log_scale", 0.12)):
            assert error[NAMES.index(name)] < bound, name


def test_traits_are_read_whatever_the_head_does():
    facts = measure_identity.accuracy()["degraded"]
    read = [IDENTITY[at] for at in measure_identity.readable()]
    assert {"skin_tone", "hair_tone", "head_width", "glasses"} <= set(read)
    assert not set(read) & set(measure_identity.AROUND)
    assert all(facts[name] >= measure_identity.READABLE for name in read)
    identity = random_identities(range(60_000_000, 60_000_024))
    from xnemo.synthetic.motion import random_motion
    from xnemo.synthetic.render import render

    found = measure_identity.measure_identity(render(identity, *random_motion(1, 24), 96))
    truth = measure_identity.visible(identity).numpy()
    for name in ("skin_tone", "hair_tone"):
        at = IDENTITY.index(name)
        assert np.corrcoef(found[:, at], truth[:, at])[0, 1] > 0.9, name


def test_a_model_answers_every_pair_the_same_whatever_stands_beside_it(pairs):
    model = seeded(ModelConfig.small(), 0).eval()
    model.codec.basis.normal_() if hasattr(model.codec, "basis") else None
    shape = model.config
    given = draw_pairs(0, 3, shape.image_size, shape.motion_encoder.image_size)
    result = animate_pairs(model, given, given.faces, given.f_rts, 2, 1.5)
    assert result.shape == given.truth.shape
    later = draw_pairs(2, 1, shape.image_size, shape.motion_encoder.image_size)
    alone = animate_pairs(model, later, later.faces, later.f_rts, 2, 1.5)
    assert (alone[0].int() - result[2].int()).abs().max() <= 1
    gaps = loss_gaps(model, given, (300, 850))
    assert {name: gap.shape for name, gap in gaps.items()} == dict.fromkeys(("motion", "swap", "identity"), (3, 2))
