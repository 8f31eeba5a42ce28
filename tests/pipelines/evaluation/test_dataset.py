"""Data sets made by ingest as evaluation data: stored frames untouched, other people's portraits, the same pairs."""

import numpy as np
import pytest

from pipelines import shards
from pipelines.evaluation import dataset, pairs
from pipelines.evaluation.videos import frames
from tests.pipelines import drawn
from xnemo.media.images import decode_jpeg, encode_jpeg
from xnemo_platform import manifest
from xnemo_platform.errors import PlatformError

SIZE, COUNT = 96, 5


def _row(clip, identity, split):
    import cv2

    images = [cv2.resize(f, (SIZE, SIZE)) for f in drawn.moving(len(clip) + ord(clip[-1]), COUNT, 4)]
    return {"clip_id": clip, "dataset": "drawn", "identity": identity, "split": split, "source_uri": "", "fps": 25.0,
            "source_sha256": clip, "source_span_s": [0.0, 0.2], "source_fps": 25.0, "n_frames": COUNT, "size": SIZE,
            "crop_box": [0.0, 0, SIZE, SIZE], "face_boxes": [[20.0, 20, 70, 70]] * COUNT, "emotion": "happy",
            "frames": [encode_jpeg(image) for image in images]}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two people held out, one of them with two clips, and one to train on."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        _row("a/1", "anna", "test"),
        _row("a/2", "anna", "test"),
        _row("b:1", "bert", "val"),
        _row("c", "cy", "train"),
    ]
    facts = shards.write(str(folder), rows)
    manifest.append(str(folder), [{**each, "unit": "u", "sources": []} for each in facts])
    return folder


def test_the_frames_of_a_clip_reach_the_metrics_as_they_were_stored(data, tmp_path):
    found = pairs.load(str(data), "self", 0, work=tmp_path)
    assert [pair.id for pair in found] == ["a_1", "a_2", "b_1"], "what was held out"
    assert {pair.group for pair in found} == {"happy"}
    clip = next(clip for clip in shards.read_clips(str(data)) if clip.facts["clip_id"] == "a/1")
    shown = np.stack(list(frames(found[0].driving, None)))
    stored = np.stack([decode_jpeg(each) for each in clip.frames])
    assert shown.shape == stored.shape
    assert np.abs(shown.astype(int) - stored).mean() < 1.5, "two decoders of one JPEG differ by rounding"
    for pair in found:
        pair.check()


def test_nobody_drives_himself_and_the_same_data_give_the_same_pairs(data, tmp_path):
    found = pairs.load(str(data), "cross", 0, work=tmp_path / "x")
    again = pairs.load(str(data), "cross", 0, work=tmp_path / "y")
    assert [(p.id, p.portrait_sha256, p.driving_sha256) for p in found] == [
        (p.id, p.portrait_sha256, p.driving_sha256) for p in again
    ]
    assert len(found) == 3
    for pair in found:
        pair.check()
        assert pair.id[0] != pair.id.split("-")[1][0], "portrait and driver are different people"
    assert len(pairs.load(str(data), "cross", 0)) == 3, "counting lays no files"


def test_a_split_can_be_asked_for_and_what_is_not_there_is_told(data, tmp_path):
    assert [pair.id for pair in pairs.load(str(data), "self", 0, split="train", work=tmp_path)] == ["c"]
    with pytest.raises(PlatformError, match="no clip of split else"):
        dataset.choose(str(data), "self", 0, None, "else")
    with pytest.raises(PlatformError, match="one person only"):
        dataset.choose(str(data), "cross", 0, None, "train")
