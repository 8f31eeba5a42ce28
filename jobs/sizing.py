"""`python -m jobs.sizing`: from hours of video to core-hours, GPU-days, storage and money, and every factor shown.

The factors are measured or counted (docs/runbook.md says which); prices are list prices and meant to be overruled.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.cli import parser, run

FPS = 25
FRAMES_PER_CORE_S = 28.0  # ingest of 720 × 1280 video, processor time; 512 × 512 is 67 to 115
FRAME_BYTES = 55_000  # JPEG, quality 95, 512 px: 46 to 65 kB
RAW_BYTES_PER_S = 500_000  # 4 Mbit/s
# per stage: steps, samples a step (stage 3: clips), TFLOP of a sample forward and backward with online VAE
STAGES = {"appearance": (50_000, 64, 7.46), "motion": (100_000, 64, 9.23), "temporal": (30_000, 16, 24 * 6.11)}
PARAMETERS = {"appearance": 1.719e9, "motion": 2.153e9, "temporal": 0.453e9}  # trained
CHECKPOINT_BYTES = 16  # a trained parameter: fp32 weight, two moments, average
PEAK_TFLOPS = {"a100": 312.0, "h100": 989.0, "h200": 989.0}  # bf16, dense


@dataclass(frozen=True)
class Size:
    """What a data set costs."""

    frames: float
    core_hours: float
    raw_gb: float
    shards_gb: float
    gpu_days: dict[str, float]
    checkpoints_gb: float


def size(hours: float, gpu: str = "a100", use: float = 0.3, kept: int = 3, clips: float = 1.0) -> Size:
    """`hours` of video; `use`: part of the card's peak that is reached; `clips`: part of the video that is usable."""
    seconds = hours * 3600
    frames = seconds * clips * FPS
    flops = {name: steps * batch * each for name, (steps, batch, each) in STAGES.items()}
    return Size(
        frames=frames,
        core_hours=seconds * FPS / FRAMES_PER_CORE_S / 3600,
        raw_gb=seconds * RAW_BYTES_PER_S / 1e9,
        shards_gb=frames * FRAME_BYTES / 1e9,
        gpu_days={name: tera / (PEAK_TFLOPS[gpu] * use) / 86400 for name, tera in flops.items()},
        checkpoints_gb=max(PARAMETERS.values()) * CHECKPOINT_BYTES * kept / 1e9,
    )


def main(argv: Sequence[str]) -> int:
    options = parser("sizing", __doc__ or "", "  python -m jobs.sizing --hours 100 --gpu h200")
    options.add_argument("--hours", type=float, required=True, help="of video")
    options.add_argument("--usable", type=float, default=1.0, help="part of it that gives clips (1)")
    options.add_argument("--gpu", choices=sorted(PEAK_TFLOPS), default="a100")
    options.add_argument("--gpus", type=int, default=8)
    options.add_argument("--use", type=float, default=0.3, help="part of the peak that training reaches (0.3)")
    options.add_argument("--reserve", type=float, default=2.0, help="for validation, data and restarts (2)")
    options.add_argument("--core-hour", type=float, default=0.05, help="price of a core-hour")
    options.add_argument("--gpu-hour", type=float, default=4.0, help="price of a GPU-hour")
    options.add_argument("--gb-month", type=float, default=0.023, help="price of a GB for a month")
    given = options.parse_args(argv)
    found = size(given.hours, given.gpu, given.use, clips=given.usable)
    days = sum(found.gpu_days.values())
    print(f"frames         {found.frames:,.0f}")
    print(f"ingest         {found.core_hours:,.0f} core-hours, {found.core_hours * given.core_hour:,.0f} in money")
    for name, each in found.gpu_days.items():
        print(f"{name:<14} {each:.1f} GPU-days ({each * 24 / given.gpus:.0f} h on {given.gpus})")
    money = days * given.reserve * 24 * given.gpu_hour
    print(f"training       {days:.0f} GPU-days, {days * given.reserve:.0f} with reserve, {money:,.0f} in money")
    print(f"raw video      {found.raw_gb:,.0f} GB")
    stored = found.raw_gb + found.shards_gb
    print(f"shards         {found.shards_gb:,.0f} GB; with the raw video {stored * given.gb_month:,.0f} a month")
    print(f"shared volume  {found.checkpoints_gb:,.0f} GB of checkpoints for each training that runs at a time")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
