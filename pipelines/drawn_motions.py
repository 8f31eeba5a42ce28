"""A motion data set whose codes are the renderer's own parameters (`xnemo.synthetic.codes`): nothing has to be drawn,
ingested or encoded, and what is trained on it shows the tokenizer and the generator alone."""

from typing import Any

from pipelines.ingest import split_of
from pipelines.motions import KIND, publish
from xnemo.synthetic.codes import FPS, MODEL, drawn_motion
from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.motion import EMOTIONS
from xnemo_platform import manifest
from xnemo_platform.errors import PlatformError

VALIDATION = 0.05  # of the identities


def write(output: str, identities: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """One clip per identity as one shard; emotions and intensities take turns. Returns {"output", "clips", "frames"}.

    Raises PlatformError: nothing to write, or another data set is there.
    """
    frames = round(seconds * FPS)
    if identities < 2 or frames < 1:
        raise PlatformError(
            f"{identities} identities of {seconds:g} s make no data set: give two or more, of one frame"
        )
    rows = [_row(seed + i, i, frames) for i in range(identities)]
    about = {"kind": KIND, "model": MODEL, "features": len(MOTION), "clips": f"{identities} × {frames} from {seed}"}
    manifest.append(output, [], about)  # refuses another data set before anything is written
    made = publish(output, rows)
    manifest.append(output, [made | {"unit": made["sha256"], "sources": []}], about)
    return {"output": output, "clips": identities, "frames": identities * frames}


def _row(seed: int, index: int, frames: int) -> dict[str, Any]:
    emotion, intensity = list(EMOTIONS)[index % len(EMOTIONS)], 1 + index // len(EMOTIONS) % 3
    motion = drawn_motion(seed, frames, emotion, intensity)
    identity = f"seed-{seed}"
    return {
        "clip_id": f"drawn-{seed}",
        "dataset": "synthetic",
        "identity": identity,
        "split": split_of("synthetic", identity, VALIDATION, 0.0),
        "emotion": emotion,
        "intensity": intensity,
        "fps": FPS,
        "n_frames": frames,
        "f_mot": motion.f_mot.astype("<f4").tobytes(),
        "f_rts": motion.f_rts.astype("<f4").tobytes(),
    }
