"""`xnemo animate`: a portrait and a driving video in, an animated portrait out, on this machine."""

from __future__ import annotations

import argparse
import errno
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import parser, run
from xnemo.errors import XNeMoError

if TYPE_CHECKING:
    import numpy as np

    from xnemo.animation import Animation
    from xnemo.options import Options
    from xnemo.tokens.motion_file import Motion

EXAMPLES = """\
  xnemo animate --portrait p.png --driving d.mp4 -o out.mp4
  xnemo animate --portrait photo.jpg --driving d.mp4 --paste-back --start 2 --end 6 -o out.webm
  xnemo animate --portrait group.jpg --list-faces faces.png
  xnemo animate --portrait group.jpg --face 0 --driving a.mp4 --face 2 --driving b.mp4 -o both.mp4
  xnemo animate --portrait talk.mp4 --driving d.mp4 -o replaced.mp4
  xnemo animate --portrait p.png --driving long.mp4 --resume -o long-out.mp4
  xnemo animate --model models:/xnemo@demo --portrait p.png --motion smile.safetensors -o out.gif"""


def main(argv: Sequence[str]) -> int:
    options = _options()
    arguments = options.parse_args(argv)
    if arguments.list_faces:
        return list_faces(arguments.list_faces, [arguments.portrait, *(arguments.driving or [])])
    if not arguments.output:
        options.error("-o/--output is needed: what to write")
    if not (arguments.driving or arguments.motion):
        options.error("--driving or --motion is needed: what drives the face")
    animate(arguments)
    return 0


SOURCES = """Defaults stand in brackets with where they come from: paper (X-NeMo, ICLR 2025), released (its authors'
script and code), or ours (this project's choice)."""


def _options() -> argparse.ArgumentParser:
    options = parser("animate", f"Let a portrait do what the face in a driving video does.\n\n{SOURCES}", EXAMPLES)
    source = options.add_argument_group("what goes in")
    source.add_argument("--model", default="bundled", help="a folder, models:/<name>@<alias>, or bundled (bundled: the "
                        "small one that comes with the code; ours)")  # fmt: skip
    source.add_argument("--portrait", required=True, type=Path, help="a picture with a face, or a video whose face is "
                        "replaced in every frame")  # fmt: skip
    source.add_argument("--driving", type=Path, action="append", help="a video, a picture, or a motion file; once for "
                        "each --face, or one for all")  # fmt: skip
    source.add_argument("--motion", type=Path, help="a motion file (.safetensors) instead of --driving")
    source.add_argument("--face", type=int, action="append", help="which face of the portrait, by the numbers of "
                        "--list-faces; once for each face to drive (0, the largest: ours)")  # fmt: skip
    source.add_argument("--driving-face", type=int, default=0, metavar="FACE", help="which face of the driver, by size "
                        "in the first frame that shows so many (0, the largest: ours)")  # fmt: skip
    source.add_argument("--list-faces", type=Path, metavar="PNG", help="write the portrait with its faces numbered, "
                        "and the driver's first frame beside it, and stop")  # fmt: skip
    source.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds into the driver (0: released)")
    source.add_argument("--end", type=float, metavar="S", help="seconds into the driver (its end: ours)")
    source.add_argument("--max-frames", type=int, metavar="N", help="at most so many frames (all: ours; released: 500)")
    _motion_options(options.add_argument_group("how it moves"))
    _result_options(options.add_argument_group("what comes out"))
    _sampling_options(options.add_argument_group("how it is computed"))
    return options


def _motion_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--head-motion", choices=["relative", "still", "absolute"], help="relative: the head follows "
                       "the driver's from where it is in his first frame; still: it stays in its place; absolute: as "
                       "in the driver, for a portrait that is one of his frames (relative, or still where the portrait "
                       "is a video: ours; released: still)")  # fmt: skip
    group.add_argument("--strength", type=float, default=1.0, metavar="X", help="0 to 3: 0 is the portrait's own look, "
                       "1 the driver's, more exaggerates (1: paper)")  # fmt: skip
    only = group.add_mutually_exclusive_group()
    only.add_argument("--expression-only", dest="move", action="store_const", const="expression", default="all",
                      help="the head keeps its place and size; its turns follow (off: paper)")  # fmt: skip
    only.add_argument("--head-only", dest="move", action="store_const", const="head", help="the portrait's own "
                      "expression and turn; only the head's place and size follow (off: paper)")  # fmt: skip
    group.add_argument("--save-motion", type=Path, metavar="FILE", help="also write the (first) driver's motion, a "
                       ".safetensors file for --motion")  # fmt: skip


def _result_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output", type=Path, help="name.mp4 (H.264, AAC), name.webm (VP9, Opus), name.gif, a "
                       "folder for PNG files, or name.png where the driver is a picture")  # fmt: skip
    group.add_argument("--fps", type=float, help="frame rate of the result (the driver's own: ours; released: 25 "
                       "whatever the driver's)")  # fmt: skip
    group.add_argument("--paste-back", action="store_true", help="put the face back into the whole portrait; always "
                       "so for several faces and for a video (off, the crop is shown: released)")  # fmt: skip
    group.add_argument("--side-by-side", action="store_true", help="portrait | driver | result (off: ours; released: "
                       "both, in two files)")  # fmt: skip
    group.add_argument("--crf", type=int, default=18, help="quality of mp4 and webm, 0 best, 51 worst (18: released)")
    group.add_argument("--label", action="store_true", help="a visible note that the video is synthetic; the invisible "
                       "watermark and the note in the file are always there (off: ours)")  # fmt: skip


def _sampling_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, help="denoising steps (the model's own; 25 for the released one: paper)")
    group.add_argument("--guidance-scale", type=float, metavar="S", help="s in ε_u + s(ε_c − ε_u); the paper's w is "
                       "s − 1 (the model's own; 3.5 for the released one: paper, appendix A)")  # fmt: skip
    group.add_argument("--scheduler", choices=["ddim", "dpm++", "unipc"], default="ddim", help="dpm++ and unipc "
                       "(diffusers) get along with about half the steps (ddim: as trained, released)")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="same seed, same video (0: ours)")
    group.add_argument("--window-size", type=int, default=24, metavar="N", help="frames denoised together (24: what "
                       "the temporal layers were trained on; paper, released)")  # fmt: skip
    group.add_argument("--overlap", type=int, default=4, metavar="N", help="frames that neighbouring windows share (4: "
                       "released)")  # fmt: skip
    group.add_argument("--windows", choices=["open", "released"], default="open", help="released: the released code's "
                       "closed loop: joins the end to the start, holds the whole clip (open: ours)")  # fmt: skip
    group.add_argument("--device", default="auto", help="cpu, cuda, or auto (auto: a GPU where there is one; ours)")
    group.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of the networks "
                       "(auto: as stored on a GPU, fp32 on a CPU, which has no fast half; ours)")  # fmt: skip
    group.add_argument("--max-memory", type=float, metavar="GIB", help="shorten windows and decode fewer frames at "
                       "once until this much is enough: of the GPU, or resident on a CPU (no bound: ours)")  # fmt: skip
    group.add_argument("--resume", action="store_true", help="go on after the last finished window of a run of the "
                       "same command that was stopped (off: ours)")  # fmt: skip


def animate(arguments: argparse.Namespace) -> None:
    """Do what the command line says, and print what came of it."""
    from dataclasses import replace

    from jobs.progress import bars
    from pipelines.models import device, load, locate
    from xnemo.animation import stream
    from xnemo.clip import save_frames
    from xnemo.memory import fit
    from xnemo.tokens.motion_file import save_motion
    from xnemo.weights import model_digest, read_config
    from xnemo.work import Work

    _check_places(arguments)
    chosen, folder = device(arguments.device), locate(arguments.model)
    asked, digest = _asked(arguments).checked(read_config(folder)), model_digest(folder)
    drivers = _drivers(arguments, digest)
    model = load(folder, chosen, arguments.precision)
    if arguments.max_memory is not None:
        asked = fit(model, asked, int(arguments.max_memory * 2**30))
    facts = _facts(arguments, asked, drivers) | {"model": digest, "device": chosen}
    work = Work(arguments.output.with_name(f".{arguments.output.name}.work"), facts, arguments.resume)
    done = False
    try:
        made = stream(model, arguments.portrait, {face: source for face, (_, source) in drivers.items()},
                      progress=bars(), work=work, **vars(asked))  # fmt: skip
        first = next(iter(drivers.values()))[0]
        frames = _beside(made, first, asked) if arguments.side_by_side else made.frames
        save_frames(arguments.output, frames, made.fps, audio=made.audio, audio_start=made.audio_start,
                    model=arguments.model, label=arguments.label, crf=arguments.crf)  # fmt: skip
        if arguments.save_motion:
            save_motion(replace(made.drivers[0].whole(), model=digest), arguments.save_motion)
        done = True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise XNeMoError(f"{arguments.output.parent} takes no more ({error.strerror}): make room there") from error
    finally:
        keep = not done and work.started()
        if keep:
            print("stopped: the same command with --resume goes on after the last finished window", file=sys.stderr)
        work.close(keep)
    print(f"{arguments.output}: {made.count} frames, {made.fps:g} per second")


def _check_places(arguments: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is read: places where nothing can be written, or nothing should."""
    from xnemo.media.writing import check_crf, check_output, check_writable

    check_crf(arguments.crf)
    if arguments.max_memory is not None and not (arguments.max_memory > 0 and math.isfinite(arguments.max_memory)):
        raise XNeMoError(f"--max-memory is {arguments.max_memory}: give gibibytes, such as 8")
    sources = [arguments.portrait, arguments.motion, *(arguments.driving or [])]
    for place in filter(None, (arguments.output, arguments.save_motion)):
        if any(source and source.exists() and place.exists() and source.samefile(place) for source in sources):
            raise XNeMoError(f"{place} is what is read: give the result another name")
    check_output(arguments.output)
    if arguments.save_motion:
        check_writable(arguments.save_motion)


def _facts(
    arguments: argparse.Namespace, asked: Options, drivers: Mapping[int, tuple[Path, Path | Motion]]
) -> dict[str, str]:
    """What the result's bytes depend on: an unfinished run with other facts is another run."""
    from dataclasses import asdict

    from xnemo.weights import sha256

    files = {"portrait": arguments.portrait, **{f"driver of face {face}": path for face, (path, _) in drivers.items()}}
    facts = {name: sha256(path) for name, path in files.items()}
    return facts | {name: str(value) for name, value in asdict(asked).items()} | {"precision": arguments.precision}


def _asked(arguments: argparse.Namespace) -> Options:
    from dataclasses import fields

    from xnemo.options import Options

    given = {field.name: getattr(arguments, field.name) for field in fields(Options) if hasattr(arguments, field.name)}
    return Options(**{**given, "face": (arguments.face or [0])[0]})


def _drivers(arguments: argparse.Namespace, digest: str) -> dict[int, tuple[Path, Path | Motion]]:
    """face -> (its driver's file, what `animate` takes for it)."""
    from xnemo.tokens.motion_file import load_motion

    paths, faces = arguments.driving or [arguments.motion], arguments.face or [0]
    if arguments.driving and arguments.motion:
        raise XNeMoError("give --driving or --motion, not both")
    if len(set(faces)) != len(faces):
        raise XNeMoError(f"--face is given twice with one number: {faces}")
    if len(paths) not in (1, len(faces)):
        raise XNeMoError(f"{len(paths)} drivers for {len(faces)} faces: give one for all, or one for each --face")
    paths = paths * len(faces) if len(paths) == 1 else paths
    motion = [path == arguments.motion or path.suffix == ".safetensors" for path in paths]
    return {
        face: (path, load_motion(path, model=digest) if moves else path)
        for face, path, moves in zip(faces, paths, motion, strict=True)
    }


def _beside(made: Animation, driving: Path, asked: Options) -> Iterator[np.ndarray]:
    """portrait | driver | result; without a driver to see (a motion file) portrait | result."""
    from itertools import repeat

    from xnemo.clip import side_by_side
    from xnemo.media.images import is_picture, read_image
    from xnemo.media.video import stream_frames

    if driving.suffix == ".safetensors":
        return side_by_side(made.portrait, None, made.frames)
    if is_picture(driving):
        return side_by_side(made.portrait, repeat(read_image(driving)), made.frames)
    batches = stream_frames(driving, fps=made.fps, start=asked.start, max_frames=made.count, steady=True)
    return side_by_side(made.portrait, (frame for batch in batches for frame in batch), made.frames)


def list_faces(output: Path, sources: Sequence[Path]) -> int:
    """Number the faces of the portrait (and of the drivers' first frames, in files beside it)."""
    from xnemo.media.faces import detector, numbered
    from xnemo.media.images import write_image
    from xnemo.media.limits import MediaError
    from xnemo.media.writing import PICTURES, check_writable
    from xnemo.prepare import find_faces, picture_of

    if output.suffix.lower() not in PICTURES:
        raise XNeMoError(f"{output}: the numbered faces are a picture: end the name in .png or .jpg")
    finder = detector()
    check_writable(output)
    for at, source in enumerate(sources):
        path = output.with_stem(f"{output.stem}-driver-{at}") if at else output
        picture = picture_of(source)
        faces = find_faces(picture, finder)
        if not faces:
            raise MediaError("no_face", f"no face was found in {source}: nothing was written")
        write_image(path, numbered(picture, faces))
        for number, face in enumerate(faces):
            left, top, right, bottom = (round(value) for value in face.box)
            print(f"{source}: face {number} at {left},{top}, {right - left}x{bottom - top} px")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
