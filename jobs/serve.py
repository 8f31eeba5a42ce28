"""`xnemo serve`: a model behind HTTP, with its page; the interface is described at /docs.

On this machine it runs until Ctrl-C. Submitted to a cluster it deploys and ends; the service stays. Its keys and its
audit log are managed with the same configuration: --add-key, --revoke-key, --keys, --audit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import parser, run, with_overrides

if TYPE_CHECKING:
    from pipelines.serve.config import ServeConfig

EXAMPLES = """\
  xnemo serve --model bundled
  xnemo serve --model models:/xnemo@demo
  xnemo serve --model data/demo/runs/temporal/export --port 8080 limits.seconds=20
  xnemo serve --add-key ada && xnemo serve --model models:/xnemo@demo require_key=true
  xnemo submit serve --model models:/xnemo@champion host=0.0.0.0 --address http://head:8265"""


def main(argv: Sequence[str]) -> int:
    options = parser("serve", __doc__ or "", EXAMPLES)
    options.add_argument("--model", help="a model folder, models:/<name>@<alias> (models:/xnemo@demo), or bundled")
    options.add_argument("--host", help="127.0.0.1; write 0.0.0.0 to be reached from other machines")
    options.add_argument("--port", type=int, help="8000; 0 takes a free one")
    options.add_argument("--config", help="YAML file")
    options.add_argument("--dry-run", action="store_true", help="say what would be done; start nothing")
    options.add_argument("--add-key", metavar="NAME", help="make a bearer key for somebody, show it once, and end")
    options.add_argument("--revoke-key", metavar="NAME", help="the key opens nothing any more; then end")
    options.add_argument("--keys", action="store_true", help="list the keys (without their secrets) and end")
    options.add_argument("--audit", action="store_true", help="print who asked for what, as JSON lines, and end")
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

    if arguments.add_key or arguments.revoke_key or arguments.keys or arguments.audit:
        manage(config, arguments)
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


def manage(config: ServeConfig, arguments: argparse.Namespace) -> None:
    """Keys and audit log, in the service's job store."""
    from xnemo_platform.access import Access

    Path(config.folder).mkdir(parents=True, exist_ok=True)
    access = Access(config.store_url)
    if arguments.add_key:
        print(access.make(arguments.add_key))
    if arguments.revoke_key:
        access.revoke(arguments.revoke_key)
        print(f"the key of {arguments.revoke_key} is revoked")
    for key in access.all_keys() if arguments.keys else ():
        print(json.dumps(asdict(key)))
    for line in access.audit() if arguments.audit else ():
        print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(run(main))
