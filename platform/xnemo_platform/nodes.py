"""What each node of a cluster has and can reach, asked by tasks that run on the node itself.

`examine` runs inside a job. Nothing here judges: jobs/doctor_cluster.py turns the facts into findings.
"""

import json
import os
import shutil
import socket
import sys
import time
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xnemo_platform import storage
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import Settings

PACKAGES = ("ray", "torch", "deepspeed", "mlflow", "pyarrow", "numpy")
ANSWER_WITHIN_S = 120.0
PINGS = 5


@dataclass(frozen=True)
class Node:
    """One node. `versions` of Python and packages; `problems` by what was tried ("storage", "home", "mlflow"),
    "" where it went well; `skew_s` (clock against the driver's) is known to `skew_error_s`. `answered` is False,
    and the rest empty, if no task came back."""

    name: str
    answered: bool
    versions: dict[str, str]
    problems: dict[str, str]
    gpus: list[str]
    gpus_promised: int
    free_gib: float
    skew_s: float
    skew_error_s: float


def examine(places: Settings) -> list[Node]:
    """Facts of every living node of the Ray this process is connected to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = places.home / f".doctor-{uuid.uuid4().hex[:8]}"
    storage.publish_bytes(mark, b"seen by the driver")
    report, clock = ray.remote(num_cpus=0, max_retries=0)(look), ray.remote(num_cpus=0, max_retries=0)(clock_now)
    there = {each["NodeID"]: each for each in ray.nodes() if each["Alive"]}
    on = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in there}
    asked = {node: report.options(scheduling_strategy=on[node]).remote(places, str(mark)) for node in there}
    found = []
    try:
        for node, about in there.items():
            promised = int(about["Resources"].get("GPU", 0))
            name = f"{about['NodeManagerHostname']} ({about['NodeManagerAddress']})"
            try:
                facts = ray.get(asked[node], timeout=ANSWER_WITHIN_S)
                ask = clock.options(scheduling_strategy=on[node]).remote
                skew, error = _skew(lambda ask=ask: ray.get(ask(), timeout=ANSWER_WITHIN_S))
                found.append(Node(name, True, gpus_promised=promised, skew_s=skew, skew_error_s=error, **facts))
            except ray.exceptions.RayError as error:
                late = isinstance(error, ray.exceptions.GetTimeoutError)
                reason = f"{ANSWER_WITHIN_S:.0f} s passed" if late else str(error).strip().splitlines()[-1][:200]
                found.append(Node(name, False, {}, {"node": reason}, [], promised, 0.0, 0.0, 0.0))
    finally:
        mark.unlink(missing_ok=True)
    return found


def look(places: Settings, mark: str) -> dict[str, Any]:
    """Everything about this node but its clock; runs on it. `mark`: a file that the driver wrote below home."""
    folder = next(path for path in (places.home, *places.home.parents) if path.exists())
    return {
        "versions": versions(),
        "problems": {"storage": _storage(places.storage), "home": _home(Path(mark)), "mlflow": tracking(places)},
        "gpus": _gpus(),
        "free_gib": shutil.disk_usage(folder).free / 2**30,
    }


def clock_now() -> float:
    """This node's clock, seconds since 1970."""
    return time.time()


def versions() -> dict[str, str]:
    """Of Python and of the packages that must be the same on all nodes."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def tracking(places: Settings) -> str:
    """What keeps MLflow from answering here, or ""."""
    from xnemo_platform.tracking import mlflow_client, why

    try:
        mlflow_client(places.tracking_uri).search_experiments(max_results=1)
    except Exception as error:  # whatever it raises is the answer
        return f"{places.tracking_uri}: {why(error)}"
    return ""


def _storage(root: str) -> str:
    """Write, read, delete."""
    uri = storage.join(root, f".doctor-{socket.gethostname()}-{os.getpid()}")
    try:
        storage.publish_bytes(uri, b"written and read")
        if storage.read_bytes(uri) != b"written and read":
            return f"{uri} does not read as it was written"
        storage.remove(uri)
    except PlatformError as error:
        return str(error)
    return ""


def _home(mark: Path) -> str:
    """The driver's file must be here too, and a file of ours must be allowed."""
    try:
        mark.read_bytes()
        beside = mark.with_name(f"{mark.name}-{socket.gethostname()}-{os.getpid()}")
        beside.write_bytes(json.dumps(time.time()).encode())
        beside.unlink()
    except FileNotFoundError:
        return f"{mark.parent} is not the folder the driver writes to: mount the same volume on every node"
    except OSError as error:
        return f"{mark.parent}: {error.strerror}"
    return ""


def _gpus() -> list[str]:
    """Names of the GPUs the driver library shows; Ray hides them from tasks that asked for none."""
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        import torch

        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _skew(ask: Any) -> tuple[float, float]:
    """Seconds a node's clock is ahead, and how well that is known: half of the quickest of a few round trips."""
    best = (0.0, float("inf"))
    for _ in range(PINGS):
        sent = time.time()
        theirs = ask()
        back = time.time()
        if (back - sent) / 2 < best[1]:
            best = (theirs - (sent + back) / 2, (back - sent) / 2)
    return best
