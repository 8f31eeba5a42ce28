"""What the workers of an ingestion count as they go, on Ray's Prometheus endpoint (every node's metrics port).

Ray Data exports blocks, tasks and memory by itself (`ray_data_*`); these tell videos, reasons and stages. Outside
Ray nothing happens.
"""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

COUNTERS = {
    "seconds": ("Time of the workers, by stage: fetch, probe, decode, detect, crop, write.", "stage"),
    "videos": ("Videos that are done, by outcome: used, or the reason of the quarantine.", "outcome"),
    "frames": ("Frames that were decoded, by fate: kept, or the reason they were dropped for.", "fate"),
}


def count(name: str, values: Mapping[str, float], dataset: str) -> None:
    """Add to a counter, by the value of its tag."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        for tag, value in values.items():
            if value > 0:  # Ray's counters refuse zero
                _counter(name).inc(value, {"dataset": dataset, COUNTERS[name][1]: tag})


@cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    text, tag = COUNTERS[name]
    return Counter(f"xnemo_ingest_{name}", text, ("dataset", tag))
