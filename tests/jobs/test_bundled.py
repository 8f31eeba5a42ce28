"""The bundled model's training: stopped and gone on with, or shared by two processes, it ends with the same weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jobs import bundled
from pipelines.clip_store import ClipStore
from tests.pipelines.test_train import SIZE, dataset  # noqa: F401
from xnemo import weights
from xnemo_platform.tracking import Outbox

SMALL = {
    "HEADS": 64,
    "LESSONS": 64,
    "JOINT": 48,
    "SAMPLES": 80,
    "CODEC_IMAGES": 64,
    "CODEC_STEPS": 2,
    "TURN_HEADS": 200,
    "SAVE_S": 0.0,
    "MIN_GAP": 4,
    "FRAME": SIZE,
    "VIEW": 0,
}


class Stopped(Exception):
    pass


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(bundled, name, value)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process with one thread, as a training's; one tested before here may have left its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if left := dist.is_initialized():
        assert dist.get_world_size() == 1
    else:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.set_num_threads(threads)
    if not left:
        dist.destroy_process_group()


def same(one: Path, other: Path) -> None:
    first, second = (weights.load(folder).state_dict() for folder in (one, other))
    assert not [name for name in first if not torch.equal(first[name], second[name])]
    assert all(tensor.dtype == torch.float16 for tensor in first.values() if tensor.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 8], ids=["joint", "finish"])
@pytest.mark.usefixtures("small", "alone")
def test_a_stopped_run_goes_on_to_the_same_weights(
    call: int,
    dataset: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, store = Outbox(tmp_path / "run"), ClipStore(dataset, "train", SIZE, 10**9, 2)
    bundled.train(store, tmp_path / "whole", box)
    pairs, calls = ClipStore.pairs, []

    def stopping(self: ClipStore, *words: object) -> object:
        calls.append(words)
        if len(calls) == call:  # the second step of a leg
            raise Stopped
        return pairs(self, *words)

    monkeypatch.setattr(ClipStore, "pairs", stopping)
    with pytest.raises(Stopped):
        bundled.train(store, tmp_path / "stopped", box)
    monkeypatch.setattr(ClipStore, "pairs", pairs)
    bundled.train(store, tmp_path / "stopped", box)
    same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.usefixtures("small", "alone")
def test_training_goes_on_from_a_trained_model_and_leaves_its_encoder(dataset: str, tmp_path: Path) -> None:  # noqa: F811
    store, box = ClipStore(dataset, "train", SIZE, 10**9, 2), Outbox(tmp_path / "run")
    bundled.train(store, tmp_path / "first", box)
    bundled.train(store, tmp_path / "second", box, seed=1, start=tmp_path / "first")
    first, second = (weights.load(tmp_path / name).state_dict() for name in ("first", "second"))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert {"denoiser", "reference_net", "codec"} <= changed
    kept = [name for name in first if name.startswith(("motion_encoder.model.", "codec.basis"))]
    assert all(torch.equal(first[name], second[name]) for name in kept)
    bundled.train(store, tmp_path / "third", box, seed=1, start=tmp_path / "first", renew=True)
    third = weights.load(tmp_path / "third").state_dict()
    taught = {name for name in kept if not torch.equal(first[name], third[name])}
    assert {"motion_encoder.model.fc.weight", "motion_encoder.model.stem.0.weight"} <= taught
    assert not any(name.startswith("codec") for name in taught)


def one_of_two(rank: int, group: str, dataset: str, output: Path) -> None:  # noqa: F811
    for name, value in SMALL.items():
        setattr(bundled, name, value)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=group, rank=rank, world_size=2)
    store = ClipStore(dataset, "train", SIZE, 10**9, 2)
    bundled.train(store, output, None if rank else Outbox(output.with_name("box")))


@pytest.mark.slow
@pytest.mark.usefixtures("small", "alone")
def test_two_processes_share_what_one_would_do(dataset: str, tmp_path: Path) -> None:  # noqa: F811
    mp.spawn(one_of_two, (f"file://{tmp_path}/two", dataset, tmp_path / "two-model"), nprocs=2)
    bundled.train(ClipStore(dataset, "train", SIZE, 10**9, 2), tmp_path / "model", Outbox(tmp_path / "run"))
    start = bundled.fresh_model().state_dict()
    for file, names in {
        "landmarks": ("motion_encoder.model.fc.weight", "motion_encoder.model.stem.0.weight"),
        "finish.state": ("denoiser.conv_in.weight", "codec.up.0.weight"),
    }.items():
        one, two = (torch.load(tmp_path / f"{name}.{file}.pt") for name in ("model", "two-model"))
        for name in names:
            moved, other = (
                state["stage"][f"model.{name}"]
                if "stage" in state
                else state[name.removeprefix("motion_encoder.model.")]
                for state in (one, two)
            )
            moved, other = moved - start[name], other - start[name]
            assert moved.any()
            assert (
                torch.cosine_similarity(moved.flatten(), other.flatten(), dim=0) > 0.99
            )  # a batch of another size rounds otherwise


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    words = ["--dataset", "shards", "--output", "model", "--workers", "3"]
    with pytest.raises(bundled.PlatformError, match="divisor of the batch, 8"):
        bundled.main(words)


def test_the_rate_rises_and_falls_where_it_should() -> None:
    falling = bundled.Leg("joint", (1000, 141_000), 1e-3, 0)
    rates = [falling.rate(sample) for sample in (1000, 2600, 71_000, 141_000)]
    assert rates[0] < rates[1] <= 1e-3
    assert rates[1] > rates[2] > rates[3] > 0
