"""The ablation runs: every variant is a valid training of the same budget that differs in what it says."""

import argparse
from pathlib import Path

import pytest

from jobs import table2
from pipelines.train_config import TrainConfig
from xnemo_platform.config import load_config
from xnemo_platform.errors import PlatformError


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, TrainConfig]:
    """Run folder to configuration, as `jobs.table2` would train them with one seed."""
    found: dict[str, TrainConfig] = {}

    def record(arguments: argparse.Namespace, folder: Path, words: list[str]) -> Path:
        places = ["stage=motion", "dataset=data", f"output={folder}"]
        found[folder.name] = load_config(TrainConfig, arguments.config, [*words, *places])
        return folder / "export"

    monkeypatch.setattr(table2, "train", record)
    monkeypatch.setattr(table2.evaluate, "main", lambda words: found.update(words=words) or 0)
    table2.main(["--dataset", "data", "--output", str(tmp_path), "--seeds", "1", "loop.steps=6000"])
    return found


def test_every_variant_sees_as_many_samples(planned: dict[str, TrainConfig]) -> None:
    budgets = {name: config.loop.steps for name, config in planned.items() if name != "words"}
    first = budgets.pop("wo-e2e-0-encoder")
    budgets["wo-e2e-0"] += first
    assert len(budgets) == len(table2.VARIANTS)
    assert set(budgets.values()) == {6000}
    assert first * planned["full-0"].loop.batch == planned["full-0"].recipe.warmup_samples


def test_variants_differ_in_what_they_say(planned: dict[str, TrainConfig]) -> None:
    full = planned["full-0"].recipe
    assert planned["wo-RFM-0"].recipe == full.model_copy(update={"masking": 0.0})
    assert planned["wo-GAN-head-0"].recipe.gan.weight == 0
    assert not planned["wo-augmentation-0"].recipe.augment.enabled
    assert planned["wo-e2e-0"].recipe.encoder == "frozen"
    assert planned["wo-e2e-0-encoder"].recipe.warmup_samples == table2.NEVER
    mapped, wide = planned["wo-cross-attention-0"].model, planned["f_mot-512-0"].model
    assert mapped is not None
    assert wide is not None
    assert (mapped.motion_input, wide.motion_encoder.f_mot) == ("map", 512)


def test_variants_of_one_shape_begin_with_the_same_codec(planned: dict[str, TrainConfig]) -> None:
    starts = {name: config.start for name, config in planned.items() if name != "words" and config.start}
    assert starts.pop("wo-e2e-0").endswith("wo-e2e-0-encoder/export")
    assert len(set(starts.values())) == 1
    assert next(iter(starts.values())).endswith("full-0/start")


def test_the_whole_method_comes_first() -> None:
    with pytest.raises(PlatformError, match="begins with full"):
        table2.main(["--dataset", "data", "--output", "out", "--only", "w/o RFM"])
