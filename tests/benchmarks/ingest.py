"""`python -m tests.benchmarks.ingest`: what the pipeline adds to the work itself, what a second worker brings, and what
the driver's memory does.

Both sides do the same clips on the same cores, one for each worker (decord decodes beside the thread that detects, so
that one worker alone would keep 1.1 busy): the work alone in as many processes as the pipeline has workers, each
with its own share of the videos. A run's start (Ray, actors, networks) is told apart by doing few videos and then
many: the difference is the steady rate, with planning, shards and manifest in it. Wall time needs a quiet machine;
processor time, of the whole session with Ray's own processes, does not. Printed, never asserted.

    --videos 48     videos of the larger run; the smaller one has a third
    --frames 120    frames of each
    --source FOLDER take these videos instead of drawn ones
    --memory 1000000 100000 ...   only list that many paths
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import psutil

from pipelines import clips, plan
from pipelines.clips import ClipConfig
from pipelines.preprocess import IngestConfig, run
from pipelines.sources import READERS
from pipelines.sources.source import Source
from xnemo.crops import clip_square
from xnemo.media import images, video

SIDE = 720
CLIPS = ClipConfig(min_frames=10, min_face_px=100)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--videos", type=int, default=48)
    options.add_argument("--frames", type=int, default=120)
    options.add_argument("--source", type=Path)
    options.add_argument("--memory", type=int, nargs="+")
    asked = options.parse_args()
    for count in asked.memory or (1_000, 100_000, 1_000_000):
        listing(count)
    if asked.memory:
        return
    with tempfile.TemporaryDirectory(prefix="xnemo-bench-") as folder:
        if asked.source:
            paths = sorted(path for path in asked.source.rglob("*") if path.suffix == ".mp4")
        else:
            paths = [drawn(Path(folder, f"{seed:03d}.mp4"), seed, asked.frames) for seed in range(asked.videos)]
        cores = sorted(os.sched_getaffinity(0))[:2]
        print(f"{len(paths)} videos; one core a worker")
        steady, direct = {}, {}
        for workers in (1, 2):
            os.sched_setaffinity(0, cores[:workers])  # for this process and all that it starts
            bare = direct[workers] = alone(paths, workers)
            few, many = (ingested(some, workers) for some in (paths[: len(paths) // 3], paths))
            steady[workers] = many - few
            share = (len(paths) - len(paths) // 3) / len(paths)
            start = few - steady[workers] * ((1 - share) / share)
            print(
                f"{workers} worker(s): the work alone {bare}; the pipeline {steady[workers] / share} and "
                f"{start.wall:.1f} s ({start.cpu:.1f} s processor) to start:\n"
                f"    {steady[workers].wall / share / bare.wall:.2f} times the wall time, "
                f"{steady[workers].cpu / share / bare.cpu:.2f} times the processor time"
            )
        print(
            f"two workers do {steady[1].wall / steady[2].wall:.2f} times what one does, two processes of the work "
            f"alone {direct[1].wall / direct[2].wall:.2f} times; both cores were "
            f"{steady[2].cpu / steady[2].wall / len(cores):.0%} busy"
        )


@dataclass(frozen=True)
class Cost:
    """Seconds of a clock, and of processors over all processes."""

    wall: float
    cpu: float

    def __sub__(self, other: Self) -> "Cost":
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def __mul__(self, by: float) -> "Cost":
        return Cost(self.wall * by, self.cpu * by)

    def __truediv__(self, by: float) -> "Cost":
        return self * (1 / by)

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s processor)"


def drawn(path: Path, seed: int, frames: int) -> Path:
    from tests.pipelines.drawn import moving  # needs torch, which an ingestion does not

    return video.write_video(path, (cv2.resize(frame, (SIDE, SIDE)) for frame in moving(seed, frames)), 25)


def bare(path: Path) -> None:
    """The work itself: decode, detect, crop, encode."""
    finder = clips._detector("auto")
    frames = [frame for batch in video.stream_frames(path, fps=25, max_side=CLIPS.max_side) for frame in batch]
    found = [finder.detect(frame, quick=True) for frame in frames]
    boxes = np.array([some[0].box for some in found if some])
    for frame in frames:
        images.encode_jpeg(clips.cut(frame, np.round(clip_square(boxes)), CLIPS.size), CLIPS.jpeg_quality)


def alone(paths: list[Path], processes: int) -> Cost:
    """The work on all videos, shared out among processes that are ready when the clock starts."""
    spawn = multiprocessing.get_context("spawn")
    ready, spent = spawn.Barrier(processes + 1), spawn.Queue()
    shares = [paths[k::processes] for k in range(processes)]
    workers = [spawn.Process(target=_alone, args=(share, ready, spent)) for share in shares]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    cpu = sum(spent.get() for _ in workers)
    wall = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return Cost(wall, cpu)


def _alone(paths: list[Path], ready, spent) -> None:  # type: ignore[no-untyped-def]  # a barrier, a queue
    cv2.setNumThreads(1)
    bare(paths[0])
    ready.wait()
    began = time.process_time()
    for path in paths:
        bare(path)
    spent.put(time.process_time() - began)


def ingested(paths: list[Path], workers: int) -> Cost:
    """A whole ingestion of these videos, from nothing to the manifest, in a process and a Ray of its own."""
    with tempfile.TemporaryDirectory(prefix="xnemo-bench-") as folder:
        (Path(folder) / "videos").mkdir()
        for number, path in enumerate(paths):
            shutil.copyfile(path, Path(folder, "videos", f"{number:05d}.mp4"))
        command = [sys.executable, "-c", f"from tests.benchmarks.ingest import whole; whole({folder!r}, {workers})"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        return Cost(*map(float, done.split()))


def whole(folder: str, workers: int) -> None:
    """Ingest and print wall and processor seconds of this process and all that it started."""
    mine, spent = psutil.Process(), {}

    def look(_: object) -> None:
        for process in [mine, *mine.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                spent[process.pid] = times.user + times.system

    began = time.perf_counter()
    units = {"inputs_per_unit": 2, "workers": workers}
    config = IngestConfig(source=f"{folder}/videos", output=f"{folder}/out", clips=CLIPS, max_quarantine=1, **units)
    run(config, watch=look)  # its processes end with it, so they are looked at after each unit
    print(time.perf_counter() - began, sum(spent.values()))


def listing(count: int) -> None:
    """Plan so many videos in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-c", f"from tests.benchmarks.ingest import planned; planned({count})"]
    peak = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    print(f"planning {count} videos: the driver's peak is {peak} MB, {time.perf_counter() - began:.0f} s", flush=True)


def planned(count: int) -> None:
    """Plan a listing of that many videos which do not exist, and print this process's peak memory in MB."""

    def listed(uri: str, _: object) -> "list[Source]":
        return (  # type: ignore[return-value]
            Source(f"{uri}/{k % 977:04d}/video-{k:09d}.mp4", f"person-{k % 977}", fingerprint=f"{k:032x}")
            for k in range(count)
        )

    READERS["listing"] = listed  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        work = plan.make("listing", folder, f"{folder}/out", None, 16, "v")
        assert sum(len(group) for group in work.units.values()) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
