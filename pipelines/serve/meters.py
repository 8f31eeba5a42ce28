"""What the service measures, on Ray's Prometheus endpoint (every node's metrics port). Outside Ray nothing happens."""

import sys
from functools import cache
from typing import Any

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
COUNTERS = {
    "jobs": ("Jobs that ended, by kind and state.", ("kind", "state")),
    "frames": ("Frames of finished animations; its rate is frames per second.", ()),
    "rejects": ("Requests that were refused, by reason.", ("reason",)),
    "swaps": ("New versions behind the alias, by outcome (serving, refused).", ("outcome",)),
}
HISTOGRAMS = {
    "queue_wait_seconds": ("From acceptance to the beginning of work.", _SECONDS),
    "batch_windows": ("Denoising windows in one call of the network.", [1, 2, 3, 4, 6, 8, 12, 16, 32]),
    "step_seconds": ("One call of the network.", _SECONDS),
}
GAUGES = {"queue_length": "Jobs that wait.", "active_jobs": "Jobs that an engine has in hand."}


def count(name: str, by: float = 1, **tags: str) -> None:
    """Add to a counter."""
    if _on():
        _counter(name).inc(by, tags)


def observe(name: str, value: float) -> None:
    """Add an observation to a histogram."""
    if _on():
        _histogram(name).observe(value)


def show(name: str, value: float) -> None:
    """Set a gauge."""
    if _on():
        _gauge(name).set(value)


def _on() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    text, tags = COUNTERS[name]
    return Counter(f"xnemo_{name}", text, tags)


@cache
def _histogram(name: str) -> Any:
    from ray.util.metrics import Histogram

    text, boundaries = HISTOGRAMS[name]
    return Histogram(f"xnemo_{name}", text, boundaries)


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(f"xnemo_{name}", GAUGES[name])
