"""`xnemo evaluate`: motion transfer of a model on drawn heads it never saw, with intervals and controls."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import parser, run, with_overrides

EXAMPLES = """\
  xnemo evaluate --model data/demo/runs/temporal/export --output report/
  xnemo evaluate --model models:/xnemo@demo --output report/ clips=16 steps=25
  xnemo evaluate --model data/demo/runs/temporal/export --output report/ --dry-run"""


def main(argv: Sequence[str]) -> int:
    options = parser("evaluate", __doc__ or "", EXAMPLES)
    options.add_argument("--protocol", choices=["synthetic"], default="synthetic")
    options.add_argument("--model", required=True, help="a model folder, or models:/<name>@<alias>")
    options.add_argument("--output", required=True, help="folder for rows, report and videos")
    options.add_argument("--config", help="YAML file")
    options.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    arguments = with_overrides(options, argv)

    from pipelines.evaluate import EvaluateConfig, evaluate
    from pipelines.models import locate
    from xnemo_platform.config import load_config
    from xnemo_platform.settings import settings
    from xnemo_platform.trainer import start_ray

    flags = [f"model={json.dumps(arguments.model)}", f"output={json.dumps(str(Path(arguments.output).resolve()))}"]
    config = load_config(EvaluateConfig, arguments.config, [*arguments.overrides, *flags])
    folder = locate(config.model)
    if arguments.dry_run:
        print(f"{config.clips} clips of {config.frames} frames, {config.steps} steps each, with {folder}")
        return 0
    start_ray(settings().cpus)
    summary = evaluate(config, folder)
    for name, figures in summary.items():
        interval = f"{figures['r_low']:.2f} to {figures['r_high']:.2f}"
        print(f"{name:<8} r {figures['r']:5.2f} ({interval})  ceiling {figures['ceiling']:5.2f}")
    print(f"report: {Path(config.output) / 'artifacts' / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
