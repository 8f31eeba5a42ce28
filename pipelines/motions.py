"""Motion extraction: f_mot and f_rts of every clip of a data set, through one model's motion encoder.

Ray Data runs it: pieces of clip shards go to actors that loaded the model once, each piece comes back as one
published motion shard, and the driver enters it in the manifest. A piece that is entered is never done again.
Crops and smoothing are those of inference (`xnemo.prepare`), so a code means the same in both.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines import actors, models, schema
from pipelines.shards import Clip, ClipReader
from xnemo.weights import model_digest
from xnemo_platform import manifest, storage, untrusted
from xnemo_platform.config import Config
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from xnemo.model import XNeMo

KIND = "motions/1"
LIMIT = 1 << 30  # bytes of one motion shard in memory
FACTS = ["clip_id", "dataset", "identity", "split", "emotion", "intensity", "fps", "n_frames"]
SCHEMA = pa.schema(
    [*(schema.CLIP.field(name) for name in FACTS), ("f_mot", pa.binary()), ("f_rts", pa.binary())],
    metadata={"kind": KIND},
)
"""f_mot and f_rts are little-endian float32 [n_frames,D] and [n_frames,3], row by row."""


class MotionsConfig(Config):
    """What to extract, with what, to where."""

    dataset: str  # folder (URI) of a clip data set
    model: str  # model folder, or models:/<name>@<alias>
    output: str  # folder (URI) of the motion data set; running again goes on where it stopped
    split: str | None = None  # one split, or all
    limit: int | None = Field(default=None, gt=0)  # clips
    clips_per_shard: int = Field(default=64, gt=0)
    batch: int = Field(default=64, gt=0)  # frames through the encoder at once
    workers: int = Field(default=2, gt=0)
    cpus: float = Field(default=0.5, gt=0)  # logical CPUs of a worker: little, or the reader starves on two cores
    gpus: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class ClipMotion:
    """One row of a motion data set: f_mot float32 [T,D], f_rts float32 [T,3]; "" and 0 where there is no label."""

    clip_id: str
    identity: str
    split: str
    emotion: str
    intensity: int
    fps: float
    f_mot: np.ndarray
    f_rts: np.ndarray


def extract(config: MotionsConfig, on_clips: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Extract what is missing, on the Ray of RAY_ADDRESS or a private one. Calls `on_clips(done, total)`.

    Returns {"output", "model" (digest), "features", "clips", "frames", "shards", "new_shards"} of the data set.
    Raises PlatformError: the output belongs to another model, or a clip shard is damaged.
    """
    folder = models.locate(config.model)
    about = {"kind": KIND, **_model_facts(folder)}
    manifest.shards(config.dataset)  # no data set: say so before the output's folder is made
    manifest.append(config.output, [], about)  # refuses an output of another model before any work
    pieces = _pieces(config, _covered(manifest.read(config.output)["unit"].to_pylist()))
    done, total, problems = 0, sum(piece["end"] - piece["start"] for piece in pieces), []
    for row in _encoded(pieces, folder, config):
        if "error" in row:
            problems.append(row["error"])
            continue
        manifest.append(config.output, [row], about)
        done += row["rows"]
        if on_clips:
            on_clips(done, total)
    if problems:
        raise PlatformError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    shards = manifest.shards(config.output)
    if not shards:
        raise PlatformError(f"{config.dataset} holds no clip of split {config.split!r}: nothing to extract")
    clips = list(read_motions(config.output))
    return {
        "output": config.output,
        "model": about["model"],
        "features": about["features"],
        "clips": len(clips),
        "frames": sum(len(clip.f_mot) for clip in clips),
        "shards": len(shards),
        "new_shards": len(pieces),
    }


def motion_facts(uri: str) -> dict[str, Any]:
    """{"model": digest, "features": D} of a motion data set. Raises PlatformError if it is none."""
    about = manifest.description(uri)
    if about.get("kind") != KIND:
        raise PlatformError(f"{uri} is no motion data set: extract one from clips with a trained model first")
    return {"model": about["model"], "features": about["features"]}


def read_motions(uri: str, split: str | None = None) -> Iterator[ClipMotion]:
    """The clips of a motion data set in manifest order. Raises PlatformError if it is none, or damaged."""
    motion_facts(uri)
    for row in manifest.shards(uri, split):
        table = _read_shard(uri, row)
        for clip in table.to_pylist():
            frames = clip["n_frames"]
            yield ClipMotion(
                clip["clip_id"],
                clip["identity"],
                clip["split"],
                clip["emotion"] or "",
                clip["intensity"] or 0,
                clip["fps"],
                np.frombuffer(clip["f_mot"], "<f4").reshape(frames, -1).copy(),
                np.frombuffer(clip["f_rts"], "<f4").reshape(frames, 3).copy(),
            )


def _model_facts(folder: Path) -> dict[str, Any]:
    try:
        digest = model_digest(folder)
        features = json.loads((folder / "config.json").read_text())["motion_encoder"]["f_mot"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise PlatformError(f"{folder} is no model folder ({error}): it needs config.json and digests.json") from None
    return {"model": digest, "features": features}


def _covered(units: Sequence[str]) -> dict[str, set[int]]:
    """What units `<sha256 of the clip shard>:<start>:<end>` hold: rows of each clip shard."""
    rows: dict[str, set[int]] = {}
    for unit in units:
        digest, start, end = unit.split(":")
        rows.setdefault(digest, set()).update(range(int(start), int(end)))
    return rows


def _pieces(config: MotionsConfig, covered: Mapping[str, set[int]]) -> list[dict[str, Any]]:
    """Runs of at most `clips_per_shard` clips of one shard each that are not covered yet: the units of work.
    `start` and `end` number the clips of the whole data set, as `ClipReader` does."""
    pieces: list[dict[str, Any]] = []
    first, left = 0, config.limit if config.limit is not None else 1 << 62
    for shard in manifest.shards(config.dataset, config.split):
        rows = range(min(shard["rows"], left))
        left -= len(rows)
        for start, end in _runs(
            [row for row in rows if row not in covered.get(shard["sha256"], ())], config.clips_per_shard
        ):
            pieces.append(
                {
                    "sha256": shard["sha256"],
                    "split": shard["split"],
                    "start": first + start,
                    "end": first + end,
                    "unit": f"{shard['sha256']}:{start}:{end}",
                }
            )
        first += shard["rows"]
    return pieces


def _runs(rows: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs [start, end) without gaps of at most `longest`."""
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1 or at - start == longest:
            yield rows[start], rows[at - 1] + 1
            start = at


def _encoded(pieces: Sequence[dict[str, Any]], folder: Path, config: MotionsConfig) -> Iterator[dict[str, Any]]:
    """Manifest rows as the actors finish them; {"error": sentence} for a piece that cannot be done."""
    items = [{"piece": json.dumps(piece)} for piece in pieces]
    arguments = (str(folder), config, _version(config))
    return actors.results(Encoder, arguments, items, config.workers, config.cpus, config.gpus)


class Encoder:
    """One actor: loads the model once, then turns pieces of clip shards into published motion shards.

    Model and data are opened at the first piece: what is wrong with them is then told like any other error.
    """

    def __init__(self, folder: str, config: MotionsConfig, version: str) -> None:
        self.folder, self.config, self.version = folder, config, version

    @cached_property
    def model(self) -> "XNeMo":
        return actors.model_of_worker(self.folder, self.config.gpus)

    @cached_property
    def reader(self) -> ClipReader:
        reader = ClipReader(self.config.dataset, self.config.split)
        if reader.digest != self.version:
            raise PlatformError(f"{self.config.dataset} changed while its motions were extracted: run this again")
        return reader

    def __call__(self, item: dict[str, str]) -> dict[str, str]:
        """{"piece": JSON} → {"row": JSON}: the manifest row, or what went wrong."""
        try:
            return {"row": json.dumps(self.encode_piece(json.loads(item["piece"])))}
        except (PlatformError, ValueError) as error:  # XNeMoError is a ValueError
            return {"row": json.dumps({"error": str(error)})}

    def encode_piece(self, piece: dict[str, Any]) -> dict[str, Any]:
        """Encode the clips of one piece, publish their shard, and return its manifest row."""
        rows = [self._row(self.reader[index]) for index in range(piece["start"], piece["end"])]
        made = publish(self.config.output, rows, piece["split"])
        return made | {"unit": piece["unit"], "sources": [piece["sha256"]]}

    def _row(self, clip: Clip) -> dict[str, Any]:
        """The clip's facts, f_mot [T,D], and f_rts [T,3] against its first frame."""
        from xnemo import crops

        boxes = crops.smooth_boxes(clip.boxes)
        relative = crops.clamp_f_rts(crops.f_rts(boxes, boxes[:1]))
        batch = self.config.batch
        codes = [
            self._codes(clip.frames[at : at + batch], boxes[at : at + batch]) for at in range(0, len(boxes), batch)
        ]
        f_mot = np.concatenate(codes)
        if not np.isfinite(f_mot).all():
            raise PlatformError(f"clip {clip.facts['clip_id']}: the motion encoder gave NaN; its weights are damaged")
        return {**clip.facts, "f_mot": f_mot.astype("<f4").tobytes(), "f_rts": relative.astype("<f4").tobytes()}

    def _codes(self, frames: Sequence[bytes], boxes: np.ndarray) -> np.ndarray:
        """f_mot [n,D] of encoded frames and their boxes in pixels."""
        import torch

        from xnemo import crops
        from xnemo.animation import signed
        from xnemo.prepare import cut

        size = self.model.config.motion_encoder.image_size
        squares = crops.square(boxes, crops.MOTION_SCALE)
        shrink = reduction(float(np.median(squares[:, 2] - squares[:, 0])), size)
        images = np.stack([decode_reduced(frame, shrink) for frame in frames])
        faces = signed(self.model, cut(images, squares / shrink, size))
        with torch.inference_mode():
            return self.model.motion_encoder.encode(faces).float().cpu().numpy()


def publish(output: str, rows: Sequence[Mapping[str, Any]], split: str = "") -> dict[str, Any]:
    """Write rows of SCHEMA as one shard of that split ("": of all) below `output`; what its manifest row says of it."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), buffer, compression="zstd")
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"shards/{split or 'all'}-{digest[:24]}.parquet"
    storage.publish_bytes(storage.join(output, name), data)
    return {"shard": name, "split": split, "rows": len(rows), "bytes": len(data), "sha256": digest}


def reduction(side: float, size: int) -> int:
    """How far JPEG decoding may shrink a frame (1, 2, 4 or 8) whose crop of `side` pixels becomes `size`."""
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or side / factor >= size)


def decode_reduced(data: bytes, factor: int) -> np.ndarray:
    """An encoded frame as uint8 RGB at 1/factor of its size: a JPEG's high frequencies are not even computed."""
    import cv2

    flag = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[factor]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if image is None:
        raise PlatformError("a frame cannot be decoded: ingest its data set again")
    return image[..., ::-1]


def _version(config: MotionsConfig) -> str:
    return manifest.digest(manifest.read(config.dataset))


def _read_shard(uri: str, row: dict[str, Any]) -> pa.Table:
    path = storage.safe_join(uri, row["shard"])
    data = storage.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise PlatformError(f"{path} does not match its digest in the manifest: make the data set again")
    return untrusted.read_parquet(io.BytesIO(data), LIMIT, path)
