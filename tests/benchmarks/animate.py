"""Animation on this machine: frames per second end to end, where the time goes, and memory against length.

`python -m tests.benchmarks.animate [seconds of the long clip]`; the memory of each length is that of a process of its
own, which does as the command does (one denoising step is enough: steps take time, not memory). All times are processor
time of one thread.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from pipelines.models import BUNDLED, load
from xnemo import encode
from xnemo.clip import save_frames
from xnemo.media.faces import detector
from xnemo.media.images import write_image
from xnemo.media.video import stream_frames, write_video
from xnemo.prepare import READ_SIDE, prepare_driving, prepare_portrait
from xnemo.stream import Stream
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render

STEPS, FPS, SIZE = 25, 25, 256


def media(folder: Path, seconds: float, fps: float, size: int = SIZE) -> tuple[Path, Path]:
    """A portrait and a driving clip: six seconds of a drawn head, there and back again."""
    frames = round(min(6.0, seconds) * fps)
    heads = render(random_identity(9)[None], *sequence(2, frames), size).permute(0, 2, 3, 1).numpy()
    there_and_back = np.concatenate([heads, heads[::-1]])
    write_image(folder / "p.png", render(random_identity(5)[None], *sequence(2, 1), size)[0].permute(1, 2, 0).numpy())
    count = round(seconds * fps)
    return folder / "p.png", write_video(
        folder / "d.mp4", (there_and_back[n % len(there_and_back)] for n in range(count)), fps
    )


def speed() -> None:
    """Each stage alone, over the same clip, and its share of the sum."""
    model, faces, spent = load(BUNDLED), detector(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        portrait, driving = media(folder, 4.0, FPS)

        def took(stage: str, work: Iterable[object]) -> list[object]:
            began = time.process_time()
            result = list(work)
            spent[stage] = time.process_time() - began
            return result

        took("decode", stream_frames(driving, max_side=READ_SIDE))
        who = prepare_portrait(portrait, model.config, faces)
        (video,) = took("find faces", (prepare_driving(driving, faces) for _ in range(1)))
        spent["find faces"] -= spent["decode"]
        crops = took("crop", video.faces(model.config.motion_encoder.image_size))
        spent["crop"] -= spent["decode"]
        (motion,) = took("encode motion", (encode.encode_faces(model, crops, video.f_rts, FPS) for _ in range(1)))
        reference = encode.encode_portrait(model, who)
        walk = Stream(model, lambda first: reference, lambda a, b: encode.motion_tokens(model, motion.part(a, b)),
                      len(motion), steps=STEPS, guidance_scale=model.config.guidance_scale, seed=0)  # fmt: skip
        latents = took("denoise", walk)
        frames = took("decode latents", encode.decode(model, latents))
        took("write", (save_frames(folder / "o.mp4", _flat(frames), FPS) for _ in range(1)))
    spent["decode"] *= 2  # once to find the faces, once to cut them out
    total = sum(spent.values())
    networks = sum(spent[stage] for stage in ("find faces", "encode motion", "denoise", "decode latents"))
    print(f"animate, {STEPS} steps, {len(motion)} frames of {SIZE} px: {len(motion) / total:.2f} frames/s end to end")
    for stage, seconds in spent.items():
        print(f"  {stage:<20}{100 * seconds / total:>6.1f} %")
    print(f"  {'outside networks':<20}{100 * (1 - networks / total):>6.1f} %", flush=True)


def _flat(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in batches:
        yield from batch


def memory(seconds: float) -> float:
    """The most resident MiB of a process that animates a clip of this length from file to file."""
    with tempfile.TemporaryDirectory() as name:
        portrait, driving = media(Path(name), seconds, FPS, 128)
        command = [sys.executable, "-m", "tests.benchmarks.animate", "--resident", str(portrait), str(driving)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def resident(portrait: str, driving: str) -> None:
    from jobs.animate import main as animate

    animate(["--portrait", portrait, "--driving", driving, "--steps", "1", "-o", f"{driving}.out.mp4"])
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held before the exec
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main(long_seconds: float = 60.0) -> None:
    torch.set_num_threads(1)
    speed()
    short, long = memory(10.0), memory(long_seconds)
    print(f"resident memory, 10 s of video: {short:.0f} MiB; {long_seconds:.0f} s: {long:.0f} MiB, {long / short:.3f}×")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--resident"]:
        torch.set_num_threads(1)
        resident(*sys.argv[2:])
    else:
        main(*map(float, sys.argv[1:]))
