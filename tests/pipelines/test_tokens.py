"""Tokenizer and generator under the platform's loop: they learn, resume exactly, and fit each other."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.motions import KIND, SCHEMA
from pipelines.tokens import (
    GeneratorTask,
    GeneratorTraining,
    TokenizerTask,
    TokenizerTraining,
    _Slots,
    divided,
    train_generator,
    train_tokenizer,
)
from xnemo.tokens.outpaint import outpaint
from xnemo.tokens.weights import load_generator, load_tokenizer
from xnemo_platform import manifest
from xnemo_platform.config import load_config
from xnemo_platform.engine import Run
from xnemo_platform.engine import train as run_loop
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample
from xnemo_platform.trainer import Place

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
FEATURES, FRAMES = 12, 32
LOOP = {"steps": 6, "batch": 8, "lr": 2e-3, "save_every": 3, "validate_every": 6, "log_every": 3}
TOKENIZER = {
    "features": FEATURES,
    "codes": 16,
    "code_dim": 4,
    "groups": 2,
    "width": 16,
    "dilations": [1],
    "window": 16,
    "decay": 0.9,
}
GENERATOR = {
    "codes": 16,
    "groups": 2,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "positions": 24,
    "max_tokens": 16,
    "context_tokens": 12,
}


def write_motions(
    uri: str, clips: int = 20, splits: tuple[str, ...] = ("train", "train", "train", "val"), frames: int = FRAMES
) -> str:
    rng, seconds = np.random.default_rng(0), np.arange(frames)[:, None] / 25
    mixing = rng.normal(size=(3, FEATURES))
    rows = []
    for i in range(clips):
        waves = np.sin(2 * np.pi * (rng.uniform(0.3, 2, 3) * seconds + rng.random(3)))
        rows.append(
            {
                "clip_id": f"c{i}",
                "dataset": "toy",
                "identity": f"i{i}",
                "split": splits[i % len(splits)],
                "emotion": ("happy", "sad", "bored", None)[i % 4],
                "intensity": 1 + i % 3,
                "fps": 25.0,
                "n_frames": frames,
                "f_mot": (waves @ mixing).astype("<f4").tobytes(),
                "f_rts": np.tile([0, 0, 1], (frames, 1)).astype("<f4").tobytes(),
            }
        )
    Path(uri, "shards").mkdir(parents=True)
    path = Path(uri, "shards", "toy.parquet")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    data = path.read_bytes()
    manifest.append(
        uri,
        [
            {
                "shard": "shards/toy.parquet",
                "split": "",
                "rows": clips,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "unit": "u",
                "sources": [],
                "notes": None,
            }
        ],
        {"kind": KIND, "model": "model-a", "features": FEATURES},
    )
    return uri


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_motions(str(tmp_path_factory.mktemp("motions") / "set"))


def place(folder: Path) -> Place:
    return Place("cpu", 0, 1, folder)


def tokenizer_task(data: str, folder: Path, **loop: object) -> tuple[TokenizerTask, TokenizerTraining]:
    config = TokenizerTraining.model_validate(
        {"motions": data, "output": str(folder), "tokenizer": TOKENIZER, "loop": LOOP | loop}
    )
    return TokenizerTask(config, place(folder)), config


@pytest.fixture(scope="module")
def tokenizer(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tokenizer trained by the loop."""
    folder = tmp_path_factory.mktemp("tokenizer")
    task, config = tokenizer_task(data, folder, steps=120, save_every=120, validate_every=120)
    metrics = run_loop(task, config.loop, Run(folder, config.model_dump(mode="json"), "mark"))
    assert metrics["loss/loss"] < 0.3
    return folder / "export"


def generator_task(data: str, tokenizer: Path, folder: Path, **changes: object) -> GeneratorTask:
    config = GeneratorTraining.model_validate(
        {
            "motions": data,
            "tokenizer": str(tokenizer),
            "output": str(folder),
            "loop": LOOP,
            "generator": GENERATOR | changes,
        }
    )
    return GeneratorTask(config, place(folder))


def test_the_loop_trains_a_tokenizer_for_unseen_identities(data: str, tokenizer: Path, tmp_path: Path) -> None:
    task, _ = tokenizer_task(data, tmp_path)
    before = task.validate(0).metrics["validation/nrmse"]
    task.net.load_state_dict(load_tokenizer(tokenizer).state_dict())
    after = task.validate(0).metrics
    assert after["validation/nrmse"] < 0.75 * min(before, 1.0)
    assert after["validation/perplexity"] > 4  # of 16
    assert load_tokenizer(tokenizer).belongs_to == "model-a"


def test_a_resumed_training_ends_in_the_same_codebook(data: str, tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", [6]), ("broken", [3, 6])):
        for steps in stops:
            task, config = tokenizer_task(data, tmp_path / name, steps=steps)
            run_loop(task, config.loop, Run(tmp_path / name, {}, "mark"))
        ends.append(task.net.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert int(ends[0]["codebook.updates"]) == 6


def test_the_loop_trains_a_generator_that_continues_motion(data: str, tokenizer: Path, tmp_path: Path) -> None:
    task = generator_task(data, tokenizer, tmp_path)
    before = task.validate(0).metrics["validation/loss"]
    run_loop(task, task.config.loop.model_copy(update={"steps": 60}), Run(tmp_path, {}, "mark"))
    assert task.validate(0).metrics["validation/loss"] < before - 0.3
    parts = load_tokenizer(tokenizer), load_generator(tmp_path / "export")
    prefix = torch.from_numpy(task.held_out[0].f_mot)
    assert outpaint(*parts, prefix, 100, emotion="happy").shape == (100, FEATURES)


def test_batches_are_a_function_of_the_samples_alone(data: str, tokenizer: Path, tmp_path: Path) -> None:
    task = generator_task(data, tokenizer, tmp_path)
    samples = [Sample(i, i % task.sources[0].rows) for i in range(8)]
    (whole, draw), (half, half_draw) = task.batch(samples), task.batch(samples[4:])
    for i in range(4):
        n = int(half.lengths[i])
        assert torch.equal(whole.ids[4 + i, :n], half.ids[i, :n])
    assert torch.equal(whole.emotions[4:], half.emotions)
    assert torch.equal(draw.uniform("null")[4:], half_draw.uniform("null"))


def test_labels_the_generator_does_not_know_count_as_none(data: str, tokenizer: Path, tmp_path: Path) -> None:
    task = generator_task(data, tokenizer, tmp_path)
    known = {clip.clip_id: clip.emotion for clip in task.training}
    batch, _ = task.batch([Sample(0, row) for row in range(task.sources[0].rows)])
    names = [known[task.training[task.slots.clip(row)].clip_id] for row in range(task.sources[0].rows)]
    expected = [{"happy": 5, "sad": 6}.get(name, -1) for name in names]
    assert batch.emotions.tolist() == expected
    assert -1 in expected


def test_ends_are_marked_only_where_the_clip_ends(data: str, tokenizer: Path, tmp_path: Path) -> None:
    task = generator_task(data, tokenizer, tmp_path, max_tokens=8, context_tokens=6)
    batch, _ = task.batch([Sample(i, i % task.sources[0].rows) for i in range(40)])
    assert batch.ends.any()
    assert not batch.ends.all()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 12), st.floats(0, 0.999), st.booleans())
def test_crops_lie_in_their_clip_and_every_long_clip_has_one(
    lengths: list[int], steps: int, u: float, whole: bool
) -> None:
    sequences = [np.arange(2 * n) + 1000 * i for i, n in enumerate(lengths)]
    slots = _Slots(sequences, 2 * steps, step=2, whole=whole)
    usable = {i for i, n in enumerate(lengths) if n >= steps or not whole}
    assert {slots.clip(row) for row in range(len(slots))} == usable
    for row in range(len(slots)):
        crop, ends = slots.crop(row, u)
        own = sequences[slots.clip(row)]
        assert len(crop) == min(2 * steps, len(own))
        assert crop[0] % 2 == 0
        assert set(crop) <= set(own)
        assert ends == (crop[-1] == own[-1])


def test_identities_are_held_out_where_no_split_says_so(tmp_path: Path) -> None:
    training, held_out = divided(write_motions(str(tmp_path / "a"), splits=("train",)))
    assert not {c.identity for c in training} & {c.identity for c in held_out}
    assert len(held_out) == 2  # of 20
    training, held_out = divided(write_motions(str(tmp_path / "b"), splits=("train", "val", "test")))
    assert {c.split for c in training} == {"train"}
    assert {c.split for c in held_out} == {"val"}


def test_contexts_that_no_clip_fills_are_refused(data: str, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"generator\.max_tokens to 16"):
        generator_task(data, tokenizer, tmp_path, max_tokens=20, positions=24)


def test_clips_too_short_for_the_window_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"tokenizer\.window"):
        tokenizer_task(write_motions(str(tmp_path / "short"), frames=12), tmp_path)


def test_motions_of_another_model_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    uri = write_motions(str(tmp_path / "other"))
    table = manifest.read(uri).to_pylist()
    Path(uri, manifest.NAME).unlink()
    manifest.append(uri, table, {"kind": KIND, "model": "model-b", "features": FEATURES})
    config = GeneratorTraining.model_validate(
        {"motions": uri, "tokenizer": str(tokenizer), "output": str(tmp_path / "run"), "loop": LOOP}
    )
    with pytest.raises(PlatformError, match="model-b"):
        train_generator(config)


@pytest.mark.parametrize(
    "name", [f"{what}-{size}" for what in ("tokenizer", "generator") for size in ("small", "bundled", "paper")]
)
def test_shipped_configs_are_valid(name: str) -> None:
    cls = TokenizerTraining if name.startswith("tokenizer") else GeneratorTraining
    places = ["motions=m", "output=o"] + ([] if cls is TokenizerTraining else ["tokenizer=t"])
    config = load_config(cls, CONFIGS / f"{name}.yaml", places)
    assert config.loop.batch % config.loop.workers == 0


@pytest.mark.slow
def test_two_workers_train_both_and_the_result_outpaints(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path / "home"))
    loop = LOOP | {"workers": 2, "cpus": 0.5}
    first = train_tokenizer(
        TokenizerTraining.model_validate(
            {"motions": data, "output": str(tmp_path / "t"), "tokenizer": TOKENIZER | {"features": 512}, "loop": loop}
        )
    )
    second = train_generator(
        GeneratorTraining.model_validate(
            {
                "motions": data,
                "tokenizer": first["folder"],
                "output": str(tmp_path / "g"),
                "loop": loop,
                "generator": GENERATOR | {"codes": 999},
            }
        )
    )
    assert first["run_id"] != second["run_id"]
    parts = SimpleNamespace(t=load_tokenizer(first["folder"]), g=load_generator(second["folder"]))
    assert parts.g.belongs_to == parts.t.digest
    assert outpaint(parts.t, parts.g, None, 50, seed=1).shape == (50, FEATURES)
    assert "validation/loss" in second["metrics"]
