"""`xnemo motion`: take, extend, mix and draw motion files (`.safetensors`: f_mot, f_rts, fps)."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import parser, run, with_overrides

if TYPE_CHECKING:
    import numpy as np

    from xnemo.tokens.motion_file import Motion

EXAMPLES = """\
  xnemo motion extract --driving d.mp4 -o d.safetensors
  xnemo motion extract --model models:/xnemo@demo --dataset shards/ -o motions/ workers=4 gpus=0.25
  xnemo motion outpaint --prefix d.safetensors --seconds 8 -o long.safetensors
  xnemo motion outpaint --tokenizer models:/xnemo-tokenizer@demo --generator models:/xnemo-generator@demo \\
      --emotion happy --seconds 4 -o happy.safetensors
  xnemo motion interpolate a.safetensors@0.4s b.safetensors@1.2s --frames 50 -o ab.safetensors
  xnemo motion interpolate a.safetensors b.safetensors@1s a.safetensors --times 0 0.5 3 -o there-and-back.safetensors
  xnemo motion scale d.safetensors --factor 1.5 -o more.safetensors
  xnemo motion concatenate a.safetensors b.safetensors -o both.safetensors
  xnemo motion plot d.safetensors -o d.png"""


def main(argv: Sequence[str]) -> int:
    options = parser("motion", __doc__ or "", EXAMPLES)
    kinds = options.add_subparsers(dest="kind", required=True)
    _extract_options(kinds.add_parser("extract", help="the motion of a driving video"))
    _outpaint_options(kinds.add_parser("outpaint", help="extend a motion, or invent one"))
    _interpolate_options(kinds.add_parser("interpolate", help="move between moments of motion files"))
    _edit_options(kinds)
    for each in kinds.choices.values():
        each.add_argument("-o", "--output", type=Path, required=True)
    arguments = with_overrides(options, argv)
    if arguments.overrides and not getattr(arguments, "dataset", None):
        options.error(f"unrecognized: {' '.join(arguments.overrides)} (configuration goes with extract --dataset)")
    handlers: dict[str, Callable[[argparse.Namespace], None]] = {
        "extract": extract,
        "outpaint": outpaint,
        "interpolate": interpolate,
    }
    handlers.get(arguments.kind, edit_motion)(arguments)
    print(arguments.output)
    return 0


def _extract_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--model", default="bundled", help="a model folder, or models:/<name>@<alias> (bundled)")
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--driving", type=Path, help="a video with a face; -o is a .safetensors file")
    source.add_argument("--dataset", help="shards; -o is a folder, for `xnemo train tokenizer`")
    options.add_argument("--head-motion", choices=["relative", "still"], help="of a video: against its first frame, or "
                         "none (relative)")  # fmt: skip
    options.add_argument("--start", type=float, help="seconds into the video (0)")
    options.add_argument("--end", type=float, help="seconds into the video (its end)")


def _outpaint_options(options: argparse.ArgumentParser) -> None:
    for part in ("tokenizer", "generator"):
        options.add_argument(f"--{part}", default="bundled", help="a folder, or models:/<name>@<alias> (bundled)")
    options.add_argument("--prefix", type=Path, help="the motion to go on from; without it one is invented")
    options.add_argument("--seconds", type=float, required=True, help="length of the whole")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--emotion", help="as in the training data, for example happy")
    options.add_argument("--intensity", type=int, help="1 to 3")
    options.add_argument("--temperature", type=float, default=1.0)
    options.add_argument("--top-p", type=float, default=0.99, help="keep the likeliest codes of this mass (0.99)")
    options.add_argument("--guidance", type=float, default=1.0, help="how much more than plainly the emotion is "
                         "followed: γ in (1 + γ) l_emotion − γ l_null (1)")  # fmt: skip
    options.add_argument("--smooth", type=float, default=0.5, metavar="FRAMES", help="Gaussian over the new frames; "
                         "0 leaves them as decoded (0.5)")  # fmt: skip
    options.add_argument("--placement", choices=["constant", "decay"], default="constant", help="the head stays where "
                         "the prefix leaves it, or returns to its place within a second (constant)")  # fmt: skip


def _interpolate_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("keys", nargs="+", metavar="FILE@SECONDSs", help="two or more moments")
    options.add_argument("--frames", type=int, default=50, help="of the whole (50)")
    options.add_argument("--times", type=float, nargs="+", metavar="SECONDS", help="when each moment is reached, "
                         "increasing; scaled to the whole length (evenly spaced)")  # fmt: skip
    options.add_argument("--curve", choices=["linear", "spherical"], default="linear", help="of the motion code; its "
                         "place is always mixed linearly (linear)")  # fmt: skip


def _edit_options(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    scale = kinds.add_parser("scale", help="exaggerate or calm the expression about the motion's mean")
    scale.add_argument("--factor", type=float, required=True, help="above 1 exaggerates, below 1 calms")
    scale.add_argument("--neutral", metavar="FILE@SECONDSs", help="the moment to scale about (the motion's mean)")
    hold = kinds.add_parser("hold", help="freeze one moment, then go on")
    hold.add_argument("--at", type=float, required=True, help="seconds from the start")
    hold.add_argument("--seconds", type=float, required=True, help="how much longer")
    loop = kinds.add_parser("loop", help="repeat without a jump")
    loop.add_argument("--times", type=int, required=True)
    smooth = kinds.add_parser("smooth", help="take out jitter")
    smooth.add_argument("--sigma", type=float, default=1.0, help="frames (1)")
    plot = kinds.add_parser("plot", help="draw a motion over time, as a PNG")
    for each in (scale, hold, loop, smooth, plot):
        each.add_argument("motion", type=Path)
    concatenate = kinds.add_parser("concatenate", help="one after another, cross-faded")
    concatenate.add_argument("motions", type=Path, nargs="+")
    for each in (loop, concatenate):
        each.add_argument("--blend", type=int, default=8, help="frames that cross-fade at a seam (8)")


def extract_dataset(arguments: argparse.Namespace) -> None:
    """`key=value` words are those of pipelines.motions.MotionsConfig."""
    from jobs.data import absolute, show
    from pipelines.motions import MotionsConfig
    from pipelines.motions import extract as extract_motions
    from xnemo.errors import XNeMoError
    from xnemo_platform.config import load_config

    if any(given is not None for given in (arguments.start, arguments.end, arguments.head_motion)):
        raise XNeMoError("--start, --end and --head-motion are for a video: leave them out with --dataset")
    places = {"dataset": absolute(arguments.dataset), "output": absolute(str(arguments.output))}
    flags = [f"{key}={json.dumps(value)}" for key, value in (places | {"model": arguments.model}).items()]
    config = load_config(MotionsConfig, None, [*arguments.overrides, *flags])
    show(extract_motions(config, lambda done, total: print(f"clips {done}/{total}", flush=True)))


def extract(arguments: argparse.Namespace) -> None:
    if arguments.dataset:
        return extract_dataset(arguments)
    from dataclasses import replace

    from jobs.progress import bars
    from pipelines.models import load, locate
    from xnemo.animation import encode_driving
    from xnemo.prepare import prepare_driving
    from xnemo.tokens.motion_file import save_motion
    from xnemo.weights import model_digest

    folder = locate(arguments.model)
    progress = bars()
    driving = prepare_driving(
        arguments.driving,
        head_motion=arguments.head_motion or "relative",
        start=arguments.start,
        end=arguments.end,
        progress=progress,
    )
    motion = encode_driving(load(folder), driving, progress)
    save_motion(replace(motion, model=model_digest(folder)), arguments.output)


def outpaint(arguments: argparse.Namespace) -> None:
    from pipelines.models import locate
    from xnemo.tokens.motion_file import check_size, load_motion, save_motion
    from xnemo.tokens.outpaint import FPS, outpaint_motion
    from xnemo.tokens.weights import load_generator, load_tokenizer

    tokenizer, prefix = load_tokenizer(locate(arguments.tokenizer, "tokenizer")), None
    if arguments.prefix:
        prefix = load_motion(arguments.prefix, model=tokenizer.belongs_to, features=tokenizer.config.features)
    frames = arguments.seconds * (prefix.fps if prefix else FPS)
    check_size(frames, tokenizer.config.features)
    motion = outpaint_motion(
        tokenizer,
        load_generator(locate(arguments.generator, "generator")),
        prefix,
        round(frames),
        arguments.seed,
        emotion=arguments.emotion,
        intensity=arguments.intensity,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        guidance=arguments.guidance,
        sigma=arguments.smooth,
        placement=arguments.placement,
    )
    save_motion(motion, arguments.output)


def interpolate(arguments: argparse.Namespace) -> None:
    from xnemo.tokens import interpolate as mixing
    from xnemo.tokens.motion_file import load_motion, save_motion

    pairs = [mixing.parse_key(text) for text in arguments.keys]
    keys = [mixing.Key(load_motion(path), seconds) for path, seconds in pairs]
    motion = mixing.interpolate(keys, arguments.frames, times=arguments.times, curve=arguments.curve)
    save_motion(motion, arguments.output)


def _neutral(moment: str | None, motion: "Motion") -> "np.ndarray | None":
    """f_mot [D] at FILE@SECONDSs, which must be of the same model as `motion`."""
    if moment is None:
        return None
    from xnemo.tokens.interpolate import Key, at, parse_key
    from xnemo.tokens.motion_file import load_motion

    path, seconds = parse_key(moment)
    return at(Key(load_motion(path, model=motion.model, features=motion.f_mot.shape[1]), seconds))[0]


def edit_motion(arguments: argparse.Namespace) -> None:
    from xnemo.tokens import edit
    from xnemo.tokens.motion_file import load_motion, save_motion

    if arguments.kind == "concatenate":
        motions = [load_motion(path) for path in arguments.motions]
        save_motion(edit.concatenate(motions, arguments.blend), arguments.output)
        return
    motion = load_motion(arguments.motion)
    if arguments.kind == "plot":
        edit.plot(motion, arguments.output)
    elif arguments.kind == "scale":
        save_motion(edit.scale(motion, arguments.factor, _neutral(arguments.neutral, motion)), arguments.output)
    elif arguments.kind == "hold":
        save_motion(edit.hold(motion, arguments.at, arguments.seconds), arguments.output)
    elif arguments.kind == "loop":
        save_motion(edit.loop(motion, arguments.times, arguments.blend), arguments.output)
    else:
        save_motion(edit.smooth(motion, arguments.sigma), arguments.output)


if __name__ == "__main__":
    sys.exit(run(main))
