"""Actors of Ray Data that load one model each and turn pieces of a data set into published shards."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import models
from xnemo_platform.settings import settings
from xnemo_platform.trainer import start_ray

if TYPE_CHECKING:
    from xnemo.model import XNeMo


def results(
    actor: type, arguments: Sequence[Any], items: Sequence[dict[str, Any]], workers: int, cpus: float, gpus: float
) -> Iterator[dict[str, Any]]:
    """What `actor(*arguments)(item)` says of every item, {"row": JSON}, as it comes. Starts Ray if there is work."""
    if not items:
        return
    start_ray(settings().cpus)
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # callers tell in clips, not in blocks
    with warnings.catch_warnings():  # Ray 2.64 will name these two; without them a dying actor is retried for ever
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        data = ray.data.from_items(list(items), override_num_blocks=len(items)).map(
            actor,
            fn_constructor_args=tuple(arguments),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=2,
            max_task_retries=2,
        )
    for row in data.iter_rows():
        yield json.loads(row["row"])


def model_of_worker(place: str | Path, gpus: float) -> XNeMo:
    """The model in `place` for an actor with that share of a GPU; without one, computing on one thread."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    if not gpus:
        torch.set_num_threads(1)
    return models.load(place, "cuda" if gpus else "cpu")
