"""Train the paper's ablations on one budget each, then hold them against the whole method (paper, Table 2, appendix B).

    python -m jobs.table2 --dataset shards/ --output table2/
    python -m jobs.table2 --dataset shards/ --output table2/ --seeds 1 --only full --only "w/o RFM" loop.steps=2000

Every variant is trained with every seed by `xnemo train motion`, from nothing; runs that are done are kept, a stopped
one goes on, so the command can be given in pieces. The last step is `xnemo evaluate --protocol ablation`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import evaluate
from jobs.cli import parser, run, with_overrides
from xnemo.config import ModelConfig
from xnemo_platform.errors import PlatformError

NEVER = 10**9  # samples: a warm-up that lasts the whole run
VARIANTS: dict[str, tuple[str, ...]] = {  # what differs from the whole method, as words of `xnemo train`
    "full": (),
    "w/o GAN head": ("recipe.gan.weight=0", "recipe.warmup_samples=0"),
    "w/o e2e": ("recipe.encoder=frozen", "recipe.gan.weight=0", "recipe.warmup_samples=0"),
    "w/o RFM": ("recipe.masking=0",),
    "w/o augmentation": ("recipe.augment.enabled=false",),
    "w/o cross-attention": (),
    "RFM .75": ("recipe.masking=0.75",),
    "RFM .95": ("recipe.masking=0.95",),
    "f_mot 32": (),
    "f_mot 512": (),
}
SHAPES: dict[str, dict[str, Any]] = {  # and what differs in the networks themselves
    "w/o cross-attention": {"motion_input": "map", "unet": {"token_places": "picture"}},
    "f_mot 32": {"motion_encoder": {"f_mot": 32}},
    "f_mot 512": {"motion_encoder": {"f_mot": 512}},
}
CONFIG = Path(__file__).parent / "configs" / "tiny" / "motion.yaml"


def main(argv: Sequence[str]) -> int:
    options = parser("table2", __doc__ or "", "")
    options.add_argument("--dataset", required=True, help="shards with room around the head (clips.square=2.8)")
    options.add_argument("--output", required=True, type=Path, help="folder of all runs and of the table")
    options.add_argument("--config", default=str(CONFIG), help="YAML file of the whole method (the tiny preset)")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", action="append", choices=list(VARIANTS), help="once for each; full comes first")
    options.add_argument("--pairs", type=int, default=512)
    arguments = with_overrides(options, argv)
    arguments.only = arguments.only or list(VARIANTS)
    if arguments.only[0] != "full":
        raise PlatformError("--only begins with full: the others are held against it.")
    models = []
    for seed in range(arguments.seeds):
        start = ""  # the fresh model with its fitted codec, which all variants of that shape and seed begin from
        for name in arguments.only:
            trained = variant(arguments, name, seed, start)
            start = start or str(trained.parent / "start")
            models += ["--model", f"{name}={trained}"]
    table = ["--protocol", "ablation", "--output", str(arguments.output / "table"), f"pairs={arguments.pairs}"]
    return evaluate.main([*table, "clips=0", *models])


def variant(arguments: argparse.Namespace, name: str, seed: int, start: str) -> Path:
    """The trained model of one variant and seed; trains what is missing of it."""
    from pipelines.train_config import TrainConfig
    from xnemo_platform.config import load_config

    folder = arguments.output / "runs" / f"{name.replace('/', '').replace(' ', '-')}-{seed}"
    same_shape = start and name not in SHAPES
    begin = [f"start={start}", "model=null"] if same_shape else [f"model={shape(name)}", "start=null"]
    words = [*arguments.overrides, *begin, f"loop.seed={seed}"]
    if name != "w/o e2e":
        return train(arguments, folder, [*words, *VARIANTS[name]])
    # the GAN head alone for as long as in the others, then the rest with the encoder as it is
    whole = load_config(TrainConfig, arguments.config, [*words, "stage=motion", "dataset=data", "output=run"])
    first = whole.recipe.warmup_samples // whole.loop.batch
    alone = train(
        arguments, Path(f"{folder}-encoder"), [*words, f"loop.steps={first}", f"recipe.warmup_samples={NEVER}"]
    )
    rest = [f"start={alone}", "model=null", f"loop.seed={seed}", f"loop.steps={whole.loop.steps - first}"]
    return train(arguments, folder, [*arguments.overrides, *rest, *VARIANTS[name]])


def shape(name: str) -> str:
    """The small shape with the variant's changes, as JSON."""
    whole = ModelConfig.small().model_dump(mode="json")
    for key, value in SHAPES.get(name, {}).items():
        whole[key] = whole[key] | value if isinstance(value, dict) else value
    return json.dumps(whole)


def train(arguments: argparse.Namespace, folder: Path, words: list[str]) -> Path:
    from jobs import train as command

    print(f"{folder.name}", flush=True)
    flags = ["--config", arguments.config, "--dataset", arguments.dataset, "--output", str(folder)]
    if code := command.main(["motion", *flags, *words]):
        raise PlatformError(f"{folder}: training ended with exit code {code}.")
    return folder / "export"


if __name__ == "__main__":
    sys.exit(run(main))
