"""The job server of a Ray cluster: reached with this user's token, and understood when it refuses."""

import contextlib
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlparse

from xnemo_platform.errors import PlatformError

START_WITHIN_S = 90.0
SUPERVISOR = "_ray_internal_job_actor_"  # how Ray names the actor that runs a job; the job's id follows
MOST_SUPERVISORS = 10_000  # Ray's own limit for one answer


class AwayError(PlatformError):
    """The cluster's job server does not answer."""


def connect(address: str) -> Any:
    """A job client. Speaks with the token of this user where there is one and nothing else was said."""
    if not address.startswith(("http://", "https://")) or not urlparse(address).hostname:  # Ray would try its own port
        raise PlatformError(
            f"{address!r} is no job server's address: write it as http://head:8265 (XNEMO_RAY_ADDRESS)."
        )
    places = (os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
    if "RAY_AUTH_MODE" not in os.environ and (any(places) or Path("~/.ray/auth_token").expanduser().exists()):
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray's client sends none by itself
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise AwayError(f"{address}: {reason(error)}") from error
    except (RuntimeError, ValueError, OSError, RayError) as error:
        raise PlatformError(f"{address}: {reason(error)}") from error


@contextlib.contextmanager
def speaking(address: str) -> Iterator[Any]:
    """A client for a few questions; what goes wrong on the way is told in one sentence (PlatformError, AwayError)."""
    try:
        yield connect(address)
    except PlatformError:
        raise
    except OSError as error:
        raise AwayError(f"{address}: the job server has stopped answering; is the head being restarted?") from error
    except RuntimeError as error:
        away = re.search(r"status code 5\d\d", str(error))  # a head that is starting
        raise (AwayError if away else PlatformError)(f"{address}: {reason(error)}") from error


def supervised(client: Any) -> set[str] | None:
    """Ids of the jobs whose supervisor lives: the process that runs the job and writes down its end. None where the
    server cannot tell them all.

    Ray itself looks only when its job manager starts, which a restarted head puts off until somebody submits or stops
    a job; until then it tells jobs that died with the old head as running.
    """
    wanted = [("class_name", "JobSupervisor"), ("state", "ALIVE")]
    query = [("limit", str(MOST_SUPERVISORS))]
    for key, value in wanted:
        query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
    answer = client._do_request("GET", f"/api/v0/actors?{urlencode(query)}")
    if not answer.ok:
        return None
    listed = answer.json()["data"]["result"]
    if listed["total"] > listed["num_after_truncation"]:
        return None
    return {actor["name"].removeprefix(SUPERVISOR) for actor in listed["result"]}


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
    client = connect(address)
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


def reason(error: Exception) -> str:
    """What an error of Ray's client means, and the mend."""
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
