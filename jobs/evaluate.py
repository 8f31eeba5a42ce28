"""`xnemo evaluate`: a model's figures by the paper's protocols, with intervals and controls (docs/metrics.md)."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.cli import parser, run, with_overrides

EXAMPLES = """\
  xnemo evaluate --model bundled --output report/ clips=12
  xnemo evaluate --protocol self --model models:/xnemo@demo --data videos/ --output self/ steps=25
  xnemo evaluate --protocol cross --model model/ --data pairs.json --output cross/ limit=50
  xnemo evaluate --protocol cross --data pairs.json --output theirs/ results=folder/of/their/videos
  xnemo evaluate --protocol self --model model/ --data shards/ --output held-out/ split=test
  xnemo evaluate --protocol ablation --model full=a1/ --model full=a2/ --model noRFM=b1/ --output table2/ pairs=512
  xnemo evaluate compare cross/ theirs/
  xnemo evaluate pairs --portraits photos/ --driving clips/ --output pairs.json
  xnemo evaluate dfew --source DFEW/ --output dfew.json
`xnemo evaluate compare|pairs|dfew --help` tells their options."""


def main(argv: Sequence[str]) -> int:
    words = {"compare": compare, "pairs": pairs, "dfew": dfew}
    if argv and argv[0] in words:
        return words[argv[0]](argv[1:])
    options = parser("evaluate", __doc__ or "", EXAMPLES)
    options.add_argument("--protocol", choices=["synthetic", "self", "cross", "temporal", "ablation"])
    options.add_argument(
        "--model",
        action="append",
        help="a model folder, models:/<name>@<alias>, or bundled; ablation: name=folder, several times (the same name "
        "for each seed of a variant)",
    )
    options.add_argument(
        "--data", help="manifest of pairs, a folder of videos (cross: with portraits/ and driving/), or a data set"
    )
    options.add_argument("--output", required=True, help="folder for rows, report and videos")
    options.add_argument("--config", help="YAML file")
    options.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    arguments = with_overrides(options, argv)

    from pipelines.evaluate import EvaluateConfig, evaluate
    from pipelines.models import locate
    from xnemo_platform.config import load_config
    from xnemo_platform.errors import PlatformError
    from xnemo_platform.settings import settings
    from xnemo_platform.trainer import start_ray

    given = {
        "protocol": arguments.protocol,
        "data": arguments.data and str(Path(arguments.data).expanduser().resolve()),
        "model": arguments.model and ",".join(arguments.model),
        "output": str(Path(arguments.output).resolve()),
    }
    flags = [f"{name}={json.dumps(value)}" for name, value in given.items() if value]
    config = load_config(EvaluateConfig, arguments.config, [*arguments.overrides, *flags])
    if config.protocol in ("self", "cross", "temporal") and not config.data:
        raise PlatformError(f"--protocol {config.protocol} needs --data: a manifest of pairs or a folder.")
    if config.results:
        config = config.model_copy(update={"results": str(Path(config.results).expanduser().resolve())})
        if not Path(config.results or "").is_dir():
            raise PlatformError(f"results={config.results}: no such folder.")
    elif not config.model:
        raise PlatformError("--model is missing: a model folder, models:/<name>@<alias>, or bundled.")
    folder = None if config.protocol == "ablation" or config.results else locate(config.model)
    if arguments.dry_run:
        print(_plan(config, folder))
        return 0
    start_ray(settings().cpus)
    for name, figures in evaluate(config, folder).items():
        print(_line(name, figures))
    for name in ("report.md", "report.html"):
        print(f"report: {Path(config.output) / 'artifacts' / name}")
    return 0


def compare(argv: Sequence[str]) -> int:
    """Paired differences of two runs."""
    about = "Paired differences of two runs over the same videos, and where they differ most."
    options = parser("evaluate compare", about, "  xnemo evaluate compare runs/a runs/b --output difference.md")
    options.add_argument("first", help="output folder of one evaluation (A)")
    options.add_argument("second", help="output folder of the other (B)")
    options.add_argument("--most", type=int, default=3, help="videos listed per metric (default 3)")
    options.add_argument("--output", type=Path, help="also write the tables to this Markdown file")
    arguments = options.parse_args(argv)

    from pipelines.evaluation.compare import compare as tables_of
    from xnemo_platform import storage

    text = "\n".join(table.markdown() for table in tables_of(arguments.first, arguments.second, arguments.most))
    print(text)
    if arguments.output:
        storage.publish_bytes(str(arguments.output.resolve()), text.encode())
    return 0


def pairs(argv: Sequence[str]) -> int:
    """A manifest of portrait and driver pairs."""
    about = "Pair local portraits with local driving videos, by a fixed seed and the files' content."
    example = "  xnemo evaluate pairs --portraits photos/ --driving clips/ --output pairs.json"
    options = parser("evaluate pairs", about, example)
    options.add_argument("--portraits", required=True, type=Path)
    options.add_argument(
        "--driving", required=True, type=Path, help="a folder of videos, or a manifest such as of dfew"
    )
    options.add_argument("--output", required=True, type=Path)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--count", type=int, default=300, help="random pairs (default 300)")
    options.add_argument("--matrix", type=int, default=10, help="portraits that meet every driver (default 10)")
    arguments = options.parse_args(argv)

    from pipelines.evaluation import pairs as made

    if arguments.driving.is_file():
        drivers = [Path(pair.driving) for pair in made.load(str(arguments.driving), "self", arguments.seed)]
    else:
        drivers = made.files(arguments.driving, made.VIDEOS)
    portraits = made.files(arguments.portraits, made.PICTURES)
    found = made.build(portraits, drivers, arguments.seed, arguments.count, arguments.matrix)
    facts = {"protocol": "cross", "seed": arguments.seed, "portraits": len(portraits), "driving": len(drivers)}
    made.write(arguments.output, found, facts)
    print(f"{arguments.output}: {len(found)} pairs of {len(portraits)} portraits and {len(drivers)} drivers")
    return 0


def dfew(argv: Sequence[str]) -> int:
    """A manifest of expressive DFEW clips."""
    options = parser("evaluate dfew", "Choose 100 expressive clips of a local DFEW copy by the documented protocol.",
                     "  xnemo evaluate dfew --source DFEW/ --output dfew.json --rank seed")  # fmt: skip
    options.add_argument(
        "--source", required=True, type=Path, help="the folder with EmoLabel_DataSplit, Annotation, Clip"
    )
    options.add_argument("--output", required=True, type=Path)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--rank", choices=["emonet", "seed"], default="emonet", help="by arousal variance, or drawn")
    arguments = options.parse_args(argv)

    from pipelines.evaluation import pairs as made
    from pipelines.evaluation.dfew import subset

    found, about = subset(arguments.source, arguments.seed, arguments.rank)
    made.write(arguments.output, found, about | {"protocol": "self"})
    lacking = "; ".join(f"{count} {name}" for name, count in about["missing_of_quota"].items())
    print(
        f"{arguments.output}: {len(found)} clips"
        + (f"; fewer than the protocol asks for: {lacking}" if lacking else "")
    )
    return 0


def _plan(config, folder) -> str:  # type: ignore[no-untyped-def]  # an EvaluateConfig
    steps = config.steps or "the model's own"
    if config.protocol == "ablation":
        from pipelines.evaluation.ablation import models
        from pipelines.models import locate

        folder = ", ".join(f"{name} ({locate(told)})" for name, told in models(config.model))
    if config.protocol in ("synthetic", "ablation") and not config.data:
        amount = f"{config.clips} clips of {config.frames} frames and {config.pairs} pairs"
        return f"{amount}, {steps} steps each, with {folder}"
    from pipelines.evaluation import pairs as made

    protocol = "cross" if config.protocol == "ablation" else config.protocol
    found = made.load(config.data, protocol, config.seed, config.limit, config.split)
    return f"{len(found)} pairs of {config.data}, {steps} steps each, with {folder or config.results}"


def _line(name: str, figures: dict[str, Any]) -> str:
    if "ceiling" in figures:
        interval = f"{figures['r_low']:.2f} to {figures['r_high']:.2f}"
        return f"{name:<8} r {figures['r']:5.2f} ({interval})  ceiling {figures['ceiling']:5.2f}"
    if "low" in figures:
        interval = f"{figures['low']:.4f} to {figures['high']:.4f}"
        return f"{name:<22} {figures['mean']:.4f} ({interval})  {figures['count']} videos"
    if name in ("not_computed", "weights"):
        return "\n".join(
            f"{metric:<22} {told if isinstance(told, str) else told['sha256']}" for metric, told in figures.items()
        )
    return f"{name:<22} " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items())


if __name__ == "__main__":
    sys.exit(run(main))
