"""The bundled model's training: stopped and started again, it ends with the same weights."""

from pathlib import Path

import pytest
import torch

from jobs import bundled
from pipelines.clip_store import ClipStore
from tests.pipelines.test_train import SIZE, dataset  # noqa: F401
from xnemo import weights
from xnemo_platform.tracking import Outbox


class Stopped(Exception):
    pass


@pytest.fixture
def store(dataset: str, monkeypatch: pytest.MonkeyPatch) -> ClipStore:  # noqa: F811
    for name, value in {"WARMUP": 24, "CODEC_IMAGES": 64, "CODEC_STEPS": 2, "SAVE_S": 0.0, "MIN_GAP": 4}.items():
        monkeypatch.setattr(bundled, name, value)
    monkeypatch.setattr(bundled, "RECIPE", bundled.RECIPE.model_copy(update={"warmup_samples": 24}))
    return ClipStore(dataset, "train", SIZE, 10**9, 2)


def test_a_stopped_run_goes_on_to_the_same_weights(
    store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Outbox(tmp_path / "run")
    bundled.train(store, tmp_path / "whole", 60, box)
    pairs, calls = ClipStore.pairs, []

    def stopping(self: ClipStore, *words: object) -> object:
        calls.append(words)
        if len(calls) == 4:  # the second step in which the denoiser takes part
            raise Stopped
        return pairs(self, *words)

    monkeypatch.setattr(ClipStore, "pairs", stopping)
    with pytest.raises(Stopped):
        bundled.train(store, tmp_path / "stopped", 60, box)
    monkeypatch.setattr(ClipStore, "pairs", pairs)
    bundled.train(store, tmp_path / "stopped", 60, box)
    whole, stopped = (weights.load(tmp_path / name).state_dict() for name in ("whole", "stopped"))
    different = [name for name in whole if not torch.equal(whole[name], stopped[name])]
    assert not different
    assert all(tensor.dtype == torch.float16 for tensor in whole.values() if tensor.is_floating_point())


def test_the_rate_rises_twice_and_ends_low() -> None:
    rates = [bundled.rate(seen, 300_000) for seen in (0, 24_000, bundled.WARMUP, 100_000, 300_000)]
    assert rates[0] < rates[1] == bundled.PEAK
    assert bundled.PEAK > rates[3] > rates[4]
    assert rates[2] == rates[0]
