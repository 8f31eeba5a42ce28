"""Jobs on a Ray cluster: submit, follow, stop. A cluster of this machine's own to submit to is in cluster.py.

A job is one of this project's modules with its arguments. To a cluster on this machine nothing is copied: the
job runs this very checkout. To any other (a forwarded port and a container are others) the code, and config
files named in the arguments, travel with the job, and nothing else of the folder does.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from xnemo_platform.errors import PlatformError
from xnemo_platform.packing import packed, refuse_secrets

ENDED = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
START_WITHIN_S = 90.0
LOST_TAILS = 5  # log connections that may break in a row before following gives up
BACK_WITHIN_S = 600.0  # a head that is restarted is waited for
TRACKED = re.compile(r"^MLflow: (\S+)$", re.MULTILINE)  # what xnemo_platform.tracking prints


class AwayError(PlatformError):
    """The cluster's job server does not answer."""


@dataclass(frozen=True)
class Job:
    """A submitted job. `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    id: str
    status: str
    message: str
    exit_code: int | None
    metadata: dict[str, str]
    entrypoint: str = ""

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
    refuse_secrets(arguments, env or {})
    client = _client(address)
    require_same_ray(client, address)
    known = find(job_id, address)
    if known and known.status in ("PENDING", "RUNNING", "SUCCEEDED"):
        return known
    if known:
        client.delete_job(job_id)
    with packed(arguments, local=shares_files(address)) as (entrypoint, runtime_env):
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
    told, lost, away_since, interrupted = 0, 0, 0.0, False

    def once(number: int, line: str) -> None:
        nonlocal told, lost
        if number > told:
            told, lost = number, 0
            on_line(line)

    while lost < LOST_TAILS:
        try:
            with contextlib.suppress(RuntimeError, OSError):  # the connection broke: take it up where it was
                asyncio.run(_tail(_client(address), job_id, once))
            job = _ended_soon(job_id, address, known=told > 0 or interrupted)
        except AwayError:
            if not away_since:
                away_since, interrupted = time.monotonic(), True
                on_line(f"-- {address} does not answer; waiting for it, up to {BACK_WITHIN_S / 60:.0f} min --")
            if time.monotonic() - away_since > BACK_WITHIN_S:
                raise
            time.sleep(2)
            continue
        if job.ended:
            return job
        lost, away_since = lost + 1, 0.0
    raise PlatformError(f"job {job_id} runs on, but its log at {address} keeps breaking off; follow it again.")


def find(job_id: str, address: str) -> Job | None:
    """The job of that id, if there is one."""
    client = _client(address)
    try:
        return _job(client.get_job_info(job_id))
    except OSError as error:
        raise AwayError(f"{address}: the job server has stopped answering; is the head being restarted?") from error
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        kind = AwayError if re.search(r"status code 5\d\d", str(error)) else PlatformError  # a head that is starting
        raise kind(_reason(error)) from error


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


def tracking_link(job_id: str, address: str) -> str | None:
    """Where the job's run can be watched in MLflow, once its log says so."""
    with contextlib.suppress(RuntimeError, OSError):
        if found := TRACKED.findall(_client(address).get_job_logs(job_id)):
            return str(found[-1])
    return None


def require_same_ray(client: Any, address: str) -> None:
    """Raise PlatformError unless the cluster runs the Ray release (2.60 of 2.60.0) this client is made for."""
    import ray

    theirs, ours = getattr(client, "_server_ray_version", None) or ray.__version__, ray.__version__
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise PlatformError(
            f"{address} runs Ray {theirs}, this client Ray {ours}: the code that would travel is made for {ours}. "
            f"Use the client of the cluster's image, or upgrade the cluster (docs/runbook.md, Upgrade)."
        )


def shares_files(address: str) -> bool:
    """Whether the cluster runs on this machine, so that its jobs see this checkout and our paths.

    The loopback alone says nothing: a forwarded port and a container answer there too, under host names of
    their own.
    """
    if not is_local(address):
        return False
    client = _client(address)
    names: list[str] = []
    deadline = time.monotonic() + START_WITHIN_S
    while not names and time.monotonic() < deadline:  # a head that has just started knows no node yet
        answer = client._do_request("GET", "/nodes?view=hostNameList")
        names = answer.json()["data"]["hostNameList"] if answer.ok else []
        time.sleep(0 if names else 0.3)
    return set(names) == {socket.gethostname()}


def is_local(address: str) -> bool:
    """Whether the address is the loopback of this machine."""
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
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise AwayError(f"{address}: {_reason(error)}") from error
    except (RuntimeError, ValueError, OSError, RayError) as error:
        raise PlatformError(f"{address}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error)
    first = text.splitlines()[0][:300] if text else type(error).__name__  # the rest is advice for other programs
    if "401" in first or "Unauthorized" in first:
        return "the cluster wants a token; put it in RAY_AUTH_TOKEN, or its file in RAY_AUTH_TOKEN_PATH."
    if "403" in first or "Forbidden" in first:
        return (
            f"the cluster refused the token in {_token_place()}: it is wrong, or was rotated since; fetch the new one "
            "(docs/runbook.md, Rotate keys)."
        )
    if "No available agent" in text:
        return (
            "the cluster has no agent that runs jobs: it is still starting, or another cluster holds the port of "
            "its dashboard agent (dashboard_agent.log on the head says so)."
        )
    if isinstance(error, ConnectionError):
        return "no Ray job server answers there; check the address (XNEMO_RAY_ADDRESS) and that the cluster runs."
    return first


def _token_place() -> str:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return "~/.ray/auth_token"


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


def _ended_soon(job_id: str, address: str, known: bool) -> Job:
    """The job; after its log has ended its status follows within moments. `known`: it was there before."""
    deadline = time.monotonic() + 10
    while True:
        job = find(job_id, address)
        if job is None and known:
            raise PlatformError(
                f"{address} was started anew and has forgotten job {job_id}; what it committed is kept: submit the "
                f"same command with --id {job_id} again and it goes on from there."
            )
        if job is None:
            raise PlatformError(f"{address} knows no job {job_id}.")
        if job.ended or time.monotonic() > deadline:
            return job
        time.sleep(0.2)


def _job(details: Any) -> Job:
    status = str(getattr(details.status, "value", details.status))
    return Job(
        details.submission_id,
        status,
        details.message or "",
        details.driver_exit_code,
        details.metadata or {},
        details.entrypoint or "",
    )
