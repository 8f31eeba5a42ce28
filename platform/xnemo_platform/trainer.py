"""A training as a run on Ray Train: workers that come back after a loss, a driver that keeps the books.

Nothing is pickled but plain data: workers import the task's builder by name. What a worker needs to continue
lies in the run's folder (a path every node sees), so a killed worker, a killed driver and a repeated command
all continue from the newest commit. Ray's own checkpoints are not used: they are lost if a kill follows
`report` closely.
"""

import fcntl
import hashlib
import importlib
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from xnemo_platform.config import diff, fingerprint, flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.tracking import ARTIFACTS, Drain, Tracker, run_id

log = logging.getLogger(__name__)
CONFIG, RESULT, ERROR = "config.json", "result.json", "error.json"
EXPORT = "export"
OWNED_WITHIN_S = 120.0  # a driver without its cluster gives up after 60


@dataclass(frozen=True)
class Place:
    """What a task's builder learns about where it is: `device` ("cpu", "cuda:0"), ranks, the run's folder."""

    device: str
    rank: int
    world: int
    folder: Path


@dataclass(frozen=True)
class Finished:
    """A training that is done. `export` is the model's folder, as the task wrote it."""

    folder: Path
    export: Path
    metrics: dict[str, float]
    run_id: str | None  # in MLflow; none if it was away all the time


def fit(
    build: str,
    config: BaseModel,
    folder: Path,
    tracker: Tracker,
    *,
    may_change: Sequence[str] = (),
    cpus: int = 6,
    env: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> Finished:
    """Train, or continue, or hand back what is already done.

    `build` is "package.module:function" and is called in each worker as `function(config, Place) -> Task`;
    `config` has the loop's numbers under `loop`. `folder` (absolute, on storage all nodes share) is the run: the
    same folder with the same config continues it, with another config is refused. `may_change` are dotted keys
    free to differ. `cpus`: logical CPUs of a Ray started here. `env`: for the workers.
    Raises `PlatformError` with the workers' own sentence where they could say what is wrong.
    """
    folder = folder.resolve()
    mark = fingerprint(config, ignore=may_change)
    spec = {
        "build": build,
        "class": f"{type(config).__module__}:{type(config).__qualname__}",
        "config": config.model_dump(mode="json"),
        "folder": str(folder),
        "fingerprint": mark,
    }
    with _owned(folder):
        _check_same(folder, config, may_change)
        name = f"{folder.parent.name}/{folder.name}"
        drain = Drain(folder, folder.name, tracker, flatten(config), {"xnemo.folder": name} | (tags or {}))
        with drain:
            result = _read_json(folder / RESULT)
            if result is None:
                (folder / ERROR).unlink(missing_ok=True)
                _run_on_ray(spec, config, cpus, env or {})
                result = _read_json(folder / RESULT)
    if result is None:
        raise PlatformError(f"{folder}: the training ended without a result; see its log and run it again.")
    return Finished(folder, folder / EXPORT, result, run_id(folder))


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """One driver per run; a second one is refused rather than left to spoil the first.

    It waits a while first: the driver of a cluster that was killed notices within a minute that it is alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline, told = time.monotonic() + OWNED_WITHIN_S, False
    with open(folder / ".lock", "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise PlatformError(f"{folder}: another process trains this run; wait for it or stop it.") from None
            if not told:
                print(
                    f"{folder}: another process trains this run; waiting for it, ETA {OWNED_WITHIN_S:.0f} s", flush=True
                )
                told = True
            time.sleep(1)
        yield


def _check_same(folder: Path, config: BaseModel, may_change: Sequence[str]) -> None:
    known = _read_json(folder / CONFIG)
    if known and (changes := diff(known, config, ignore=may_change)):
        raise PlatformError(
            f"{folder} holds a run with another configuration ({'; '.join(changes)}); restore the old values, or "
            "give this run another output."
        )
    data = config.model_dump(mode="json")
    _write_json(folder / CONFIG, data)
    artifacts = folder / ARTIFACTS
    artifacts.mkdir(exist_ok=True)
    (artifacts / "config.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def _run_on_ray(spec: dict[str, Any], config: Any, cpus: int, env: dict[str, str]) -> None:
    start_ray(cpus)
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    loop, folder = config.loop, Path(spec["folder"])
    there = ray.cluster_resources()
    gpu = loop.device == "gpu" or (loop.device == "auto" and there.get("GPU", 0) > 0)
    resources = {"CPU": loop.cpus} | ({"GPU": 1} if gpu else {})
    for name, each in resources.items():
        if each * loop.workers > there.get(name, 0):
            wanted = f"{each * loop.workers:g} {name}s for {loop.workers} workers"
            log.warning(
                "waiting for %s, the cluster has %g; add nodes or lower loop.workers", wanted, there.get(name, 0)
            )
    trainer = TorchTrainer(
        _worker,
        train_loop_config=spec,
        scaling_config=ScalingConfig(num_workers=loop.workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            # Ray continues a run of the same name; ours continue by themselves, so the name only has to be stable.
            name=f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=loop.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": _worker_env(loop.threads, gpu) | env},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        told = _read_json(folder / ERROR)
        last = told["message"] if told else str(error).strip().splitlines()[-1]
        raise PlatformError(last) from error
    if told := _read_json(folder / ERROR):
        raise PlatformError(told["message"])


def start_ray(cpus: int) -> None:
    """Join the cluster of RAY_ADDRESS (set inside a Ray job), or start a private one with `cpus` logical CPUs.

    More logical CPUs than cores: readers and trainers that wait for each other's CPU would wait for ever.
    """
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also how long the end of a run goes unnoticed
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # prints twice
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_worker_niceness": "0",  # of a private cluster: its workers are the work, not what steps back (15)
    }.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nothing but this process talks to it
        # With a dashboard, because a part of Ray Train asks it for the state of actors and complains each second.
        try:
            ray.init(address="local", num_cpus=cpus, log_to_driver=True, include_dashboard=True)
        except Exception as error:  # Ray raises nothing narrower when its processes do not come up in time
            said = str(error).partition(". ")[0][:120]
            raise PlatformError(
                f"Ray did not start on this machine ({said}): it may be too busy, or out of memory or disk (`xnemo "
                "doctor`); try again, or see /tmp/ray/session_latest/logs."
            ) from error


def share_ray(cpus: int) -> None:
    """Start Ray like `start_ray`, and let the processes that this one starts join it."""
    start_ray(cpus)
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _worker_env(threads: int, gpu: bool) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": "cuda" if gpu else "cpu",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        # Large activations come and go each step: keep their pages instead of asking the kernel for zeroed ones.
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        "MALLOC_TOP_PAD_": str(2**26),
    }


def _worker(spec: dict[str, Any]) -> None:
    """One rank: build the task, run the loop, leave the result in the run's folder."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from xnemo_platform.engine import Run, train

    folder, context = Path(spec["folder"]), ray.train.get_context()
    if (folder / ERROR).exists():  # said by a worker of the attempt before: trying again cannot help
        return
    config = _named(spec["class"]).model_validate(spec["config"])
    torch.set_num_threads(config.loop.threads)
    place = Place(str(get_device()), context.get_world_rank(), context.get_world_size(), folder)
    try:
        task = _named(spec["build"])(config, place)
        metrics = train(task, config.loop, Run(folder, spec["config"], spec["fingerprint"]))
    except (PlatformError, ValueError) as error:  # a wrong input stays wrong: tell the driver, do not retry
        _write_json(folder / ERROR, {"message": str(error), "trace": traceback.format_exc()})
        if place.world == 1:
            return
        raise  # the others wait in a collective; Ray ends them
    if place.rank == 0:
        _write_json(folder / RESULT, metrics)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _write_json(path: Path, data: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=1))
    os.replace(temporary, path)
