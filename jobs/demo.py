"""`xnemo demo`: the whole line once on this machine, from drawn heads to an animation over HTTP.

It leaves the page running; `xnemo demo --stop` ends it. What is done is kept, so it can be stopped and repeated.
"""

import os
import sys
from collections.abc import Sequence

from jobs.cli import parser, run, with_overrides

EXAMPLES = """\
  xnemo demo
  xnemo demo identities=64 evaluate_clips=4
  xnemo demo --stop"""


def main(argv: Sequence[str]) -> int:
    options = parser("demo", __doc__ or "", EXAMPLES)
    options.add_argument("--config", help="YAML file")
    options.add_argument("--stop", action="store_true", help="end the service and its local cluster")
    arguments = with_overrides(options, argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # drawing and measuring share the cores with Ray

    from pipelines import demo
    from xnemo_platform import cluster
    from xnemo_platform.config import load_config
    from xnemo_platform.settings import settings

    places = settings()
    if arguments.stop:
        was = cluster.stop(places.home / "demo" / "cluster")
        print("the demo's cluster is stopped" if was else "no demo is running")
        return 0
    made = demo.run(load_config(demo.DemoConfig, arguments.config, arguments.overrides), places)
    print(farewell(made, places.tracking_uri))
    return 0


def farewell(made: dict[str, str], tracking_uri: str) -> str:
    """What a newcomer wants to open next."""
    with open(made["report"]) as file:
        table = [line for line in file.read().splitlines() if line.startswith("|")]
    return "\n".join(
        [
            "",
            f"first         {made['first']}   (the bundled model, before any training)",
            f"result        {made['result']}",
            f"side by side  {made['side_by_side']}   (portrait, driver, result)",
            f"extended      {made['longer']}",
            f"model         {made['model']}",
            f"report        {made['report']}",
            *(f"              {line}" for line in table),
            f"page          {made['url']}/",
            f"Ray           {made['dashboard']}   (xnemo jobs list)",
            f"MLflow        .venv/bin/mlflow server --backend-store-uri {tracking_uri} --port 5000",
            "",
            "The page stays up until `.venv/bin/xnemo demo --stop`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(main))
