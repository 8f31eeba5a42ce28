"""The ablation runs: every variant is a valid training of the same budget that differs in what it says."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xnemo
from jobs import table2
from pipelines.models import BUNDLED
from pipelines.train_config import TrainConfig
from tests.pipelines.test_train import dataset  # noqa: F401
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
        budget = ["loop.batch=4", "loop.steps=3000", "recipe.warmup_samples=4000"]
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


def test_at_least_one_training_runs_at_a_time() -> None:
    with pytest.raises(PlatformError, match="--lanes is 0"):
        table2.main(["--dataset", "data", "--output", "out", "--lanes", "0"])


@pytest.mark.slow
def test_two_lanes_train_and_the_table_has_every_pair(dataset: str, tmp_path: Path) -> None:  # noqa: F811
    """The whole command, a step or two for each variant; given again, nothing is trained anew."""
    command = [sys.executable, "-m", "jobs.table2", "--dataset", dataset, "--output", str(tmp_path / "table2")]
    rows = ["--only", "full", "--only", "w/o e2e", "--seed", "0", "--lanes", "2", "--pairs", "8", "--clips", "1"]
    words = ["loop.steps=3", "loop.batch=2", "loop.threads=1", "recipe.warmup_samples=2", "frame_size=64", "view=0"]
    quick = ["min_gap=2", "validation_clips=2", "validation_steps=2", "validation_frames=2"]

    def given() -> str:
        env = os.environ | {"XNEMO_HOME": str(tmp_path / "home")}
        done = subprocess.run([*command, *rows, *words, *quick], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "report:" in given()
    with (tmp_path / "table2" / "table" / "artifacts" / "pairs.csv").open() as file:
        found = [(row["variant"], row["pair"]) for row in csv.DictReader(file)]
    assert found == [(name, str(pair)) for name in ("full", "w/o e2e") for pair in range(8)]
    exports = sorted((tmp_path / "table2" / "runs").glob("*/export/model.safetensors"))
    assert [path.parts[-3] for path in exports] == ["full-0", "wo-e2e-0", "wo-e2e-0-encoder"]
    written = [path.stat().st_mtime_ns for path in exports]
    assert "report:" in given()
    assert [path.stat().st_mtime_ns for path in exports] == written
