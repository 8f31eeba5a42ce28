"""Jobs on a Ray cluster: submit, follow, stop. A cluster of this machine's own to submit to is in cluster.py.

A job is one of this project's modules with its arguments. To a cluster on this machine nothing is copied: the
job runs this very checkout. To any other, the code (and config files named in the arguments) travel with the
job, and nothing else of the folder does.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from xnemo_platform.errors import PlatformError

ROOT = Path(__file__).resolve().parents[2]
CODE = ("xnemo", "platform", "pipelines", "jobs")
CONFIG_SUFFIXES = (".yaml", ".yml", ".toml", ".json")
SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)
ENDED = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
START_WITHIN_S = 90.0
LOST_TAILS = 5  # log connections that may break before following gives up


@dataclass(frozen=True)
class Job:
    """A submitted job. `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    id: str
    status: str
    message: str
    exit_code: int | None
    metadata: dict[str, str]

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def submit(
    arguments: Sequence[str],
    job_id: str,
    address: str,
    *,
    env: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Job:
    """Start `python -m <arguments>` as job `job_id`, or attach to it where it runs or has succeeded.

    A job that failed or was stopped is started again under its id; what it did is continued, not repeated, by
    the runs and manifests themselves. `env` is readable by everyone who sees the job: secrets are refused.
    """
    for name in env or {}:
        if SECRET.search(name):
            raise PlatformError(f"{name}: a job's environment can be read by everyone; mount secrets on the nodes.")
    client = _client(address)
    known = find(job_id, address)
    if known and known.status in ("PENDING", "RUNNING", "SUCCEEDED"):
        return known
    if known:
        client.delete_job(job_id)
    with _packed(arguments, local=is_local(address)) as (entrypoint, runtime_env):
        runtime_env["env_vars"] |= dict(env or {})
        _when_ready(
            lambda: client.submit_job(
                entrypoint=entrypoint,
                submission_id=job_id,
                runtime_env=runtime_env,
                metadata=dict(metadata or {}),
            )
        )
    found = find(job_id, address)
    if found is None:
        raise PlatformError(f"job {job_id} vanished after it was submitted; look at the head node's log.")
    return found


def follow(job_id: str, address: str, on_line: Callable[[str], None]) -> Job:
    """Hand over the job's log line by line until it ends; the job as it ended. Ctrl-C leaves the job running."""
    client, told = _client(address), 0

    def once(number: int, line: str) -> None:
        nonlocal told
        if number > told:
            told = number
            on_line(line)

    for _ in range(LOST_TAILS):
        with contextlib.suppress(RuntimeError, OSError):  # the connection broke: take it up where it was
            asyncio.run(_tail(client, job_id, once))
        job = _ended_soon(job_id, address)
        if job.ended:
            return job
    raise PlatformError(f"job {job_id} runs on, but its log at {address} keeps breaking off; follow it again.")


def find(job_id: str, address: str) -> Job | None:
    """The job of that id, if there is one."""
    try:
        return _job(_client(address).get_job_info(job_id))
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise PlatformError(_reason(error)) from error


def jobs(address: str) -> list[Job]:
    """Every submitted job of the cluster."""
    return [_job(details) for details in _client(address).list_jobs() if details.submission_id]


def stop(job_id: str, address: str) -> None:
    """Ask the job to end. It need not save anything: its last commit counts."""
    if find(job_id, address) is None:
        raise PlatformError(f"{address} knows no job {job_id}.")
    _client(address).stop_job(job_id)


def exit_code(job: Job) -> int:
    """What a command that followed the job exits with: the job's own code, 130 if it was stopped."""
    return job.exit_code if job.status == "FAILED" and job.exit_code else ENDED.get(job.status, 1)


def is_local(address: str) -> bool:
    """Whether the cluster's job server is on this machine, so that it sees this checkout."""
    host = urlparse(address).hostname or address.split(":")[0]
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _client(address: str) -> Any:
    """A job client. Speaks with the token of this user where there is one and nothing else was said."""
    places = (os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
    if "RAY_AUTH_MODE" not in os.environ and (any(places) or Path("~/.ray/auth_token").expanduser().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray's client sends none by itself
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise PlatformError(f"{address}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    if "401" in text or "Unauthorized" in text:
        return "the cluster wants a token; put it in RAY_AUTH_TOKEN, or its file in RAY_AUTH_TOKEN_PATH."
    if "403" in text or "Forbidden" in text:
        return "the cluster refused the token in RAY_AUTH_TOKEN; ask for a new one."
    if "No available agent" in text:
        return (
            "the cluster has no agent that runs jobs: it is still starting, or another cluster holds the port of "
            "its dashboard agent (dashboard_agent.log on the head says so)."
        )
    if isinstance(error, ConnectionError):
        return "no Ray job server answers there; check the address (XNEMO_RAY_ADDRESS) and that the cluster runs."
    return text.splitlines()[0][:300] if text else type(error).__name__


def _when_ready(action: Callable[[], Any]) -> Any:
    """Do it as soon as a starting cluster lets us; the cause in one sentence if it does not in time."""
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        try:
            return action()
        except (PlatformError, RuntimeError, ConnectionError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise PlatformError(_reason(error)) from error
        time.sleep(0.3)


async def _tail(client: Any, job_id: str, on_line: Callable[[int, str], None]) -> None:
    """Hand on whole lines with their numbers, from the log's beginning until the job ends."""
    rest, number = "", 0
    async for chunk in client.tail_job_logs(job_id):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            number += 1
            on_line(number, line)
    if rest:
        on_line(number + 1, rest)


def _ended_soon(job_id: str, address: str) -> Job:
    """The job; after its log has ended its status follows within moments."""
    deadline = time.monotonic() + 10
    while True:
        job = find(job_id, address)
        if job is None:
            raise PlatformError(f"{address} knows no job {job_id}.")
        if job.ended or time.monotonic() > deadline:
            return job
        time.sleep(0.2)


def _job(details: Any) -> Job:
    status = str(getattr(details.status, "value", details.status))
    return Job(details.submission_id, status, details.message or "", details.driver_exit_code, details.metadata or {})


@contextlib.contextmanager
def _packed(arguments: Sequence[str], local: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entry point and runtime environment; for another machine, a folder with the code and named configs."""
    if local:
        paths = [str(ROOT), str(ROOT / "platform")]
        yield shlex.join([sys.executable, "-m", *arguments]), {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        return
    with tempfile.TemporaryDirectory(prefix="xnemo-job-") as folder:
        for part in CODE:
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        carried = [_carried(argument, Path(folder)) for argument in arguments]
        yield shlex.join(["python", "-m", *carried]), {"working_dir": folder, "env_vars": {"PYTHONPATH": "platform"}}


def _carried(argument: str, folder: Path) -> str:
    """A config file of this machine goes along, and the argument names the copy."""
    path = Path(argument)
    if path.suffix not in CONFIG_SUFFIXES or not path.is_file():
        return argument
    target = folder / "submitted" / path.name
    if target.exists() and target.read_bytes() != path.read_bytes():
        raise PlatformError(f"{argument}: another config file of that name is submitted too; rename one.")
    target.parent.mkdir(exist_ok=True)
    shutil.copy(path, target)
    return str(target.relative_to(folder))
