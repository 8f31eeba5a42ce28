"""Jobs on a Ray cluster: submit, follow, stop. A cluster of this machine's own to submit to is in cluster.py.

A job is one of this project's modules with its arguments. To a cluster on this machine nothing is copied: the
job runs this very checkout. To any other (a forwarded port and a container are others) the code, and config
files named in the arguments, travel with the job, and nothing else of the folder does.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xnemo_platform.errors import PlatformError
from xnemo_platform.job_server import (
    START_WITHIN_S,
    AwayError,
    connect,
    reason,
    require_same_ray,
    shares_files,
    speaking,
    supervised,
)
from xnemo_platform.packing import packed, refuse_secrets

ENDED = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130, "LOST": 1}
LOST_TAILS = 12  # log connections that may break in a row before following gives up: two minutes
BACK_WITHIN_S = 600.0  # a head that is restarted is waited for
QUIET_S = 30.0  # a log that is silent for longer is asked whether its job still runs
TRACKED = re.compile(r"^MLflow: (\S+)$", re.MULTILINE)  # what xnemo_platform.tracking prints


@dataclass(frozen=True)
class Job:
    """A submitted job. `status` is PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED, or LOST: told as running by a head
    that was restarted since, though what ran it is gone. `message`: why, in one line. `metadata["command"]`: what was
    typed after `submit`."""

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

    A job that failed, was stopped or lost is started again under its id; what it did is continued, not repeated,
    by the runs and manifests themselves. `env` is readable by everyone who sees the job: secrets are refused.
    """
    refuse_secrets(arguments, env or {})
    client = connect(address)
    require_same_ray(client, address)
    known = find(job_id, address)
    if known and known.status in ("PENDING", "RUNNING", "SUCCEEDED"):
        return known
    if known:
        _forget(known, address)
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
    told, broken, away_since, interrupted = 0, 0, 0.0, False

    def once(number: int, line: str) -> None:
        nonlocal told, broken
        if number > told:
            told, broken = number, 0
            on_line(line)

    while broken < LOST_TAILS:
        try:
            with contextlib.suppress(RuntimeError, OSError):  # the connection broke: take it up where it was
                asyncio.run(_tail(job_id, address, once))
            job = _ended_soon(job_id, address, known=told > 0 or interrupted)
        except AwayError as error:
            if not away_since:
                away_since, interrupted = time.monotonic(), True
                on_line(f"-- {address} does not answer; waiting for it, up to {BACK_WITHIN_S / 60:.0f} min --")
            if time.monotonic() - away_since > BACK_WITHIN_S:
                raise AwayError(
                    f"{address} has not answered for {BACK_WITHIN_S / 60:.0f} min (docs/runbook.md, HeadAway); once "
                    f"it does, `xnemo jobs logs {job_id}` says what became of the job."
                ) from error
            time.sleep(2)
            continue
        if job.ended:
            return job
        broken, away_since = broken + 1, 0.0
    raise PlatformError(f"job {job_id} runs on, but its log at {address} keeps breaking off; follow it again.")


def find(job_id: str, address: str) -> Job | None:
    """The job of that id, if there is one."""

    def ask(client: Any) -> list[Job]:
        try:
            return [_job(client.get_job_info(job_id))]
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return []
            raise

    found = _as_they_are(address, ask)
    return found[0] if found else None


def jobs(address: str) -> list[Job]:
    """Every submitted job of the cluster."""
    return _as_they_are(
        address, lambda client: [_job(details) for details in client.list_jobs() if details.submission_id]
    )


def stop(job_id: str, address: str) -> None:
    """Ask the job to end. It need not save anything: its last commit counts."""
    if find(job_id, address) is None:
        raise PlatformError(f"{address} knows no job {job_id}.")
    with speaking(address) as client:
        client.stop_job(job_id)


def exit_code(job: Job) -> int:
    """What a command that followed the job exits with: the job's own code, 130 if it was stopped."""
    return job.exit_code if job.status == "FAILED" and job.exit_code else ENDED.get(job.status, 1)


def tracking_link(job_id: str, address: str) -> str | None:
    """Where the job's run can be watched in MLflow, once its log says so."""
    with contextlib.suppress(RuntimeError, OSError):
        if found := TRACKED.findall(connect(address).get_job_logs(job_id)):
            return str(found[-1])
    return None


def _as_they_are(address: str, ask: Callable[[Any], list[Job]]) -> list[Job]:
    """What `ask` finds, and of the jobs it is told as running those that nobody runs any more as LOST.

    A supervisor writes down its job's end before it goes: so a job is lost if it is told as running both before and
    after its supervisor was found missing.
    """
    with speaking(address) as client:
        found = ask(client)
        running = {job.id for job in found if job.status == "RUNNING"}
        alive = supervised(client) if running else None
        if alive is None or running <= alive:
            return found
        return [_lost(job, address) if job.id in running - alive else job for job in ask(client)]


def _lost(job: Job, address: str) -> Job:
    if job.status != "RUNNING":
        return job
    again = f"xnemo submit --address {address} --id {job.id} {job.metadata.get('command', '…')}"
    message = f"what ran it died with its node (was the head restarted?); it goes on from its last commit with: {again}"
    return replace(job, status="LOST", message=message)


def _forget(job: Job, address: str) -> None:
    """Delete the record of an ended job. Of a lost one Ray must see the end first: being asked to stop it, it looks."""
    with speaking(address) as client:
        if job.status == "LOST":
            client.stop_job(job.id)
            deadline = time.monotonic() + START_WITHIN_S
            while not _job(client.get_job_info(job.id)).ended and time.monotonic() < deadline:
                time.sleep(0.5)
        client.delete_job(job.id)


def _when_ready(action: Callable[[], Any]) -> Any:
    """Do it as soon as a starting cluster lets us; the cause in one sentence if it does not in time."""
    deadline = time.monotonic() + START_WITHIN_S
    while True:
        try:
            return action()
        except (PlatformError, RuntimeError, ConnectionError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise PlatformError(reason(error)) from error
        time.sleep(0.3)


async def _tail(job_id: str, address: str, on_line: Callable[[int, str], None]) -> None:
    """Hand on whole lines with their numbers, from the log's beginning until the job ends.

    A machine that loses power closes no connection: while the log is silent, the job itself is asked for.
    """
    rest, number = "", 0
    chunks = connect(address).tail_job_logs(job_id)
    while True:
        coming = asyncio.ensure_future(anext(chunks, None))
        while not (await asyncio.wait({coming}, timeout=QUIET_S))[0]:
            job = await asyncio.to_thread(find, job_id, address)
            if job is None or job.ended:
                coming.cancel()
                return
        chunk = coming.result()
        if chunk is None:
            break
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
    message = (details.message or "").partition(", last available logs")[0]  # whoever follows has seen these
    return Job(
        details.submission_id,
        status,
        message.partition("\n")[0],
        details.driver_exit_code,
        details.metadata or {},
        details.entrypoint or "",
    )
