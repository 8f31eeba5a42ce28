"""Motion extraction: the codes of inference, every clip once, and nothing half-done."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines import motions, shards
from pipelines.motions import Encoder, MotionsConfig, decode_reduced, extract, motion_facts, read_motions, reduction
from xnemo import crops, weights
from xnemo.animation import signed
from xnemo.config import ModelConfig
from xnemo.media.images import decode_jpeg, encode_jpeg
from xnemo.model import seeded
from xnemo.prepare import cut
from xnemo.synthetic.geometry import face_boxes
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render
from xnemo_platform import manifest
from xnemo_platform.errors import PlatformError

SIZE, FRAMES = 160, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(seeded(ModelConfig.small(), 0).eval(), tmp_path_factory.mktemp("model"))


def clip_row(seed: int, split: str) -> dict:
    motion, placement = sequence(seed, FRAMES)
    identity = random_identity(seed)[None].expand(FRAMES, -1)
    pictures = render(identity, motion, placement, SIZE).permute(0, 2, 3, 1).numpy()
    return {
        "clip_id": f"c{seed}",
        "dataset": "drawn",
        "identity": f"i{seed}",
        "split": split,
        "n_frames": FRAMES,
        "fps": 25.0,
        "size": SIZE,
        "frames": [encode_jpeg(p) for p in pictures],
        "emotion": "happy",
        "intensity": 2,
        "source_span_s": [0.0, FRAMES / 25],
        "crop_box": [0.0, 0.0, SIZE, SIZE],
        "face_boxes": face_boxes(identity, motion, placement, SIZE).tolist(),
    }


def enter(uri: str, rows: list[dict]) -> None:
    facts = shards.write(uri, rows)
    manifest.append(
        uri, [{**fact, "unit": fact["shard"], "sources": ["s"], "notes": None} for fact in facts], {"name": "drawn"}
    )


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    uri = str(tmp_path / "clips")
    enter(uri, [clip_row(seed, "val" if seed == 3 else "train") for seed in range(4)])
    return uri


def config(dataset: str, model: Path, **changes: object) -> MotionsConfig:
    return MotionsConfig.model_validate(
        {"dataset": dataset, "model": str(model), "output": f"{dataset}-motions", "clips_per_shard": 2} | changes
    )


def encoder(settings: MotionsConfig) -> Encoder:
    return Encoder(settings.model, settings, manifest.digest(manifest.read(settings.dataset)))


def test_codes_are_those_of_inference(dataset: str, model: Path) -> None:
    working = encoder(config(dataset, model))
    clip = working.reader[0]
    row = working._row(clip)
    frames = np.stack([decode_jpeg(data) for data in clip.frames])
    squares = crops.square(crops.smooth_boxes(clip.boxes), crops.MOTION_SCALE)
    faces = cut(frames, squares, working.model.config.motion_encoder.image_size)
    with torch.no_grad():
        expected = working.model.motion_encoder.encode(signed(working.model, faces)).numpy()
    found = np.frombuffer(row["f_mot"], "<f4").reshape(FRAMES, -1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_head_motion_is_relative_to_the_first_frame(dataset: str, model: Path) -> None:
    row = encoder(config(dataset, model))._row(encoder(config(dataset, model)).reader[0])
    f_rts = np.frombuffer(row["f_rts"], "<f4").reshape(FRAMES, 3)
    np.testing.assert_allclose(f_rts[0], [0, 0, 1], atol=1e-6)
    assert np.abs(np.diff(f_rts, axis=0)).max() > 0


def test_batches_of_frames_change_nothing(dataset: str, model: Path) -> None:
    rows = [encoder(config(dataset, model, batch=batch)) for batch in (2, 64)]
    one, other = (np.frombuffer(working._row(working.reader[1])["f_mot"], "<f4") for working in rows)
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "size", "factor"), [(282, 224, 1), (282, 64, 4), (141, 64, 2), (60, 64, 1), (2000, 64, 8)]
)
def test_frames_are_decoded_no_larger_than_their_crops_need(side: float, size: int, factor: int) -> None:
    assert reduction(side, size) == factor


def test_a_reduced_frame_shows_the_same_picture(dataset: str) -> None:
    data = shards.ClipReader(dataset)[0].frames[0]
    full, half = decode_reduced(data, 1).astype(float), decode_reduced(data, 2)
    assert half.shape == (SIZE // 2, SIZE // 2, 3)
    averaged = full.reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean((1, 3))
    assert np.abs(averaged - half).mean() < 3
    np.testing.assert_array_equal(decode_reduced(data, 1), decode_jpeg(data))


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_pieces_hold_every_clip_once_up_to_the_limit(dataset: str, model: Path, limit: int | None) -> None:
    pieces = motions._pieces(config(dataset, model, limit=limit), {})
    covered = [index for piece in pieces for index in range(piece["start"], piece["end"])]
    assert covered == list(range(limit or 4))
    assert all(piece["end"] - piece["start"] <= 2 for piece in pieces)


def test_pieces_keep_their_names_when_the_data_set_grows(dataset: str, model: Path) -> None:
    before = {piece["unit"] for piece in motions._pieces(config(dataset, model), {})}
    enter(dataset, [clip_row(seed, "train") for seed in (10, 11)])
    after = {piece["unit"] for piece in motions._pieces(config(dataset, model), {})}
    assert before < after


@given(st.sets(st.integers(0, 30)), st.integers(1, 9))
def test_runs_hold_every_row_once(rows: set[int], longest: int) -> None:
    runs = list(motions._runs(sorted(rows), longest))
    assert [row for start, end in runs for row in range(start, end)] == sorted(rows)
    assert all(0 < end - start <= longest for start, end in runs)


def test_pieces_of_another_size_overlap_nothing_that_is_there(dataset: str, model: Path) -> None:
    before = motions._pieces(config(dataset, model, limit=1, clips_per_shard=1), {})
    covered = motions._covered([piece["unit"] for piece in before])
    after = motions._pieces(config(dataset, model, clips_per_shard=3), covered)
    assert sorted(i for p in before + after for i in range(p["start"], p["end"])) == [0, 1, 2, 3]


def test_what_is_wrong_with_the_data_comes_back_as_a_sentence(dataset: str, model: Path) -> None:
    settings = config(dataset, model)
    piece = {"piece": json.dumps(motions._pieces(settings, {})[0])}
    shard = Path(dataset, manifest.shards(dataset)[0]["shard"])
    shard.write_bytes(shard.read_bytes()[:-9] + b"other end")
    error = json.loads(encoder(settings)(piece)["row"])["error"]
    assert str(shard.name) in error
    assert not Path(settings.output, "shards").exists()


def test_an_encoder_of_another_data_version_stops(dataset: str, model: Path) -> None:
    settings = config(dataset, model)
    piece = {"piece": json.dumps(motions._pieces(settings, {})[0])}
    row = json.loads(Encoder(settings.model, settings, "other")(piece)["row"])
    assert "changed" in row["error"]


def test_where_there_is_no_data_set_nothing_is_made(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="no data set"):
        extract(config(str(tmp_path / "nowhere"), model))
    assert not list(tmp_path.iterdir())


def test_a_data_set_of_clips_is_no_data_set_of_motions(dataset: str) -> None:
    with pytest.raises(PlatformError, match="no motion data set"):
        list(read_motions(dataset))


@pytest.mark.slow
def test_extraction_goes_on_where_it_stopped_and_refuses_another_model(
    dataset: str, model: Path, tmp_path: Path
) -> None:
    settings, told = config(dataset, model), []
    first = extract(settings.model_copy(update={"split": "val"}), lambda done, total: told.append((done, total)))
    assert (first["clips"], told) == (1, [(1, 1)])
    everything = extract(settings)
    assert (everything["clips"], everything["frames"]) == (4, 4 * FRAMES)
    again = extract(settings)
    assert again["new_shards"] == 0
    assert motion_facts(settings.output) == {"model": again["model"], "features": again["features"]}
    found = {clip.clip_id: clip for clip in read_motions(settings.output)}
    assert sorted(found) == ["c0", "c1", "c2", "c3"]
    assert found["c1"].f_mot.shape == (FRAMES, again["features"])
    assert (found["c3"].split, found["c3"].emotion, found["c3"].intensity) == ("val", "happy", 2)
    lineage = {source for row in manifest.shards(settings.output) for source in row["sources"]}
    assert lineage == {row["sha256"] for row in manifest.shards(dataset)}
    other = weights.save(seeded(ModelConfig.small(), 1), tmp_path / "other")
    with pytest.raises(PlatformError, match="another way"):
        extract(settings.model_copy(update={"model": str(other)}))
