"""`xnemo jobs`: what was submitted to a cluster: list it, follow it, stop it."""

import sys
from collections.abc import Sequence

from jobs.cli import parser, run

EXAMPLES = """\
  xnemo jobs list --address http://head:8265
  xnemo jobs logs appearance-1 --address http://head:8265
  xnemo jobs stop appearance-1 --address http://head:8265"""


def main(argv: Sequence[str]) -> int:
    options = parser("jobs", __doc__ or "", EXAMPLES)
    options.add_argument("what", choices=["list", "logs", "status", "stop"])
    options.add_argument("id", nargs="?")
    options.add_argument("--address", help="job server of the cluster (XNEMO_RAY_ADDRESS, or the demo's cluster)")
    arguments = options.parse_args(argv)

    from xnemo_platform import cluster, submit
    from xnemo_platform.errors import PlatformError
    from xnemo_platform.settings import settings

    places = settings()
    own = cluster.running(places.home / "demo" / "cluster")
    address = arguments.address or places.ray_address or (own.dashboard if own else None)
    if not address:
        raise PlatformError("no cluster to ask: give --address http://head:8265 or set XNEMO_RAY_ADDRESS.")
    if arguments.what == "list":
        for job in submit.jobs(address):
            print(f"{job.id:<28} {job.status:<10} {job.message}".rstrip())
        return 0
    if not arguments.id:
        raise PlatformError(f"xnemo jobs {arguments.what} needs the id of a job; `xnemo jobs list` shows them.")
    if arguments.what == "stop":
        submit.stop(arguments.id, address)
        print(f"{arguments.id}: asked to stop; `xnemo jobs status {arguments.id}` says when it has")
        return 0
    found = submit.find(arguments.id, address)
    if found is None:
        raise PlatformError(f"{address} knows no job {arguments.id}; `xnemo jobs list` shows them.")
    if arguments.what == "logs":
        found = submit.follow(found.id, address, print)
    print(f"{found.id}: {found.status} {found.message}".rstrip())
    if arguments.what == "status":
        print(f"command: {found.metadata.get('command') or found.entrypoint}")
    if link := submit.tracking_link(found.id, address):
        print(f"MLflow: {link}")
    return submit.exit_code(found) if found.ended else 0


if __name__ == "__main__":
    sys.exit(run(main))
