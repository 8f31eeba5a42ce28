"""What the motion tokenizer and generator are worth, on drawn heads that no training saw.

    python -m jobs.motion_evidence --motions motions/ --output docs/evidence/
    python -m jobs.motion_evidence --model renderer --motions drawn/ --tokenizer runs/tokenizer/export \\
        --generator runs/generator/export --output docs/evidence/

`--motions` holds the codes the two were trained on; model, tokenizer and generator are the bundled ones unless named.
`--model renderer` takes codes of `xnemo synthetic motions` and draws with the renderer: what the two can do where
encoder and denoiser lose nothing. Writes motion.json (raw) and motion.md, or motion-renderer.*.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from jobs.cli import run
from pipelines.evaluation import motion_models as figures
from pipelines.evaluation.drawn import UNSEEN
from pipelines.evaluation.motion_page import page
from pipelines.evaluation.studio import ModelStudio, RendererStudio, Studio
from pipelines.models import load, locate
from pipelines.motions import motion_facts, read_motions
from xnemo.errors import XNeMoError
from xnemo.synthetic.codes import MODEL
from xnemo.tokens.weights import load_generator, load_tokenizer
from xnemo.weights import model_digest

SAMPLING = (  # the default first
    {"temperature": 1.0, "top_p": 0.99},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 0.9, "top_p": 1.0},
)


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser("python -m jobs.motion_evidence", description=__doc__)
    options.add_argument("--motions", required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--single", help="a tokenizer with one code a step, to compare")
    options.add_argument("--clips", type=int, default=64, help="unseen heads whose codes are compared (64)")
    options.add_argument("--drawn", type=int, default=32, help="of these, heads whose pictures are measured (32)")
    options.add_argument("--frames", type=int, default=80, help="of a clip (80)")
    for part in ("model", "tokenizer", "generator"):
        options.add_argument(f"--{part}", default="bundled")
    given = options.parse_args(argv)
    torch.set_num_threads(1)  # drawing is faster so
    with TemporaryDirectory() as scratch:
        studio, digest = _studio(given.model, Path(scratch))
        found = measured(_models(given, studio, digest), given.clips, given.drawn, given.frames)
    name = "motion-renderer" if given.model == MODEL else "motion"
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / f"{name}.json").write_text(json.dumps(found, indent=1))
    (given.output / f"{name}.md").write_text(page(found))
    print(page(found))
    return 0


def _studio(model: str, scratch: Path) -> tuple[Studio, str]:
    """How motions are taken and drawn, and the digest their codes name."""
    if model == MODEL:
        return RendererStudio(), MODEL
    folder = locate(model)
    return ModelStudio(load(folder), scratch), model_digest(folder)


def _models(given: argparse.Namespace, studio: Studio, digest: str) -> figures.Models:
    """The tokenizer, the generator and their training data; all must be of one model."""
    motions = str(Path(given.motions).resolve())
    tokenizer = load_tokenizer(locate(given.tokenizer, "tokenizer"))
    generator = load_generator(locate(given.generator, "generator"))
    for what, belongs_to in ((given.motions, motion_facts(motions)["model"]), (given.tokenizer, tokenizer.belongs_to)):
        if belongs_to != digest:
            raise XNeMoError(f"{what} belongs to model {belongs_to[:12]}, not to {digest[:12]}: extract, train anew")
    known = [clip for clip in read_motions(motions) if clip.split == "train"]
    return figures.Models(studio, tokenizer, generator, known, load_tokenizer(given.single) if given.single else None)


def measured(models: figures.Models, clips: int, drawn: int, frames: int) -> dict[str, Any]:
    """All figures; each part says how long it took on one thread."""
    found: dict[str, Any] = {"clips": clips, "drawn": drawn, "frames": frames}

    def part(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        print(f"{name}: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
        return result

    subjects = part("heads", lambda: figures.cast(models.studio, clips, drawn, frames, UNSEEN + 3_000_000))
    actors = subjects[:drawn]
    motions = part("motions", lambda: figures.performances(models, actors, max(drawn // 2, 1)))
    seen = part("pictures", lambda: figures.pictured(models.studio, actors, motions))
    found["codebook"] = figures.codebook(models.tokenizer, subjects)
    found["tokenizer"] = figures.reconstruction(actors, seen)
    found["generator"] = part("distances", lambda: figures.distances(models, subjects, SAMPLING))
    found["rendered"] = figures.liveliness(actors, seen)
    found["emotion"] = part("emotions", lambda: figures.emotions(models, actors, motions, seen))
    found["interpolation"] = part("paths", lambda: figures.paths(models, actors[: max(drawn // 2, 2)]))
    return found


if __name__ == "__main__":
    sys.exit(run(main))
