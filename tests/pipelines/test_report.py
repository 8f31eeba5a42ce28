"""Aggregation of the synthetic protocol: hand-computed cases, invariance, and controls that can fail."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.drawn import TRACKS
from pipelines.report import PARAMETERS, aggregate, chosen, emotion, pooled_r, steadiness, write


def _row(clip, driver, result):
    tracks = {
        kind: {name: list(values) for name in PARAMETERS} for kind, values in (("driver", driver), ("result", result))
    }
    return {"clip": clip, "video": f"v{clip}.mp4", "driver_measured": tracks["driver"], **tracks}


def test_a_result_that_copies_the_driver_scores_one():
    track = np.sin(np.arange(30) / 4)
    assert pooled_r([track], [3 * track + 7]) == pytest.approx(1.0)


def test_a_result_that_does_not_move_scores_zero():
    assert pooled_r([np.sin(np.arange(30.0))], [np.full(30, 4.0)]) == 0.0


def test_the_offset_between_clips_does_not_count_as_motion():
    # Without centring each clip, these two still clips of different heads would look perfectly correlated.
    assert pooled_r([np.zeros(10), np.full(10, 5.0)], [np.zeros(10), np.full(10, 9.0)]) == 0.0


def test_a_hand_computed_pool():
    # centred: a = (-1, 1, -1, 1), b = (-1, 1, 1, -1) -> a·b = 0; then flip the second clip of b.
    assert pooled_r([np.array([0.0, 2]), np.array([0.0, 2])], [np.array([0.0, 2]), np.array([2.0, 0])]) == 0.0
    assert pooled_r([np.array([0.0, 2]), np.array([0.0, 2])], [np.array([0.0, 2]), np.array([0.0, 2])]) == 1.0


@given(st.permutations(range(5)))
def test_the_aggregate_does_not_depend_on_the_order_in_which_workers_finish(order):
    random = np.random.default_rng(1)
    rows = [_row(clip, random.normal(size=12), random.normal(size=12)) for clip in range(5)]
    assert aggregate([rows[place] for place in order]) == aggregate(rows)


def test_chance_is_measured_against_another_clips_motion():
    random = np.random.default_rng(0)
    tracks = random.normal(size=(6, 200))
    summary = aggregate([_row(clip, track, track) for clip, track in enumerate(tracks)])
    assert summary["roll"]["r"] == pytest.approx(1.0)
    assert abs(summary["roll"]["chance"]) < 0.2


def test_the_report_shows_the_worst_clip_beside_the_best(tmp_path):
    track = np.sin(np.arange(20) / 3)
    rows = [_row(0, track, track), _row(1, track, np.zeros(20)), _row(2, track, -track)]
    assert [row["clip"] for row in chosen(rows, 3)] == [0, 1, 2]
    assert [row["clip"] for row in chosen(rows, 2)] == [0, 2]
    for row in rows:
        row["result"] |= {name: row["result"]["jaw"] for name in TRACKS}
        row["driver"] |= {name: row["driver"]["jaw"] for name in TRACKS}
        (tmp_path / row["video"]).write_bytes(b"a video")
    write(tmp_path / "artifacts", rows, aggregate(rows), "three clips")
    text = (tmp_path / "artifacts/report.md").read_text()
    assert "v0.mp4" in text
    assert "v2.mp4" in text
    assert (tmp_path / "artifacts/report.html").read_text().count("data:video/mp4;base64,") == 3
    for row in rows:
        row["single"] = {name: 3 * np.asarray(row["result"][name]) for name in TRACKS}
    calm = steadiness(rows)["jaw"]
    assert calm["single"] == pytest.approx(3 * calm["result"])
    told = emotion([row | {"driver_measured": row["driver"]} for row in rows])
    assert told["ceiling"]["mean"] == pytest.approx(1)
    assert told["result"]["mean"] < 0.9
    assert set(json.loads((tmp_path / "artifacts/summary.json").read_text())) == set(PARAMETERS)
