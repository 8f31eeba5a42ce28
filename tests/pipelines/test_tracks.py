"""Which stretches of followed faces become clips, and what is counted against the rest."""

from collections import Counter

import numpy as np
import pytest

from pipelines.clips import ClipConfig
from pipelines.tracks import Track, follow
from xnemo.media.faces import Face

CONFIG = ClipConfig(min_frames=10, max_frames=30, min_face_px=50)


def box(x: float, y: float = 100.0, side: float = 100.0) -> Face:
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), 0.9)


def tracks(
    found: list[list[Face]], config: ClipConfig = CONFIG, shots: set[int] | None = None, scale: float = 1.0
) -> tuple[list[Track], dict[str, int]]:
    dropped: Counter[str] = Counter()
    kept = list(follow(found, shots or {0}, config, scale, dropped))
    return kept, dict(+dropped)


def lengths(kept: list[Track]) -> list[tuple[int, int]]:
    return [(track.first, len(track.boxes)) for track in kept]


def test_one_still_face_is_one_track() -> None:
    kept, dropped = tracks([[box(100)]] * 20)
    assert lengths(kept) == [(0, 20)]
    assert dropped == {}
    assert kept[0].detection_rate == 1


def test_a_long_track_is_cut_into_even_clips() -> None:
    assert lengths(tracks([[box(100)]] * 61)[0]) == [(0, 21), (21, 20), (41, 20)]


def test_a_short_track_is_counted_as_short() -> None:
    assert tracks([[box(100)]] * 9) == ([], {"short": 9})


def test_no_face_is_counted() -> None:
    assert tracks([[]] * 15) == ([], {"no_face": 15})


def test_a_shot_cut_ends_a_track() -> None:
    assert lengths(tracks([[box(100)]] * 30, shots={0, 12})[0]) == [(0, 12), (12, 18)]


def test_a_short_gap_is_bridged_by_interpolation() -> None:
    found = [[box(100 + k)] for k in range(20)]
    found[9] = found[10] = []
    kept, dropped = tracks(found)
    assert lengths(kept) == [(0, 20)]
    np.testing.assert_allclose(kept[0].boxes[:, 0], 50 + np.arange(20))
    assert kept[0].detection_rate == pytest.approx(0.9)
    assert dropped == {}


def test_a_long_gap_is_not_bridged() -> None:
    found = [[box(100)]] * 12 + [[]] * 3 + [[box(100)]] * 12
    kept, dropped = tracks(found)
    assert lengths(kept) == [(0, 12), (15, 12)]
    assert dropped == {"no_face": 3}


def test_a_second_face_ends_a_clip_of_one() -> None:
    found = [[box(100)]] * 12 + [[box(100), box(400)]] * 4 + [[box(100)]] * 12
    kept, dropped = tracks(found)
    assert lengths(kept) == [(0, 12), (16, 12)]
    assert dropped["several_faces"] >= 4


def test_the_largest_face_may_be_kept() -> None:
    kept, _ = tracks([[box(400, side=60), box(100, side=120)]] * 12, CONFIG.model_copy(update={"faces": "largest"}))
    assert lengths(kept) == [(0, 12)]
    assert kept[0].boxes[0, 2] - kept[0].boxes[0, 0] == 120


def test_each_face_may_be_kept() -> None:
    kept, _ = tracks([[box(100), box(400)]] * 12, CONFIG.model_copy(update={"faces": "each"}))
    assert [(track.number, track.boxes[0, 0]) for track in kept] == [(0, 50), (1, 350)]


def test_faces_that_swap_their_order_are_still_followed() -> None:
    found = [[box(100), box(400)] if k % 2 else [box(400), box(100)] for k in range(12)]
    kept, _ = tracks(found, CONFIG.model_copy(update={"faces": "each"}))
    assert [np.ptp(track.boxes[:, 0]) for track in kept] == [0, 0]


def test_a_small_face_is_judged_in_source_pixels() -> None:
    found = [[box(100, side=40)]] * 12
    assert tracks(found)[1] == {"small_face": 12}
    assert lengths(tracks(found, scale=2.0)[0]) == [(0, 12)]


def test_a_jump_of_the_centre_splits_a_track() -> None:
    found = [[box(100)]] * 12 + [[box(140)]] * 12
    assert lengths(tracks(found)[0]) == [(0, 12), (12, 12)]


def test_a_jump_of_the_size_splits_a_track() -> None:
    found = [[box(100)]] * 12 + [[box(100, side=130)]] * 12
    assert lengths(tracks(found)[0]) == [(0, 12), (12, 12)]


def test_the_largest_move_is_recorded() -> None:
    found = [[box(100)]] * 6 + [[box(110)]] * 6
    assert tracks(found)[0][0].max_jump == pytest.approx(0.1)
