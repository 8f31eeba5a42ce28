"""`xnemo serve`: a registered model behind HTTP, with its page; interactive API documentation at /docs.

On this machine it runs until Ctrl-C. Submitted to a cluster it deploys and ends; the service stays.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

from jobs.cli import parser, run, with_overrides

EXAMPLES = """\
  xnemo serve --model models:/xnemo@demo
  xnemo serve --model data/demo/runs/temporal/export --port 8080 limits.seconds=20
  xnemo submit serve --model models:/xnemo@champion host=0.0.0.0 --address http://head:8265"""


def main(argv: Sequence[str]) -> int:
    options = parser("serve", __doc__ or "", EXAMPLES)
    options.add_argument("--model", help="a model folder, or models:/<name>@<alias> (models:/xnemo@demo)")
    options.add_argument("--host", help="127.0.0.1; write 0.0.0.0 to be reached from other machines")
    options.add_argument("--port", type=int, help="8000; 0 takes a free one")
    options.add_argument("--config", help="YAML file")
    options.add_argument("--dry-run", action="store_true", help="say what would be done; start nothing")
    arguments = with_overrides(options, argv)

    from jobs.data import show
    from pipelines.serve.config import ServeConfig
    from xnemo_platform.config import load_config

    flags = {key: getattr(arguments, key) for key in ("model", "host", "port")}
    words = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    config = load_config(ServeConfig, arguments.config, [*arguments.overrides, *words])
    if arguments.dry_run:
        show(config.model_dump(mode="json"))
        return 0

    from pipelines.serve import api

    url = api.start(config)
    print(f"page: {url}/   API: {url}/docs", flush=True)
    if os.environ.get("RAY_ADDRESS"):  # inside a cluster's job: the service outlives it
        return 0
    print("Ctrl-C stops it", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        api.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
