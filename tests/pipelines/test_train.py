"""The three stages under the platform's loop: data in, a model that loads out, and resumable in between."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines import shards
from pipelines.clip_store import ClipStore, around, decode
from pipelines.train import StageTask, _pinned
from pipelines.train_config import MAY_DIFFER, TrainConfig
from xnemo import weights
from xnemo.crops import centre_side, f_rts
from xnemo.media.video import read_frames
from xnemo.synthetic.geometry import face_boxes
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render
from xnemo_platform import manifest
from xnemo_platform.config import fingerprint, load_config
from xnemo_platform.engine import Run
from xnemo_platform.engine import train as run_loop
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample
from xnemo_platform.trainer import Place

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
SIZE, FRAMES = 128, 12
TINY = {  # every part of the model, in tenths of a second
    "image_size": 32,
    "codec": {"kind": "patches", "factor": 4, "channels": 48, "scaling": 1.0},
    "unet": {
        "in_channels": 48,
        "channels": [16, 32],
        "layers_per_block": 1,
        "attention": [True, True],
        "heads": 2,
        "norm_groups": 4,
        "context_dim": 8,
    },
    "motion_encoder": {
        "kind": "small",
        "image_size": 32,
        "widths": [8, 16, 16],
        "maps": 4,
        "attention_dim": 16,
        "attention_heads": 2,
        "f_mot": 16,
        "rts_hidden": 8,
        "dropout": 0.1,
    },
    "image_encoder": None,
    "gan": {
        "image_size": 32,
        "appearance": "small",
        "appearance_dim": 16,
        "base_size": 4,
        "channels": [16, 16, 16, 16],
        "discriminator_channels": [8, 16, 16],
    },
}


def clip_row(seed: int, split: str, frames: int = FRAMES) -> dict:
    motion, placement = sequence(seed, frames)
    identity = random_identity(seed)[None].expand(frames, -1)
    images = render(identity, motion, placement, SIZE)
    pixels = (images if images.dtype == torch.uint8 else (images.clamp(0, 1) * 255).byte()).permute(0, 2, 3, 1).numpy()
    jpegs = [cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes() for picture in pixels]
    return {
        "clip_id": f"c{seed}",
        "dataset": "drawn",
        "identity": f"i{seed}",
        "split": split,
        "n_frames": frames,
        "fps": 25.0,
        "source_fps": 25.0,
        "size": SIZE,
        "frames": jpegs,
        "source_span_s": [0.0, frames / 25],
        "crop_box": [0.0, 0.0, SIZE, SIZE],
        "face_boxes": face_boxes(identity, motion, placement, SIZE).tolist(),
    }


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("shards"))
    rows = [clip_row(seed, "train") for seed in range(5)] + [clip_row(seed, "val") for seed in (90, 91)]
    facts = shards.write(uri, rows, limit=100_000)
    manifest.append(
        uri,
        [{**fact, "unit": fact["shard"], "sources": [fact["shard"]], "notes": None} for fact in facts],
        {"name": "drawn"},
    )
    return uri


def config_of(stage: str, dataset: str, folder: Path, *overrides: str) -> TrainConfig:
    """The small configuration of a stage, cut down to seconds."""
    quick = [
        "loop.steps=2",
        "loop.batch=2",
        "loop.accumulate=1",
        "loop.workers=1",
        "loop.save_every=1",
        "loop.validate_every=2",
        "validation_clips=2",
        "validation_steps=2",
        "clip_frames=4",
        "frame_size=64",
        "recipe.warmup_samples=0",
    ]
    if stage == "appearance":
        quick += ["start=null", f"model={json.dumps(TINY)}"]
    if stage == "motion":  # as a model learns that begins from nothing
        quick += ["recipe.encoder=trained", "recipe.gan.weight=0.1", "recipe.decoded_adversarial=0"]
    given = [f"dataset={dataset}", f"output={folder}", *quick, *overrides]
    return load_config(TrainConfig, CONFIGS / f"train-small-{stage}.yaml", given)


def in_process(config: TrainConfig) -> dict[str, float]:
    """The worker's part without Ray."""
    config = _pinned(config)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    task = StageTask(config, Place("cpu", 0, 1, folder))
    run = Run(folder, config.model_dump(mode="json"), fingerprint(config, ignore=MAY_DIFFER))
    return run_loop(task, config.loop, run)


@pytest.fixture(scope="session")
def appearance(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "appearance"
    in_process(config_of("appearance", dataset, folder))
    return folder / "export"


@pytest.mark.parametrize("stage", ["motion", "temporal"])
def test_a_stage_starts_from_the_one_before_and_leaves_a_model_that_loads(stage, dataset, appearance, tmp_path):
    more = [f"start={appearance}", "drawn_pairs=2", "validation_frames=5"]
    metrics = in_process(config_of(stage, dataset, tmp_path / stage, *more))
    before, after = weights.load(appearance), weights.load(tmp_path / stage / "export")
    moved = {
        name.split(".")[0]
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert moved <= ({"motion_encoder", "denoiser", "reference_net"} if stage == "motion" else {"denoiser"})
    assert moved
    assert np.isfinite(metrics["validation/loss"])
    assert "validation/motion_gain" in metrics
    sheet = cv2.imread(str(next((tmp_path / stage / "artifacts" / "samples").glob("*.png"))))
    assert sheet.shape[0] == 2 * TINY["image_size"]
    (film,) = (tmp_path / stage / "artifacts" / "samples").glob(f"{stage}-*.mp4")
    assert len(read_frames(film)) == (5 if stage == "motion" else 4)
    gaps = {f"validation/gap_{kind}_900" for kind in ("motion", "identity", "drawn_motion", "drawn_swap")}
    assert all(np.isfinite(metrics[gap]) for gap in gaps)
    assert ("validation/f_mot_grad_ratio" in metrics) == (stage == "motion")


def test_a_resumed_stage_on_mixed_data_ends_with_the_same_weights(dataset, another, appearance, tmp_path):
    whole = config_of("motion", dataset, tmp_path / "whole", f"start={appearance}", f'mix={{"{another}": 0.4}}')
    in_process(whole)
    broken = whole.model_copy(update={"output": str(tmp_path / "broken")})
    in_process(broken)
    (tmp_path / "broken" / "checkpoints" / "step-00000002" / "COMMIT.json").unlink()
    in_process(broken)
    assert weights.sha256(tmp_path / "whole/export/model.safetensors") == weights.sha256(
        tmp_path / "broken/export/model.safetensors"
    )


def test_the_discriminator_learns_beside_the_model(dataset, appearance, tmp_path):
    config = _pinned(config_of("motion", dataset, tmp_path / "gan", f"start={appearance}"))
    task = StageTask(config, Place("cpu", 0, 1, tmp_path))
    assert task.adversary is not None
    own = {id(p) for p in task.module.parameters()}
    assert not any(id(p) in own for p in task.adversary.parameters())
    before = [p.clone() for p in task.adversary.parameters()]
    run_loop(task, config.loop, Run(tmp_path, {}, "f"))
    assert any(not torch.equal(a, b) for a, b in zip(before, task.adversary.parameters(), strict=True))


def test_a_batch_depends_on_its_samples_alone(dataset):
    samples = [Sample(i, i % 5) for i in range(6)]
    in_memory, from_files = ClipStore(dataset, "train", 64, 10**9), ClipStore(dataset, "train", 64, 0)
    for draw in ("pairs", "clips"):
        extra = (1,) if draw == "pairs" else (4,)
        whole = getattr(in_memory, draw)(samples, 3, *extra)
        part = getattr(from_files, draw)(samples[4:], 3, *extra)
        for name in ("reference", "reference_box", "ids"):
            assert torch.equal(getattr(whole, name)[4:], getattr(part, name))


def test_a_pair_is_two_frames_with_their_own_boxes(dataset):
    batch = ClipStore(dataset, "train", 64, 10**9).pairs([Sample(i, i % 5) for i in range(40)], 0, min_gap=3)
    assert batch.reference.shape == batch.target.shape == (40, 3, 64, 64)
    assert (batch.reference != batch.target).flatten(1).any(1).all()
    middle = (batch.target_box[:, :2] + batch.target_box[:, 2:]) / 2
    assert ((middle > 0) & (middle < 64)).all()


def test_a_view_is_cut_around_the_references_face_as_a_portrait_is(dataset):
    batch = ClipStore(dataset, "train", 64, 10**9, view=48).pairs([Sample(i, i % 5) for i in range(20)], 0)
    assert batch.reference.shape == batch.target.shape == (20, 3, 48, 48)
    x, y, side = centre_side(batch.reference_box)
    for middle in (x, y):
        assert (abs(middle - 24) < 0.06 * 48).all()
    assert (abs(side - 24) < 0.06 * 24).all()
    whole = ClipStore(dataset, "train", 64, 10**9).pairs([Sample(0, 0)], 0)
    same = f_rts(batch.target_box[:1], batch.reference_box[:1])
    assert torch.allclose(same, f_rts(whole.target_box, whole.reference_box), atol=1e-4)


def test_a_cut_shows_what_its_boxes_say():
    frames = np.zeros((2, 3, 64, 64), np.uint8)
    boxes = np.array([[10.0, 20, 26, 36], [20.0, 24, 32, 36]])
    for frame, (left, top, right, bottom) in zip(frames, boxes.astype(int), strict=True):
        frame[:, top:bottom, left:right] = 200
    cut, placed = around(frames, boxes, np.array([0.05, -0.05, 0.05]), 96)
    for frame, (left, top, right, bottom) in zip(cut, placed, strict=True):
        rows, columns = np.nonzero(frame[0] > 100)
        seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.abs(np.array(seen) - (left, top, right, bottom)).max() <= 1


def test_only_clips_long_enough_are_rows(dataset):
    assert len(ClipStore(dataset, "train", 64, 0, min_frames=FRAMES)) == 5
    with pytest.raises(PlatformError, match=f"longest of {FRAMES} frames"):
        ClipStore(dataset, "train", 64, 0, min_frames=FRAMES + 1)


def test_a_jpeg_is_shrunk_to_the_training_size():
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[:, 128:, 2] = 255  # right half red (BGR)
    small = decode(cv2.imencode(".jpg", picture)[1].tobytes(), 48, 256)
    assert small.shape == (3, 48, 48)
    assert small[0, :, 36].min() > 240
    assert small[:, :, 12].max() < 15


@pytest.mark.parametrize("stage", ["appearance", "motion", "temporal"])
def test_the_shipped_configs_are_valid(stage):
    assert (
        load_config(
            TrainConfig,
            CONFIGS / f"train-small-{stage}.yaml",
            ["dataset=d", "output=o", *([] if stage == "appearance" else ["start=s"])],
        ).stage
        == stage
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=huge"], "tiny or small or sd15"),
        (["output=s3://bucket/run"], "output must be a path"),
        (["model=null"], "either start"),
        (["start=somewhere"], "either start"),
        (["recipe.maskin=0"], "did you mean 'masking'"),
        (["loop.batch=7", "loop.workers=2"], "does not divide"),
    ],
)
def test_a_wrong_configuration_says_how_to_mend_it(overrides, message, tmp_path):
    with pytest.raises(PlatformError, match=message):
        config_of("appearance", "d", tmp_path, *overrides)


def test_data_that_changed_is_refused(dataset, tmp_path):
    with pytest.raises(PlatformError, match="dataset_digest"):
        _pinned(config_of("appearance", dataset, tmp_path, "dataset_digest=abc"))


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> str:
    """A second, smaller data set."""
    uri = str(tmp_path_factory.mktemp("another"))
    facts = shards.write(uri, [clip_row(seed, "train") for seed in (40, 41)])
    entered = [{**fact, "unit": fact["shard"], "sources": [fact["shard"]], "notes": None} for fact in facts]
    manifest.append(uri, entered, {"name": "another"})
    return uri


def test_rows_count_through_the_data_sets(dataset, another):
    both, second = ClipStore([dataset, another], "train", 64, 0), ClipStore(another, "train", 64, 0)
    assert both.sizes == [5, 2]
    for row in (0, 1):
        ours, theirs = both.pairs([Sample(9, 5 + row)], 0), second.pairs([Sample(9, row)], 0)
        assert torch.equal(ours.target, theirs.target)


@pytest.mark.parametrize("mix", ['{"a": 0.6, "b": 0.5}', '{"a": 0}', '{"a": 1}', '{"a": -0.1}'])
def test_shares_that_leave_nothing_are_refused(mix, tmp_path):
    with pytest.raises(PlatformError, match="share of the samples"):
        config_of("appearance", "d", tmp_path, f"mix={mix}")


def test_a_mixture_with_other_data_is_another_run(dataset, another, tmp_path):
    one = _pinned(config_of("appearance", dataset, tmp_path))
    both = _pinned(config_of("appearance", dataset, tmp_path, f'mix={{"{another}": 0.4}}'))
    assert one.dataset_digest != both.dataset_digest
    assert fingerprint(one, ignore=MAY_DIFFER) != fingerprint(both, ignore=MAY_DIFFER)
