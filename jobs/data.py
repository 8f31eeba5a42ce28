"""`xnemo data`: videos into shards, and a look at what is in them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.cli import parser, run, with_overrides

EXAMPLES = """\
  xnemo data ingest --dataset folder --source clips/ --output shards/
  xnemo data ingest --dataset folder --source clips/ --output shards/ --dry-run
  xnemo data ingest --dataset folder --source clips/ --output shards/ --limit 5 clips.size=256 workers=4
  xnemo data ingest --dataset vfhq --source VFHQ/ --output shards/ --retry
  xnemo data latents --dataset shards/ --model models:/xnemo@demo
  xnemo data inspect shards/
  xnemo data preview shards/ -o sheet.png"""


def main(argv: Sequence[str]) -> int:
    options = parser("data", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", required=True)
    taking = kinds.add_parser("ingest", help="videos to shards")
    taking.add_argument("--dataset", required=True, help="how the source is laid out: a reader of docs/ingest.md")
    taking.add_argument("--source", required=True, help="folder or URI of the videos")
    taking.add_argument("--output", required=True, help="folder or URI of the data set")
    taking.add_argument("--config", help="YAML file (see jobs/configs/ingest.yaml)")
    taking.add_argument("--limit", type=int, help="only the first inputs")
    taking.add_argument("--retry", action="store_true", help="try again what is in quarantine and brought no clip")
    taking.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing")
    encoding = kinds.add_parser("latents", help="cache what frozen networks make of the frames")
    encoding.add_argument("--dataset", required=True, help="folder or URI of the data set")
    encoding.add_argument("--model", required=True, help="model whose codec and image encoder training starts from")
    encoding.add_argument("--config", help="YAML file with keys of pipelines/latents.py (LatentsConfig)")
    looking = kinds.add_parser("inspect", help="counts, hours, drops by reason, histograms")
    looking.add_argument("data", help="folder or URI of the data set")
    drawing = kinds.add_parser("preview", help="a contact sheet with the boxes")
    drawing.add_argument("data", help="folder or URI of the data set")
    drawing.add_argument("-o", "--output", type=Path, required=True)
    drawing.add_argument("--clips", type=int, default=12, help="clips on the sheet")
    arguments = with_overrides(options, argv)
    return {"ingest": ingest, "latents": latents, "inspect": inspect, "preview": preview}[arguments.kind](arguments)


def ingest(arguments: argparse.Namespace) -> int:
    from pipelines import ingest_run, preprocess
    from pipelines.sources import READERS
    from xnemo_platform.config import load_config
    from xnemo_platform.errors import PlatformError

    if arguments.dataset not in READERS:
        raise PlatformError(f"--dataset {arguments.dataset}: no such reader; known are {', '.join(sorted(READERS))}.")
    flags: list[str] = [f"reader={arguments.dataset}"]
    flags += [f"source={json.dumps(absolute(arguments.source))}", f"output={json.dumps(absolute(arguments.output))}"]
    flags += [f"limit={arguments.limit}"] if arguments.limit is not None else []
    flags += ["retry=true"] if arguments.retry else []
    config = load_config(preprocess.IngestConfig, arguments.config, [*arguments.overrides, *flags])
    if arguments.dry_run:
        from pipelines.estimate import estimate

        show(estimate(config))
        return 0
    summary = ingest_run.ingest(config)
    show({key: value for key, value in summary.items() if not isinstance(value, list)})
    print(f"data set: {config.output}")
    return 0


def latents(arguments: argparse.Namespace) -> int:
    from jobs.progress import bars
    from pipelines.latents import LatentsConfig, cache
    from xnemo_platform.config import load_config

    flags = [f"dataset={json.dumps(absolute(arguments.dataset))}", f"model={json.dumps(absolute(arguments.model))}"]
    config = load_config(LatentsConfig, arguments.config, [*arguments.overrides, *flags])
    bar = bars()
    show(cache(config, lambda done, total: bar("clips", done, total)))
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    from pipelines.summary import drawn, histograms, summarise

    place = absolute(arguments.data)
    show(summarise(place))
    print("\nhow the clips are spread (least, number of clips, most)")
    found = histograms(place)
    emotions = found.pop("emotion", {})
    show({name: drawn(histogram) for name, histogram in found.items()})
    if emotions:
        show({"emotion": emotions})
    return 0


def preview(arguments: argparse.Namespace) -> int:
    from pipelines.preview import write_sheet

    write_sheet(absolute(arguments.data), arguments.output, clips=arguments.clips)
    print(arguments.output)
    return 0


def absolute(uri: str) -> str:
    """A path as seen from where the command was typed; URIs and names of models stay as they are."""
    named = "://" in uri or uri.startswith("models:/") or uri == "bundled"
    return uri if named else str(Path(uri).expanduser().resolve())


def show(facts: dict[str, Any], indent: str = "") -> None:
    """Nested facts as aligned lines."""
    width = max((len(str(key)) for key in facts), default=0)
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            show(value, indent + "  ")
        else:
            print(
                f"{indent}{key:<{width}}  {value:.4g}"
                if isinstance(value, float)
                else f"{indent}{key:<{width}}  {value}"
            )


if __name__ == "__main__":
    sys.exit(run(main))
