"""What frozen networks make of a data set's frames, computed once (training recipe, H): training then neither decodes
whole frames nor runs the codec and CLIP.

Beside the shards, `latents/<key>/` holds a shard of the same name for each of theirs, row by row: the codec's means,
the CLIP embedding, and a JPEG of the face with room around it for the augmented crops. The key is a digest of the
codec's and CLIP's weights, so the stages of a training share one folder and a changed codec has another.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines import actors, models, schema
from pipelines.shards import Clip, ClipReader
from xnemo.crops import square
from xnemo.media import images
from xnemo_platform import manifest, storage
from xnemo_platform.config import Config
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from xnemo.model import XNeMo

VERSION = "latents/1"
FACE_SCALE = 2.0  # of the box's longer side: room for the widest augmented crop, 1.1 / 0.7 of it, and its shift
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("latents", pa.list_(pa.binary())),  # n × float16 [C,h,w]: scaled posterior means
        ("context", pa.list_(pa.binary())),  # n × float16 [d]; zeros where the model has no image encoder
        ("shape", pa.list_(pa.int32(), 3)),  # C, h, w
        ("faces", pa.list_(pa.binary())),  # n JPEG files
        ("face_squares", pa.list_(schema.BOX)),  # n × 4: what the faces show, in crop pixels; may leave the crop
    ],
    metadata={"schema_version": VERSION},
)


class LatentsConfig(Config):
    """What to encode, with what."""

    dataset: str  # folder (URI) of a clip data set; the latents are written below it
    model: str  # model folder, models:/<name>@<alias> or bundled: its codec and image encoder
    frame_size: int = Field(default=512, ge=32)  # frames are decoded to this size, as in training
    face_size: int = Field(default=416, ge=32)  # 224 px crops of 1.1 × the box keep their detail
    jpeg_quality: int = Field(default=95, ge=50, le=100)
    batch: int = Field(default=16, gt=0)  # frames through the codec at once
    workers: int = Field(default=1, gt=0)
    cpus: float = Field(default=0.5, gt=0)
    gpus: float = Field(default=0.0, ge=0)


def codec_key(model: "XNeMo") -> str:
    """Digest of the weights that decide latents and image tokens."""
    digest = hashlib.sha256(repr((model.config.codec, model.config.image_encoder, model.config.image_size)).encode())
    for part in (model.codec, model.image_encoder):
        for name, value in sorted(part.state_dict().items()) if part is not None else ():
            digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def folder(dataset: str, name: str) -> str:
    """Where the latents of that key lie."""
    return storage.join(dataset, "latents", name)


def cache(config: LatentsConfig, on_clips: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Encode the shards that have no latents yet and return {"output", "key", "clips", "new_shards", "bytes"}.

    Starts Ray if there is work. Raises PlatformError: no data set, no model, other sizes than the latents there.
    """
    place = models.locate(config.model)
    name = codec_key(models.load(place))
    output = folder(config.dataset, name)
    about = {"kind": VERSION, "key": name} | {
        k: getattr(config, k) for k in ("frame_size", "face_size", "jpeg_quality")
    }
    said = manifest.description(output)
    if said and said != about:
        raise PlatformError(f"{output} was made with other sizes ({said}): remove it, or give the same ones")
    shards = manifest.shards(config.dataset)
    known = {row["unit"] for row in manifest.shards(output)} if said else set()
    todo = [number for number, shard in enumerate(shards) if shard["sha256"] not in known]
    done, total = 0, sum(shards[number]["rows"] for number in todo)
    for row in _encoded(todo, str(place), config, output):
        if "error" in row:
            raise PlatformError(row["error"])
        manifest.append(output, [row], about)
        done += row["rows"]
        if on_clips:
            on_clips(done, total)
    rows = manifest.shards(output)
    return {
        "output": output,
        "key": name,
        "clips": sum(row["rows"] for row in rows),
        "new_shards": len(todo),
        "bytes": sum(row["bytes"] for row in rows),
    }


def _encoded(todo: list[int], place: str, config: LatentsConfig, output: str) -> Iterator[dict[str, Any]]:
    """Manifest rows as the actors finish them; {"error": sentence} for a shard that cannot be done."""
    items = [{"shard": number} for number in todo]
    return actors.results(Encoder, (place, config, output), items, config.workers, config.cpus, config.gpus)


class Encoder:
    """One actor: loads the model once, then turns shards of clips into published shards of latents."""

    def __init__(self, place: str, config: LatentsConfig, output: str) -> None:
        self.place, self.config, self.output = place, config, output

    @cached_property
    def model(self) -> "XNeMo":
        return actors.model_of_worker(self.place, self.config.gpus)

    @cached_property
    def reader(self) -> ClipReader:
        return ClipReader(self.config.dataset)

    @cached_property
    def shards(self) -> list[tuple[dict[str, Any], int]]:
        """(row of the manifest, number of its first clip) of every shard."""
        rows = manifest.shards(self.config.dataset)
        return list(zip(rows, accumulate((row["rows"] for row in rows), initial=0), strict=False))

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """{"shard": number} to {"row": JSON}: the manifest row, or {"error": sentence}."""
        try:
            return {"row": json.dumps(self.encode_shard(int(row["shard"])))}
        except (PlatformError, ValueError) as error:  # XNeMoError is a ValueError
            return {"row": json.dumps({"error": str(error)})}

    def encode_shard(self, number: int) -> dict[str, Any]:
        """Publish the latents of shard `number` under its name."""
        shard, first = self.shards[number]
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, SCHEMA, compression="none", use_dictionary=False, write_statistics=False) as out:
            for index in range(first, first + shard["rows"]):
                row = encode_clip(self.reader[index], self.model, self.config)
                out.write_table(pa.Table.from_pylist([row], SCHEMA), row_group_size=1)
        data = buffer.getvalue()
        storage.publish_bytes(storage.join(self.output, shard["shard"]), data)
        facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "unit": shard["sha256"]}
        return {**{name: shard[name] for name in ("shard", "split", "rows")}, **facts, "sources": [], "notes": "{}"}


def encode_clip(clip: Clip, model: "XNeMo", config: LatentsConfig) -> dict[str, Any]:
    """A row of SCHEMA for one clip."""
    import torch

    from pipelines.clip_store import decode
    from xnemo.batch import to_unit

    size, device = clip.facts["size"], model.denoiser.conv_in.weight.device
    latents, context = [], []
    with torch.no_grad():
        for at in range(0, len(clip.frames), config.batch):
            frames = np.stack([decode(file, config.frame_size, size) for file in clip.frames[at : at + config.batch]])
            pictures = to_unit(torch.from_numpy(frames).to(device), model.config.image_size)
            latents.append(model.codec.encode(pictures).half().cpu().numpy())
            context.append(model.context(pictures)[:, 0].half().cpu().numpy())
    squares = np.round(square(clip.boxes.astype(np.float64), FACE_SCALE)).astype(np.float32)
    faces = [
        images.encode_jpeg(_cut(images.decode_jpeg(file), window, config.face_size), config.jpeg_quality)
        for file, window in zip(clip.frames, squares, strict=True)
    ]
    means, tokens = np.concatenate(latents), np.concatenate(context)
    return {
        "clip_id": clip.facts["clip_id"],
        "latents": [mean.tobytes() for mean in means],
        "context": [token.tobytes() for token in tokens],
        "shape": list(means.shape[1:]),
        "faces": faces,
        "face_squares": list(squares),
    }


def _cut(frame: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """A square of uint8 [H, W, 3], whole pixels, its border repeated outside, as [size, size, 3]."""
    left, top, right, bottom = (int(value) for value in window)
    height, width = frame.shape[:2]
    rows, columns = np.clip(np.arange(top, bottom), 0, height - 1), np.clip(np.arange(left, right), 0, width - 1)
    return images.resize(frame[rows[:, None], columns], size, size)


@dataclass(frozen=True, eq=False)
class Cached:
    """The latents of one clip: float32 [n,C,h,w], image tokens float32 [n,d], n JPEG files and their squares [n,4]."""

    latents: np.ndarray
    context: np.ndarray
    faces: list[bytes]
    squares: np.ndarray


class LatentReader(ClipReader):
    """The latents beside a data set, numbered as its clips are. Raises PlatformError where some are missing."""

    version = VERSION

    def __init__(self, dataset: str, name: str, split: str | None):
        place = folder(dataset, name)
        mend = f"run `xnemo data latents --dataset {dataset} --model` with the model that the training starts from"
        if not storage.exists(storage.join(place, manifest.NAME)):
            raise PlatformError(f"{dataset} has no latents of this codec ({name}): {mend}")
        super().__init__(place, split)
        wanted = {(row["shard"], row["sha256"]) for row in manifest.shards(dataset, split)}
        there = {(row["shard"], row["unit"]) for row in self._shards}
        if wanted != there:
            raise PlatformError(f"{place} lacks {len(wanted - there)} of {len(wanted)} shards: {mend} again")
        self.about = manifest.description(place)

    def cached(self, index: int) -> Cached:
        """The latents of clip `index`."""
        row = self.read(index, ["latents", "context", "shape", "faces", "face_squares"])
        means = np.frombuffer(b"".join(row["latents"]), np.float16).reshape(-1, *row["shape"])
        tokens = np.frombuffer(b"".join(row["context"]), np.float16).reshape(len(means), -1)
        squares = np.array(row["face_squares"], np.float64)
        return Cached(means.astype(np.float32), tokens.astype(np.float32), row["faces"], squares)
