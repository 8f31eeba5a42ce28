"""`python -m tests.benchmarks.ingest`: what the pipeline adds to the work itself, and what the driver's memory does.

Ratios within one run; printed, never asserted.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from pipelines import clips, plan
from pipelines.clips import ClipConfig
from pipelines.ingest import Ingest
from pipelines.preprocess import IngestConfig, run
from pipelines.sources import READERS
from pipelines.sources.source import Source, fingerprinted
from tests.pipelines.drawn import moving
from xnemo.crops import clip_square
from xnemo.media import faces, images, video

VIDEOS, FRAMES, SIDE = 8, 60, 720
CLIPS = ClipConfig(min_frames=10)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [drawn(Path(folder, "videos", f"{seed}.mp4"), seed) for seed in range(VIDEOS)]
        overhead(paths, Path(folder))
        workers(Path(folder))
    memory()


def drawn(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    return video.write_video(path, (cv2.resize(frame, (SIDE, SIDE)) for frame in moving(seed, FRAMES)), 25)


def bare(path: Path) -> None:
    """The work itself: decode, detect, crop, encode."""
    finder = faces.detector("auto")
    frames = [frame for batch in video.stream_frames(path, fps=25, max_side=CLIPS.max_side) for frame in batch]
    boxes = np.array([finder.detect(frame, quick=True)[0].box for frame in frames])
    for frame in frames:
        images.encode_jpeg(clips.cut(frame, np.round(clip_square(boxes)), CLIPS.size), CLIPS.jpeg_quality)


def overhead(paths: list[Path], folder: Path) -> None:
    cv2.setNumThreads(1)
    bare(paths[0])
    began = time.perf_counter()
    for path in paths:
        bare(path)
    alone = time.perf_counter() - began
    worker = Ingest(IngestConfig(source=str(folder), output=str(folder / "unit"), clips=CLIPS), "v")
    sources = list(fingerprinted(Source(str(path), path.stem) for path in paths))
    worker.ingest("warm", sources[:1])  # the child starts and loads its networks
    began = time.perf_counter()
    record = worker.ingest("u", sources)
    inside = time.perf_counter() - began
    rates = [VIDEOS * FRAMES / seconds for seconds in (alone, inside)]
    print(f"work alone {rates[0]:.1f} frames/s, in a unit {rates[1]:.1f}: {inside / alone:.2f} times the wall time")
    print("seconds by stage: ", {stage: round(seconds, 1) for stage, seconds in record["seconds"].items()})


def workers(folder: Path) -> None:
    rates = []
    for count in (1, 2):
        config = IngestConfig(
            source=str(folder / "videos"), output=str(folder / f"out{count}"), clips=CLIPS, workers=count
        )
        seconds: list[float] = []
        run(config, lambda what, done, total, seconds=seconds: seconds.append(time.perf_counter()))  # type: ignore[misc]
        rates.append((len(seconds) - count) / (seconds[-1] - seconds[count - 1]))  # without the start of the workers
    print(f"two workers do {rates[1] / rates[0]:.2f} times what one does")


def memory() -> None:
    for count in (1_000, 100_000, 1_000_000):
        began = time.perf_counter()
        command = [sys.executable, "-c", f"from tests.benchmarks.ingest import planned; planned({count})"]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(f"planning {count} videos: the driver's peak is {peak} MB, {time.perf_counter() - began:.0f} s")


def planned(count: int) -> None:
    """Plan a listing of that many videos which do not exist, and print this process's peak memory in MB."""

    def listing(uri: str, _: object) -> "list[Source]":
        return (  # type: ignore[return-value]
            Source(f"{uri}/{k % 977:04d}/video-{k:09d}.mp4", f"person-{k % 977}", fingerprint=f"{k:032x}")
            for k in range(count)
        )

    READERS["listing"] = listing  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        work = plan.make("listing", folder, f"{folder}/out", None, 16, "v")
        assert sum(len(group) for group in work.units.values()) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
