"""A driver is read no further than it is asked for, and goes on from what was read before to the bit."""

from pathlib import Path

import numpy as np
import pytest

from xnemo.config import ModelConfig
from xnemo.driver import Driver
from xnemo.encode import encode_driving
from xnemo.errors import XNeMoError
from xnemo.media.video import write_video
from xnemo.model import XNeMo, seeded
from xnemo.prepare import Driving, prepare_driving
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render
from xnemo.tokens.motion_file import Motion, still_rts

FRAMES, BATCH = 40, 32


@pytest.fixture(scope="module")
def model() -> XNeMo:
    return seeded(ModelConfig.small(), 0).eval()


@pytest.fixture(scope="module")
def driving(tmp_path_factory: pytest.TempPathFactory) -> Driving:
    heads = render(random_identity(9)[None], *sequence(2, FRAMES), 128).permute(0, 2, 3, 1).numpy()
    return prepare_driving(write_video(tmp_path_factory.mktemp("driver") / "d.mp4", heads, 25))


def test_a_video_is_encoded_as_far_as_its_motion_is_asked_for(model: XNeMo, driving: Driving, tmp_path: Path) -> None:
    with (tmp_path / "codes").open("w+b") as codes:
        driver, row = Driver(model, driving, FRAMES, codes), 4 * model.config.motion_encoder.f_mot
        assert codes.seek(0, 2) == 0
        first = driver.part(2, 6)
        assert codes.seek(0, 2) == BATCH * row
        whole = driver.whole()
        assert codes.seek(0, 2) == FRAMES * row
    expected = encode_driving(model, driving)
    np.testing.assert_array_equal(whole.f_mot, expected.f_mot)
    np.testing.assert_array_equal(first.f_mot, expected.f_mot[2:6])
    np.testing.assert_array_equal(first.f_rts, expected.f_rts[2:6])


@pytest.mark.parametrize("kept", [0.5, 10.25, 32.0, 35.5])
def test_it_goes_on_from_a_file_cut_anywhere(model: XNeMo, driving: Driving, tmp_path: Path, kept: float) -> None:
    row = 4 * model.config.motion_encoder.f_mot
    with (tmp_path / "codes").open("w+b") as codes:
        whole = Driver(model, driving, FRAMES, codes).whole()
        codes.truncate(int(kept * row))
        again = Driver(model, driving, FRAMES, codes)
        np.testing.assert_array_equal(again.part(3, FRAMES).f_mot, whole.f_mot[3:])


def test_a_motion_taken_before_is_given_as_it_is_and_that_of_another_model_refused(model: XNeMo) -> None:
    codes = np.random.default_rng(0).normal(size=(5, model.config.motion_encoder.f_mot)).astype(np.float32)
    motion = Motion(codes, still_rts(5), 25.0)
    np.testing.assert_array_equal(Driver(model, motion, 5).part(1, 3).f_mot, codes[1:3])
    with pytest.raises(XNeMoError, match="extract it again"):
        Driver(model, Motion(codes[:, 1:], still_rts(5), 25.0), 5)
