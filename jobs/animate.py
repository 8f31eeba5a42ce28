"""`xnemo animate`: a portrait and a driving video in, an animated portrait out, on this machine."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import parser, run

EXAMPLES = """\
  xnemo animate --portrait p.png --driving d.mp4 -o out.mp4
  xnemo animate --model models:/xnemo@demo --portrait p.png --motion smile.safetensors -o out.mp4
  xnemo animate --portrait p.png --driving d.mp4 --start 2 --end 6 --side-by-side -o out.mp4"""


def main(argv: Sequence[str]) -> int:
    options = parser("animate", __doc__ or "", EXAMPLES)
    options.add_argument("--model", default="bundled", help="a folder, models:/<name>@<alias> (bundled)")
    options.add_argument("--portrait", required=True, type=Path, help="a picture with a face")
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--driving", type=Path, help="a video with a face")
    source.add_argument("--motion", type=Path, help="a motion file (.safetensors)")
    options.add_argument("-o", "--output", required=True, type=Path, help="the mp4 to write")
    options.add_argument("--steps", type=int, default=25, help="denoising steps (25)")
    options.add_argument("--guidance-scale", type=float, help="s in ε_u + s(ε_c − ε_u) (the model's own)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--head-motion", choices=["relative", "still", "absolute"], default="relative")
    options.add_argument("--face", type=int, help="which face of the portrait; 0 is the largest")
    options.add_argument("--start", type=float, help="seconds into the driving video")
    options.add_argument("--end", type=float, help="seconds into the driving video")
    options.add_argument("--max-frames", type=int)
    options.add_argument("--side-by-side", action="store_true", help="portrait | driving | result")
    options.add_argument("--label", action="store_true", help="a visible note that the video is synthetic")
    options.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    arguments = options.parse_args(argv)

    from dataclasses import replace

    from jobs.progress import bars
    from pipelines.models import device, load, locate
    from xnemo.animation import animate
    from xnemo.tokens.motion_file import load_motion

    chosen = device(arguments.device)
    folder = locate(arguments.model)
    driving = load_motion(arguments.motion) if arguments.motion else arguments.driving
    clip = animate(
        load(folder, chosen),
        arguments.portrait,
        driving,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        seed=arguments.seed,
        head_motion=arguments.head_motion,
        face=arguments.face,
        start=arguments.start,
        end=arguments.end,
        max_frames=arguments.max_frames,
        progress=bars(),
    )
    if arguments.side_by_side and arguments.driving:
        clip = beside(clip, arguments.portrait, arguments.driving, arguments.start)
    replace(clip, model=arguments.model).save(arguments.output, label=arguments.label)
    print(f"{arguments.output}: {len(clip.frames)} frames, {clip.fps:g} per second")
    return 0


def beside(clip, portrait: Path, driving: Path, start: float | None):  # type: ignore[no-untyped-def]
    """The clip with its portrait and its driver to the left of it."""
    from dataclasses import replace

    import numpy as np

    from xnemo.clip import side_by_side
    from xnemo.media.images import read_image
    from xnemo.media.video import read_frames

    driver = read_frames(driving, fps=clip.fps, start=start or 0.0, max_frames=len(clip.frames))
    return replace(clip, frames=np.stack(list(side_by_side(read_image(portrait), driver, clip.frames))))


if __name__ == "__main__":
    sys.exit(run(main))
