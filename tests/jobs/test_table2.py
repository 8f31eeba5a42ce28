"""The ablation runs: every variant is a valid training of the same budget that differs in what it says."""

import argparse
from pathlib import Path

import pytest
import torch

import xnemo
from jobs import table2
from pipelines.models import BUNDLED
from pipelines.train_config import TrainConfig
from xnemo_platform.config import load_config
from xnemo_platform.errors import PlatformError


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainConfig]:
    """Run folder to configuration, as `jobs.table2` would train them with one seed; "words" is the last command."""
    found: dict[str, TrainConfig] = {}

    def record(arguments: argparse.Namespace, folder: Path, words: list[str]) -> Path:
        places = ["stage=motion", "dataset=data", f"output={folder}"]
        found[folder.name] = load_config(TrainConfig, arguments.config, [*words, *places])
        return folder / "export"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table2, "train", record)
        patch.setattr(table2.evaluate, "main", lambda words: found.update(words=words) or 0)
        output = tmp_path_factory.mktemp("table2")
        budget = ["loop.steps=3000", "recipe.warmup_samples=4000"]
        table2.main(["--dataset", "data", "--output", str(output), "--seed", "7", *budget])
    return found


def runs(planned: dict[str, TrainConfig]) -> dict[str, TrainConfig]:
    return {name: config for name, config in planned.items() if name != "words"}


def test_every_variant_sees_as_many_pairs(planned: dict[str, TrainConfig]) -> None:
    every = runs(planned)
    alone = every.pop("wo-e2e-7-encoder")
    assert alone.recipe.warmup_samples == table2.NEVER
    assert alone.loop.steps * alone.loop.batch == 12_000, "as many samples as the other encoders see"
    assert len(every) == len(table2.VARIANTS)
    assert {c.loop.steps * c.loop.batch - c.recipe.warmup_samples for c in every.values()} == {8000}
    assert {name for name, c in every.items() if not c.recipe.warmup_samples} == {"wo-GAN-head-7", "wo-e2e-7"}


def test_variants_differ_in_what_they_say(planned: dict[str, TrainConfig]) -> None:
    full = planned["full-7"].recipe
    assert (full.masking, full.encoder, full.augment.enabled, full.backbone) == (0.3, "trained", True, "frozen")
    assert full.gan.weight > 0
    assert full.gan.adversarial > 0
    assert planned["wo-RFM-7"].recipe == full.model_copy(update={"masking": 0.0})
    assert planned["wo-GAN-head-7"].recipe.gan.weight == 0
    assert planned["wo-GAN-head-7"].recipe.encoder == "trained"
    assert not planned["wo-augmentation-7"].recipe.augment.enabled
    assert planned["wo-e2e-7"].recipe.encoder == "frozen"
    assert planned["wo-e2e-7"].start == str(Path(planned["wo-e2e-7-encoder"].output) / "export")
    assert {config.loop.seed for config in runs(planned).values()} == {7}


def test_variants_begin_with_what_draws_and_with_nothing_of_motion(planned: dict[str, TrainConfig]) -> None:
    given = xnemo.load(BUNDLED).state_dict()
    for name, kind in (
        ("full-7", "start-7"),
        ("wo-cross-attention-7", "wo-cross-attention-7"),
        ("f_mot-32-7", "f_mot-32-7"),
    ):
        begin = Path(str(planned[name].start))
        assert begin.name == kind
        model = xnemo.load(begin)
        own = model.state_dict()
        for part in ("reference_net.", "codec.", "denoiser."):
            same = [k for k in own if k.startswith(part) and k in given and "motion_modules" not in k]
            assert same
            assert all(torch.equal(own[k], given[k].to(own[k])) for k in same), part
        trunk = "motion_encoder.model.stem.0.weight"
        assert not torch.equal(own[trunk], given[trunk].to(own[trunk]))
        added = [m.temporal_transformer.proj_out.weight for n, m in model.denoiser.motion_modules() if "map" not in n]
        assert not any(weight.any() for weight in added), "modules change nothing at first"
    mapped, narrow = (xnemo.load(str(planned[name].start)).config for name in ("wo-cross-attention-7", "f_mot-32-7"))
    assert (mapped.motion_input, narrow.motion_encoder.f_mot) == ("map", 32)
    assert planned["wo-RFM-7"].start == planned["full-7"].start


def test_the_comparison_names_every_run(planned: dict[str, TrainConfig]) -> None:
    words = list(planned["words"])  # type: ignore[call-overload]
    assert words[:2] == ["--protocol", "ablation"]
    assert [word.partition("=")[0] for word in words if word.endswith("/export")] == list(table2.VARIANTS)
    assert "clips=12" in words


def test_the_whole_method_comes_first() -> None:
    with pytest.raises(PlatformError, match="begins with full"):
        table2.main(["--dataset", "data", "--output", "out", "--only", "w/o RFM"])
