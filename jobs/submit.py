"""`xnemo submit`: run any command of this project as a job of a Ray cluster, and follow its log.

The code travels with the job, and config files the arguments name; data never: give URIs. A token for the cluster is
taken from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH. Ctrl-C ends the following, not the job.
"""

import sys
from collections.abc import Sequence

from jobs.cli import COMMANDS, parser, run

EXAMPLES = """\
  xnemo submit --address http://head:8265 data ingest --dataset folder --source s3://b/clips --output s3://b/shards
  xnemo submit --address http://head:8265 --id appearance-1 train appearance --config my.yaml --dataset s3://b/shards \\
      --output /mnt/xnemo/runs/appearance-1
  xnemo jobs stop appearance-1 --address http://head:8265"""


def main(argv: Sequence[str]) -> int:
    options = parser("submit", __doc__ or "", EXAMPLES)
    options.add_argument("--address", help="job server of the cluster (XNEMO_RAY_ADDRESS)")
    options.add_argument("--id", help="job id: submitting a used one attaches to that job")
    options.add_argument("--no-follow", action="store_true", help="return once it is submitted")
    options.add_argument("command", help="data, train, evaluate, motion, serve, model", metavar="COMMAND ...")
    own = [at for at, word in enumerate(argv) if word in COMMANDS]  # what follows belongs to the command
    cut = own[0] if own else len(argv)
    arguments = options.parse_args([*argv[: cut + 1]])
    words = [*argv[cut:]]

    import shlex
    import socket
    import time

    from xnemo_platform import job_server, submit
    from xnemo_platform.errors import PlatformError
    from xnemo_platform.settings import explicit, settings

    if arguments.command not in COMMANDS:
        raise PlatformError(f"xnemo submit {arguments.command}: no such command; known are {', '.join(COMMANDS)}.")
    places = settings()
    address = arguments.address or places.ray_address
    if not address:
        raise PlatformError("no cluster to submit to: give --address http://head:8265 or set XNEMO_RAY_ADDRESS.")
    job_id = arguments.id or f"{words[0]}-{time.strftime('%Y%m%d-%H%M%S')}"
    module = COMMANDS[words[0]][0]
    env = places.env() if job_server.shares_files(address) else explicit()
    facts = {"command": shlex.join(words), "client": socket.gethostname()}
    job = submit.submit([module, *words[1:]], job_id, address, env=env, metadata=facts)
    print(f"job {job.id} at {address}: {job.status}", flush=True)
    if arguments.no_follow:
        print(f"follow it with: xnemo jobs logs {job.id} --address {address}")
        return 0
    job = submit.follow(job.id, address, lambda line: print(line, flush=True))
    print(f"job {job.id}: {job.status} {job.message}".rstrip(), flush=True)
    if link := submit.tracking_link(job.id, address):
        print(f"MLflow: {link}", flush=True)
    return submit.exit_code(job)


if __name__ == "__main__":
    sys.exit(run(main))
