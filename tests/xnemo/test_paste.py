"""A face pasted back sits where it came from, without a seam, and nothing else of the picture changes."""

import numpy as np
import pytest

from xnemo.paste import paste
from xnemo.prepare import cut


def landscape(height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth coloured picture."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, 128 + 80 * np.sin(x / 20) * np.cos(y / 15)], -1).astype(
        np.uint8
    )


@pytest.mark.parametrize("square", [(30.0, 20.0, 94.0, 84.0), (30.4, 19.7, 77.9, 67.2), (-20.5, -13.0, 60.5, 68.0)])
@pytest.mark.parametrize("oval", [False, True])
def test_what_was_cut_out_fits_back_in(square: tuple[float, ...], oval: bool) -> None:
    picture = landscape()
    own = cut(picture[None], np.array([square]), 64)[0]
    own[(own == 0).all(-1)] = 0
    back = paste(picture, own, np.array(square), oval).astype(int)
    inside = np.s_[8:-8, 8:-8] if square[0] > 0 else np.s_[16:, 16:]
    assert np.abs(back - picture)[inside].max() <= 6


@pytest.mark.parametrize("oval", [False, True])
def test_outside_the_square_nothing_changes_and_its_border_shows_no_step(oval: bool) -> None:
    picture = np.full((100, 140, 3), 100, np.uint8)
    back = paste(picture, np.full((32, 32, 3), 220, np.uint8), np.array([40.0, 20, 100, 80]), oval).astype(int)
    outside = np.ones((100, 140), bool)
    outside[20:80, 40:100] = False
    assert (back[outside] == 100).all()
    assert back[50, 70, 0] == 220
    assert np.abs(np.diff(back[50, :, 0])).max() <= 40  # of a step of 120


def test_a_square_outside_the_picture_changes_nothing() -> None:
    picture = landscape()
    np.testing.assert_array_equal(paste(picture, np.zeros((8, 8, 3), np.uint8), np.array([300.0, 0, 340, 40])), picture)


def test_the_picture_given_is_left_as_it_was() -> None:
    picture, before = landscape(), landscape()
    paste(picture, np.zeros((8, 8, 3), np.uint8), np.array([10.0, 10, 90, 90]))
    np.testing.assert_array_equal(picture, before)
