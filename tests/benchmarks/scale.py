"""Ten million clips, on paper and in simulation: `python -m tests.benchmarks.scale` prints the tables of docs/scale.md.

`simulate` is the scheduling of pipelines/preprocess.py: units are handed out in order, one to each worker that is free;
a unit whose node goes is done again. Everything random is seeded, so the tables are the same everywhere; `measured`
alone depends on the machine.
"""

import heapq
import random
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from jobs import sizing

CLIPS = 10_000_000
CLIPS_PER_VIDEO = 5
CLIP_BYTES = round(100 * sizing.FRAME_BYTES)  # four seconds
VIDEO_CORE_S = 24 * sizing.FPS / sizing.FRAMES_PER_CORE_S  # decode, detect, crop of 24 s of video
SPREAD = 0.8  # of the logarithm of a video's length: the longest of a thousand is ten times the median
HANDOUT_S = 0.004  # the driver's work for a unit: schedule, collect, count
WORKERS_PER_NODE = 15
LOST_PER_NODE_HOUR = 0.05  # a spot node in twenty hours
BACK_S = 180.0  # until another node is there in its place


@dataclass(frozen=True)
class Outcome:
    """What a simulated ingest took. `efficiency`: part of the paid core time that went into kept work."""

    hours: float
    efficiency: float
    repeated: int
    units: int


def simulate(videos: int, per_unit: int, nodes: int, seed: int = 0) -> Outcome:
    """Ingest of `videos` in units of `per_unit` on `nodes`; every unit is done exactly once."""
    draw = random.Random(seed)
    lengths = np.random.default_rng(seed).lognormal(-(SPREAD**2) / 2, SPREAD, (-(-videos // per_unit), per_unit))
    seconds = (VIDEO_CORE_S * lengths.sum(axis=1)).tolist()
    ends = {node: _next_loss(draw, 0.0) for node in range(nodes)}
    free = [(0.0, node, worker) for node in range(nodes) for worker in range(WORKERS_PER_NODE)]
    heapq.heapify(free)
    todo, at, driver, last, repeated = list(reversed(range(len(seconds)))), 0.0, 0.0, 0.0, 0
    while todo:
        at, node, worker = heapq.heappop(free)
        begin = max(at, driver)
        driver = begin + HANDOUT_S
        unit = todo.pop()
        while ends[node] + BACK_S <= begin:  # the node went and came back while this worker waited
            ends[node] = _next_loss(draw, ends[node] + BACK_S)
        done = begin + seconds[unit]
        if ends[node] < done:  # the unit goes with the node
            todo.append(unit)
            repeated += 1
            heapq.heappush(free, (max(begin, ends[node]) + BACK_S, node, worker))
            continue
        last = max(last, done)
        heapq.heappush(free, (done, node, worker))
    paid = last * nodes * WORKERS_PER_NODE
    return Outcome(last / 3600, sum(seconds) / paid, repeated, len(seconds))


def _next_loss(draw: random.Random, after: float) -> float:
    return after + draw.expovariate(LOST_PER_NODE_HOUR / 3600)


def scheduling() -> list[str]:
    """Rows of the table: nodes, inputs per unit, what came out."""
    rows = []
    for nodes in (10, 100, 1000):
        for per_unit in (16, 64, 256):
            found = simulate(CLIPS // CLIPS_PER_VIDEO, per_unit, nodes)
            rows.append(
                f"| {nodes:,} | {per_unit} | {found.units:,} | {found.hours:.2f} | {found.efficiency:.0%} "
                f"| {found.repeated:,} |"
            )
    return rows


def shards() -> list[str]:
    """Rows of the table: shard size, how many, and how long a manifest row per shard makes the manifest."""
    rows = []
    for megabytes in (128, 512, 1024):
        count = -(-CLIPS * CLIP_BYTES // (megabytes << 20))
        rows.append(f"| {megabytes} | {count:,} | {CLIPS / count:.0f} | {(megabytes << 20) / CLIP_BYTES / 64:.1f} |")
    return rows


def measured(count: int = 20_000) -> list[str]:
    """What a manifest of `count` shards and the order of ten million rows take on this machine."""
    from xnemo_platform import feed, manifest

    row = {"split": "train", "rows": 29, "bytes": 128 << 20, "notes": "{}"}
    rows = [
        row | {"shard": f"shards/{at:064x}.parquet", "sha256": f"{at:064x}", "unit": f"{at:024x}"}
        | {"sources": [f"{at * 7 + each:064x}" for each in range(6)]} for at in range(count)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        manifest.append(folder, rows, {"kind": "clips"})
        entered = time.process_time()
        table = manifest.read(folder)
        read = time.process_time()
    feed.global_batch(0, 0, 64, CLIPS)
    first = time.process_time()
    for step in range(1, 11):
        feed.global_batch(0, step, 64, CLIPS)
    order = (time.process_time() - first) / 10
    return [
        f"manifest of {count:,} shards: entered in {entered - began:.1f} s, read in {read - entered:.1f} s, "
        f"{table.nbytes / 1e6:.0f} MB in memory",
        f"order of {CLIPS:,} rows: {first - read:.2f} s for the first batch, {order * 1e3:.2f} ms for the next",
    ]


def main() -> None:
    print("\n".join(["nodes, inputs per unit, units, hours, efficiency, repeated", *scheduling()]))
    print("\n".join(["MiB, shards, clips in one, batches of 64 in one", *shards()]))
    if "--measure" in sys.argv:
        print("\n".join(measured()))


if __name__ == "__main__":
    main()
