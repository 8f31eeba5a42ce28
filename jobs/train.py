"""`xnemo train`: one stage, or one of the two motion models, on Ray Train and DeepSpeed.

The run lives in --output: the same command continues it after a stop, and a finished one is handed back.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.cli import parser, run, with_overrides
from jobs.data import absolute, show
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from pipelines.train_config import TrainConfig

STAGES = ("appearance", "motion", "temporal")
EXAMPLES = """\
  xnemo train appearance --config jobs/configs/train-small-appearance.yaml --dataset shards/ --output runs/appearance
  xnemo train motion --config jobs/configs/train-small-motion.yaml --dataset shards/ \\
      --model runs/appearance/export --output runs/motion loop.workers=2
  xnemo train tokenizer --config jobs/configs/tokenizer-small.yaml --dataset motions/ --output runs/tokenizer
  xnemo train generator --config jobs/configs/generator-small.yaml --dataset motions/ \\
      --tokenizer runs/tokenizer/export --output runs/generator"""


def main(argv: Sequence[str]) -> int:
    options = parser("train", __doc__ or "", EXAMPLES)
    options.add_argument("what", choices=[*STAGES, "tokenizer", "generator"])
    options.add_argument("--dataset", required=True, help="shards; for tokenizer and generator a motion data set")
    options.add_argument("--output", required=True, help="the run's folder; an existing run is continued")
    options.add_argument("--config", help="YAML file (see jobs/configs)")
    options.add_argument("--model", help="model to start from: a folder, or models:/<name>@<alias>")
    options.add_argument("--tokenizer", help="generator only: the tokenizer's folder")
    options.add_argument("--dry-run", action="store_true", help="say what would be done and needed; write nothing")
    options.add_argument(
        "--peak-tflops", type=float, default=989.0, help="of one worker, for --dry-run (989: H100, bf16)"
    )
    options.add_argument(
        "--mfu", type=float, default=0.3, help="share of the peak that is reached, for --dry-run (0.3)"
    )
    arguments = with_overrides(options, argv)
    return stage(arguments) if arguments.what in STAGES else motion_model(arguments)


def stage(arguments: argparse.Namespace) -> int:
    from pipelines.train import train
    from pipelines.train_config import TrainConfig
    from xnemo_platform.config import load_config

    flags = [f"stage={arguments.what}", *_places(arguments, dataset="dataset", output="output")]
    flags += [f"start={json.dumps(absolute(arguments.model))}"] if arguments.model else []
    config = load_config(TrainConfig, arguments.config, [*arguments.overrides, *flags])
    if arguments.dry_run:
        return _stage_plan(config, arguments)
    _tell(train(config))
    return 0


def motion_model(arguments: argparse.Namespace) -> int:
    from pipelines import tokens
    from xnemo_platform.config import load_config

    flags = _places(arguments, motions="dataset", output="output")
    if arguments.what == "tokenizer":
        tokenizing = load_config(tokens.TokenizerTraining, arguments.config, [*arguments.overrides, *flags])
        if arguments.dry_run:
            return _plan(tokenizing)
        _tell(tokens.train_tokenizer(tokenizing))
        return 0
    if not arguments.tokenizer:
        raise PlatformError("xnemo train generator needs --tokenizer: the folder of the tokenizer it goes with.")
    flags += _places(arguments, tokenizer="tokenizer")
    generating = load_config(tokens.GeneratorTraining, arguments.config, [*arguments.overrides, *flags])
    if arguments.dry_run:
        return _plan(generating)
    _tell(tokens.train_generator(generating))
    return 0


def _plan(config: Any) -> int:
    """What the run would be: every value of its configuration, and how much it would look at."""
    show(config.model_dump(mode="json"))
    print(f"{config.loop.steps} steps of {config.loop.batch}: {config.loop.steps * config.loop.batch} samples")
    return 0


def _stage_plan(config: "TrainConfig", arguments: argparse.Namespace) -> int:
    """The configuration, and what it needs: parameters, memory, arithmetic, time."""
    from pipelines.models import locate
    from pipelines.train_plan import describe, plan

    if arguments.peak_tflops <= 0 or not 0 < arguments.mfu <= 1:
        raise PlatformError("--peak-tflops must be above 0, --mfu above 0 and at most 1.")
    show(config.model_dump(mode="json"))
    if config.start:
        config = config.model_copy(update={"start": str(locate(config.start))})
    needs = plan(config, bf16=config.loop.precision != "fp32" and config.loop.device != "cpu")
    print("\n".join(describe(needs, config, arguments.peak_tflops, arguments.mfu)))
    return 0


def _places(arguments: argparse.Namespace, **keys: str) -> list[str]:
    """`key=value` overrides for the places given as flags, absolute."""
    return [f"{key}={json.dumps(absolute(getattr(arguments, flag)))}" for key, flag in keys.items()]


def _tell(done: dict[str, Any]) -> None:
    show({key: value for key, value in done["metrics"].items() if isinstance(value, float)})
    print(f"model: {done['folder']}")
    print(f"MLflow run: {done['run_id']}")


if __name__ == "__main__":
    sys.exit(run(main))
