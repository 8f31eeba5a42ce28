"""`xnemo synthetic`: drawn portraits, driving clips and data sets, from a seed; nobody's face."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import parser, run

EXAMPLES = """\
  xnemo synthetic portrait --seed 7 -o p.png
  xnemo synthetic clip --seed 8 --emotion happy --seconds 3 -o d.mp4
  xnemo synthetic dataset --identities 200 --seconds 2 -o clips/
  xnemo synthetic motions --identities 1000 --seconds 5.12 -o motions/"""


def main(argv: Sequence[str]) -> int:
    options = parser("synthetic", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", required=True)
    portrait = kinds.add_parser("portrait", help="one picture")
    clip = kinds.add_parser("clip", help="one driving clip")
    dataset = kinds.add_parser("dataset", help="one clip for each of many identities")
    motions = kinds.add_parser("motions", help="a motion data set whose codes are the renderer's own parameters")
    for each in (portrait, clip, dataset):
        each.add_argument("--size", type=int, default=512 if each is portrait else 256, help="pixels of a side")
    for each in (portrait, clip, dataset, motions):
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("-o", "--output", type=Path, required=True)
    for each in (clip, dataset, motions):
        each.add_argument("--seconds", type=float, default=2.0)
    for each in (clip, dataset):
        each.add_argument("--room", type=float, default=1.0, help="show this much more of the scene around the head")
    for each in (dataset, motions):
        each.add_argument("--identities", type=int, default=100)
    clip.add_argument("--motion-seed", type=int, help="another motion for the same head (default: the seed)")
    clip.add_argument("--emotion", help="neutral, happy, sad, angry, surprised, fear, disgusted or contempt")
    clip.add_argument("--intensity", type=int, choices=[1, 2, 3])
    clip.add_argument("--sound", action="store_true", help="a tone that follows the jaw")
    dataset.add_argument("--workers", type=int, help="processes (default: one per core)")
    arguments = options.parse_args(argv)

    import torch

    from xnemo.synthetic import clips

    torch.set_num_threads(1)  # the strokes are small: more threads only wait for each other
    if arguments.kind == "portrait":
        clips.portrait(arguments.output, arguments.seed, arguments.size)
    elif arguments.kind == "clip":
        motion_seed = arguments.seed if arguments.motion_seed is None else arguments.motion_seed
        clips.write_clip(
            arguments.output,
            arguments.seed,
            motion_seed,
            arguments.seconds,
            arguments.size,
            arguments.emotion,
            intensity=arguments.intensity,
            audio=arguments.sound,
            room=arguments.room,
        )
    elif arguments.kind == "motions":
        from pipelines.drawn_motions import write

        write(str(arguments.output.absolute()), arguments.identities, arguments.seconds, arguments.seed)
    else:
        clips.write_dataset(
            arguments.output,
            arguments.identities,
            arguments.seconds,
            arguments.size,
            arguments.seed,
            arguments.workers,
            room=arguments.room,
        )
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
