"""Train the paper's ablations on one budget each, then hold them against the whole method (paper, Table 2, appendix B).

    python -m jobs.table2 --dataset shards/ --output table2/
    python -m jobs.table2 --dataset shards/ --output table2/ --seed 0 --only full --only "w/o RFM" loop.steps=2000

As in the paper what draws is there before: every variant begins with the codec, reference net and denoiser of one
trained model (--backbone), and with a motion encoder and motion modules that have learnt nothing. `xnemo train motion`
trains every variant with every seed, `--lanes` of them at a time; runs that are done are kept, a stopped one goes on,
so the command can be given in pieces. The last step is `xnemo evaluate --protocol ablation`.

The budget is one number of pairs that encoder and denoiser learn from. Where there is a GAN head, it has the encoder to
itself for the recipe's warm-up before; without end-to-end training it alone has taught the encoder from as many.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import evaluate
from jobs.cli import parser, run, with_overrides
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from xnemo.model import XNeMo

NEVER = 10**9  # samples: a warm-up that lasts the whole run
ALONE = "w/o e2e"  # its encoder is trained in a run of its own, before
VARIANTS: dict[str, tuple[str, ...]] = {  # what differs from the whole method, as words of `xnemo train`
    "full": (),
    "w/o GAN head": ("recipe.gan.weight=0", "recipe.warmup_samples=0"),
    ALONE: ("recipe.encoder=frozen", "recipe.gan.weight=0", "recipe.warmup_samples=0"),
    "w/o RFM": ("recipe.masking=0",),
    "w/o augmentation": ("recipe.augment.enabled=false",),
    "w/o cross-attention": (),
    "RFM .75": ("recipe.masking=0.75",),
    "RFM .95": ("recipe.masking=0.95",),
    "f_mot 32": (),
    "f_mot 512": (),
}
SHAPES: dict[str, tuple[str, ...]] = {  # and what differs in the networks themselves, as words of a ModelConfig
    "w/o cross-attention": ("motion_input=map",),
    "f_mot 32": ("motion_encoder.f_mot=32",),
    "f_mot 512": ("motion_encoder.f_mot=512",),
}
LEARNT = ("motion_encoder.", "denoiser.motion_map.", ".motion_modules.")  # what no variant is given
CONFIG = Path(__file__).parent / "configs" / "table2.yaml"


def main(argv: Sequence[str]) -> int:
    options = parser("table2", __doc__ or "", "")
    options.add_argument("--dataset", required=True, help="shards with room around the head (clips.square=2.8)")
    options.add_argument("--output", required=True, type=Path, help="folder of all runs and of the table")
    options.add_argument("--config", default=str(CONFIG), help="YAML file of the whole method")
    options.add_argument("--backbone", default="bundled", help="model that gives codec, reference net, denoiser")
    options.add_argument("--seed", action="append", type=int, help="once for each (0, 1 and 2)")
    options.add_argument("--only", action="append", choices=list(VARIANTS), help="once for each; full comes first")
    options.add_argument("--lanes", type=int, default=1, help="trainings at a time; on two cores 2 loop.threads=1")
    options.add_argument("--pairs", type=int, default=512, help="drawn pairs of the comparison")
    options.add_argument("--clips", type=int, default=12, help="drawn clips of the comparison, for EMO-SIM*")
    arguments = with_overrides(options, argv)
    arguments.only, arguments.seed = arguments.only or list(VARIANTS), arguments.seed or [0, 1, 2]
    if arguments.only[0] != "full":
        raise PlatformError("--only begins with full: the others are held against it.")
    if arguments.lanes < 1:
        raise PlatformError(f"--lanes is {arguments.lanes}: give the number of trainings at a time, 1 or more.")
    models = [word for each in trained(arguments) for word in ("--model", each)]
    table = ["--protocol", "ablation", "--output", str(arguments.output / "table"), "controls=false"]
    return evaluate.main([*table, f"pairs={arguments.pairs}", f"clips={arguments.clips}", *models])


def trained(arguments: argparse.Namespace) -> list[str]:
    """variant=folder of every model of the table, one seed after the other; trains what is missing."""
    seeds, names = zip(*product(arguments.seed, arguments.only), strict=True)
    if arguments.lanes == 1:
        folders = list(map(variant, repeat(arguments), names, seeds))
    else:
        from xnemo_platform.settings import settings
        from xnemo_platform.trainer import share_ray

        for name, seed in zip(names, seeds, strict=True):
            start(arguments, name, seed)  # not by two lanes at once
        share_ray(settings().cpus)
        with ProcessPoolExecutor(arguments.lanes, multiprocessing.get_context("spawn")) as lanes:
            folders = list(lanes.map(variant, repeat(arguments), names, seeds))
    return [f"{name}={folder}" for name, folder in zip(names, folders, strict=True)]


def variant(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """The trained model of one variant and seed; trains what is missing of it."""
    from pipelines.evaluation.ablation import folder_name
    from pipelines.train_config import TrainConfig
    from xnemo_platform.config import load_config

    folder = arguments.output / "runs" / f"{folder_name(name)}-{seed}"
    begin = start(arguments, name, seed)

    def words(*own: str) -> list[str]:
        return [*arguments.overrides, f"start={json.dumps(str(begin))}", f"loop.seed={seed}", *own]

    def planned(*own: str) -> TrainConfig:
        places = ("stage=motion", "dataset=data", "output=run")
        return load_config(TrainConfig, arguments.config, [*words(*own), *places])

    if name == ALONE:
        begin = train(arguments, Path(f"{folder}-encoder"), words(f"recipe.warmup_samples={NEVER}"))
    whole, own = planned(), planned(*VARIANTS[name])
    spared = (whole.recipe.warmup_samples - own.recipe.warmup_samples) // whole.loop.batch
    return train(arguments, folder, words(*VARIANTS[name], f"loop.steps={whole.loop.steps - spared}"))


def start(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """The folder of the model that a variant begins with: made once for each shape and seed."""
    from pipelines.evaluation.ablation import folder_name
    from pipelines.models import locate
    from xnemo import weights

    kind = folder_name(name) if name in SHAPES else "start"
    folder: Path = (arguments.output / "starts" / f"{kind}-{seed}").resolve()
    if not (folder / weights.DIGESTS).exists():
        weights.save(untaught(locate(arguments.backbone), SHAPES.get(name, ()), seed), folder)
    return folder


def untaught(backbone: Path, changes: Sequence[str], seed: int) -> "XNeMo":
    """A model in fp32 that draws as the trained one does, and whose motion encoder and motion modules are fresh."""
    from xnemo import weights
    from xnemo.config import ModelConfig
    from xnemo.model import seeded
    from xnemo.pretrained import fill
    from xnemo_platform.config import load_config

    trained = weights.load(backbone)
    model = seeded(load_config(ModelConfig, backbone / weights.CONFIG, changes), seed)
    given = [name for name in model.state_dict() if not any(part in name for part in LEARNT)]
    fill(model, trained.state_dict(), str(backbone), given)
    return model


def train(arguments: argparse.Namespace, folder: Path, words: list[str]) -> Path:
    from jobs import train as command

    print(f"{folder.name}", flush=True)
    flags = ["--config", arguments.config, "--dataset", arguments.dataset, "--output", str(folder)]
    if code := command.main(["motion", *flags, *words]):
        raise PlatformError(f"{folder}: training ended with exit code {code}.")
    return folder / "export"


if __name__ == "__main__":
    sys.exit(run(main))
