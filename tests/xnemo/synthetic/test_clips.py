"""Portraits, clips and data sets on disk: ordinary files that tell the truth beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.media.images import read_image
from xnemo.media.video import probe, read_frames
from xnemo.synthetic.clips import portrait, write_clip, write_dataset
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render


def test_a_clip_is_a_video_of_what_was_drawn(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1, 2, 0.4, 64)
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.has_audio) == (10, 25, 64, False)
    drawn = render(random_identity(1)[None], *sequence(2, 10), 64).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack(list(read_frames(path))).astype(int) - drawn).mean() < 4


def test_the_sidecar_holds_the_true_tracks_and_boxes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1, 2, 0.4, 64, "happy", intensity=2)
    facts = json.loads(path.with_suffix(".json").read_text())
    motion, placement = sequence(2, 10, "happy", 2)
    assert facts["tracks"]["yaw"] == pytest.approx(motion[:, 0].tolist())
    assert facts["tracks"]["scale"] == pytest.approx(placement[:, 2].exp().tolist())
    assert (facts["emotion"], facts["intensity"], len(facts["boxes"])) == ("happy", 2, 10)


def test_another_frame_rate_shows_the_same_motion(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1, 2, 1, 32, fps=50)
    assert probe(path).frames == 50
    yaw = json.loads(path.with_suffix(".json").read_text())["tracks"]["yaw"]
    assert yaw[::2] == pytest.approx(sequence(2, 26)[0][:25, 0].tolist(), abs=1e-3)


def test_more_room_shows_the_same_head_smaller(tmp_path: Path) -> None:
    usual = json.loads(write_clip(tmp_path / "a.mp4", 1, 2, 0.4, 64).with_suffix(".json").read_text())
    wide = json.loads(write_clip(tmp_path / "b.mp4", 1, 2, 0.4, 96, room=1.5).with_suffix(".json").read_text())
    sides = [np.diff(np.array(facts["boxes"])[:, ::2], axis=1) for facts in (usual, wide)]
    assert np.allclose(*sides, atol=0.01)
    assert wide["tracks"]["yaw"] == usual["tracks"]["yaw"]
    with pytest.raises(XNeMoError, match="give 1 or more"):
        write_clip(tmp_path / "c.mp4", 1, 2, 0.4, 64, room=0.5)


def test_the_tone_is_there_when_asked_for(tmp_path: Path) -> None:
    assert probe(write_clip(tmp_path / "a.mp4", 1, 2, 0.4, 32, audio=True)).has_audio
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.json", "a.mp4"]


def test_a_portrait_looks_straight_ahead(tmp_path: Path) -> None:
    path = portrait(tmp_path / "new" / "p.png", 4, 48)
    drawn = render(random_identity(4)[None], torch.zeros(1, 13), torch.zeros(1, 3), 48)[0].permute(1, 2, 0)
    assert np.array_equal(read_image(path), drawn.numpy())


def test_a_stopped_data_set_goes_on_where_it_was(tmp_path: Path) -> None:
    first = write_dataset(tmp_path, 2, 0.2, 32, seed=5, workers=1)
    before = [path.stat().st_mtime_ns for path in first]
    both = write_dataset(tmp_path, 3, 0.2, 32, seed=5, workers=1)
    assert both[:2] == first
    assert [path.stat().st_mtime_ns for path in first] == before
    assert [path.parent.name for path in both] == ["id000005", "id000006", "id000007"]


@pytest.mark.slow
def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    alone = write_dataset(tmp_path / "a", 2, 0.2, 32, workers=1)
    shared = write_dataset(tmp_path / "b", 2, 0.2, 32, workers=2)
    tracks = [
        [json.loads(path.with_suffix(".json").read_text())["tracks"] for path in paths] for paths in (alone, shared)
    ]
    assert tracks[0] == tracks[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seconds": 0.01}, "no frame"), ({"size": 33}, "odd"), ({"emotion": "bored"}, "no emotion")],
)
def test_bad_options_leave_nothing_behind(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(XNeMoError, match=message):
        write_clip(
            **({"path": tmp_path / "a.mp4", "identity_seed": 1, "motion_seed": 1, "seconds": 1, "size": 32} | options)
        )  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
