"""A Ray cluster of this machine's own that outlives the command: what a laptop submits jobs to.

Its place, address and process are written in a small file, so that the next command finds it and `stop` ends
exactly it. Every port is a free one of the loopback: two clusters on one machine do not meet.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from xnemo_platform.errors import PlatformError

FILE = "cluster.json"
START_WITHIN_S = 120.0
STOP_WITHIN_S = 15.0
OBJECT_STORE_BYTES = 10**9
FREE_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)


@dataclass(frozen=True)
class Head:
    """A running head node. `dashboard` is also the address jobs are submitted to."""

    pid: int
    port: int
    dashboard: str
    temporary: str

    @property
    def alive(self) -> bool:
        """Whether the process is there and its job server answers."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, 0)
            port = int(self.dashboard.rsplit(":", 1)[1])
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return True
        return False


def running(folder: Path) -> Head | None:
    """The cluster that was started in `folder`, if it still runs."""
    try:
        head = Head(**json.loads((folder / FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return head if head.alive else None


def start(folder: Path, cpus: int, env: Mapping[str, str] | None = None) -> Head:
    """The cluster of `folder`: the one that runs, or a new one, ready to take jobs.

    `cpus` are logical: more than there are cores, or stages that wait for each other's CPU stand still.
    `env` reaches every worker. Raises `PlatformError` with the last line of the log if it does not come up.
    """
    if head := running(folder):
        return head
    folder.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix="xnemo-ray-", dir="/tmp")  # short: sockets below it allow 107 characters
    port, dashboard, *others = _free_ports(2 + len(FREE_PORTS))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-dashboard=true"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", f"--num-cpus={cpus}", f"--temp-dir={temporary}"),
        *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--{name}={number}" for name, number in zip(FREE_PORTS, others, strict=True)),
    ]
    # Ray's workers step back behind everything else of a machine (niceness 15): here they are the work.
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_JOB_STOP_WAIT_TIME_S": "30", "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_worker_niceness": "0"}  # fmt: skip
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # for the client in this process
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=settings | dict(os.environ) | dict(env or {}), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True, cwd="/",
        )  # fmt: skip
    head = Head(process.pid, port, f"http://127.0.0.1:{dashboard}", temporary)
    _write(folder / FILE, head)
    _wait(head, process, log)
    return head


def stop(folder: Path) -> bool:
    """End the cluster of `folder`, and nothing else; whether there was one."""
    path = folder / FILE
    try:
        head = Head(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return False
    was = head.alive
    if was:
        _stop_jobs(head)
        _end(head)
    shutil.rmtree(head.temporary, ignore_errors=True)
    path.unlink(missing_ok=True)
    return was


@contextlib.contextmanager
def local_cluster(folder: Path, cpus: int = 6, env: Mapping[str, str] | None = None) -> Iterator[Head]:
    """A cluster for the length of the block."""
    try:
        yield start(folder, cpus, env)
    finally:
        stop(folder)


def _wait(head: Head, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the job server takes jobs; an agent that is not there yet answers 500 for some seconds."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise PlatformError(f"the local Ray cluster did not start: {''.join(last)} (log: {log}).")
        with contextlib.suppress(RuntimeError, ConnectionError, OSError):
            JobSubmissionClient(head.dashboard).list_jobs()
            return
        time.sleep(0.3)
    _end(head)
    raise PlatformError(f"the local Ray cluster did not answer within {START_WITHIN_S:.0f} s; its log is {log}.")


def _stop_jobs(head: Head) -> None:
    """Jobs have sessions of their own: without this they would outlive their cluster by a minute."""
    from ray.job_submission import JobSubmissionClient

    with contextlib.suppress(RuntimeError, ConnectionError, OSError):
        client = JobSubmissionClient(head.dashboard)
        for job in client.list_jobs():
            if job.submission_id and not job.status.is_terminal():
                client.stop_job(job.submission_id)


def _end(head: Head) -> None:
    """SIGTERM, then SIGKILL, to the whole session of the head."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(head.pid, sent)
        deadline = time.monotonic() + STOP_WITHIN_S
        while head.alive and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(head.pid, os.WNOHANG)
            time.sleep(0.2)


def _write(path: Path, head: Head) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(asdict(head)))
    temporary.replace(path)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
