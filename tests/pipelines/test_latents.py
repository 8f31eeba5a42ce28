"""Training on cached latents is training on the pixels they were made of."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import latents, shards
from pipelines.clip_store import ClipStore
from pipelines.latents import Encoder, LatentReader, LatentsConfig, codec_key
from tests.pipelines.test_train import SIZE, TINY, clip_row
from xnemo import weights
from xnemo.augment import AugmentConfig
from xnemo.batch import ClipBatch, PairBatch
from xnemo.config import ModelConfig
from xnemo.draw import Draw
from xnemo.model import XNeMo, seeded
from xnemo.stages import StageConfig, build_stage
from xnemo_platform import manifest, storage
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample

FACE = 160  # the faces of these clips are about half of 128 px: nothing is lost
SAMPLES = [Sample(k, k % 2) for k in range(4)]


def publish(folder: Path, rows: list[dict], unit: str = "first") -> str:
    facts = shards.write(str(folder), rows)
    manifest.append(str(folder), [{**fact, "unit": unit, "sources": [unit], "notes": None} for fact in facts])
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return publish(tmp_path_factory.mktemp("latents") / "clips", [clip_row(1, "train"), clip_row(2, "train")])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> XNeMo:
    return seeded(ModelConfig.model_validate(TINY), 0)


@pytest.fixture
def encoded(data: str, model: XNeMo, tmp_path: Path) -> str:
    """The key of latents beside `data`, made in this process."""
    weights.save(model, tmp_path / "model")
    config = LatentsConfig(dataset=data, model=str(tmp_path / "model"), frame_size=SIZE, face_size=FACE)
    name = codec_key(model)
    output = latents.folder(data, name)
    if not storage.exists(output):
        about = {"kind": latents.VERSION, "key": name, "frame_size": SIZE, "face_size": FACE, "jpeg_quality": 95}
        worker = Encoder(config.model, config, output)
        for number in range(len(manifest.shards(data))):
            manifest.append(output, [worker.encode_shard(number)], about)
    return name


def stores(data: str, name: str) -> tuple[ClipStore, ClipStore]:
    return ClipStore(data, "train", SIZE, 0), ClipStore(data, "train", SIZE, 10**9, latents=name)


def loss(model: XNeMo, stage: str, batch: PairBatch | ClipBatch) -> float:
    torch.manual_seed(0)
    trained = build_stage(model, stage, StageConfig(augment=AugmentConfig(), gan={"weight": 0.0}))  # type: ignore[arg-type]
    with torch.no_grad():
        return float(trained.losses(batch, Draw(0, batch.ids))["loss"])


@pytest.mark.parametrize("stage", ["appearance", "motion", "temporal"])
def test_a_stage_loses_the_same_on_latents_as_on_pixels(data: str, encoded: str, model: XNeMo, stage: str) -> None:
    pixels, cached = (
        store.clips(SAMPLES, 0, 4) if stage == "temporal" else store.pairs(SAMPLES, 0)
        for store in stores(data, encoded)
    )
    assert pixels.known is None
    assert cached.known is not None
    assert loss(model, stage, cached) == pytest.approx(loss(model, stage, pixels), rel=2e-3)


def test_the_placement_is_that_of_the_whole_frames(data: str, encoded: str) -> None:
    pixels, cached = (store.pairs(SAMPLES, 0) for store in stores(data, encoded))
    torch.testing.assert_close(cached.placement, pixels.placement)
    pixels, cached = (store.clips(SAMPLES, 0, 4) for store in stores(data, encoded))
    torch.testing.assert_close(cached.placement, pixels.placement)


def test_the_boxes_lie_on_the_cached_faces(data: str, encoded: str) -> None:
    batch = stores(data, encoded)[1].pairs(SAMPLES, 0)
    centre = (batch.target_box[:, :2] + batch.target_box[:, 2:]) / 2
    side = (batch.target_box[:, 2:] - batch.target_box[:, :2]).amax(1)
    torch.testing.assert_close(centre, torch.full_like(centre, FACE / 2), atol=3.0, rtol=0)
    torch.testing.assert_close(side, torch.full_like(side, FACE / 2), atol=3.0, rtol=0)


def test_latents_are_the_codecs_means(data: str, encoded: str, model: XNeMo) -> None:
    batch = stores(data, encoded)[0].pairs(SAMPLES, 0)
    known = stores(data, encoded)[1].pairs(SAMPLES, 0).known
    assert known is not None
    from xnemo.batch import to_unit

    wanted = model.codec.encode(to_unit(batch.reference, model.config.image_size))
    torch.testing.assert_close(known.reference, wanted, atol=2e-3, rtol=1e-3)


def test_another_codec_has_no_latents_here(data: str, encoded: str) -> None:
    other = seeded(ModelConfig.model_validate(TINY), 1)
    other.codec.basis += 1
    with pytest.raises(PlatformError, match="has no latents of this codec"):
        ClipStore(data, "train", SIZE, 0, latents=codec_key(other))


def test_the_key_is_of_the_codec_and_not_of_what_is_trained(model: XNeMo) -> None:
    other = seeded(ModelConfig.model_validate(TINY), 5)  # the codec of this shape is the same for every seed
    assert codec_key(other) == codec_key(model)
    assert any(not torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))


def test_added_clips_without_latents_are_an_error(data: str, encoded: str, tmp_path: Path) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(data, grown)
    assert np.isfinite(LatentReader(str(grown), encoded, "train").cached(0).latents).all()
    publish(grown, [clip_row(3, "train")], unit="later")
    with pytest.raises(PlatformError, match="lacks 1 of 2 shards"):
        LatentReader(str(grown), encoded, "train")


def caching(folder: Path, model: XNeMo) -> None:
    """Encode a data set, encode it again, add a clip and encode that."""
    uri = publish(folder / "clips", [clip_row(1, "train"), clip_row(2, "val")])
    weights.save(model, folder / "model")
    config = LatentsConfig(dataset=uri, model=str(folder / "model"), frame_size=SIZE, face_size=FACE)
    first, again = latents.cache(config), latents.cache(config)
    publish(folder / "clips", [clip_row(3, "train")], unit="later")
    assert [found["new_shards"] for found in (first, again, latents.cache(config))] == [2, 0, 1]
    assert len(LatentReader(uri, first["key"], "train")) == 2
    with pytest.raises(PlatformError, match="other sizes"):
        latents.cache(config.model_copy(update={"face_size": 64}))


def test_only_shards_without_latents_are_encoded(tmp_path: Path, model: XNeMo, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(todo: list[int], place: str, config: LatentsConfig, output: str) -> Iterator[dict]:
        worker = Encoder(place, config, output)
        return (json.loads(worker({"shard": number})["row"]) for number in todo)

    monkeypatch.setattr(latents, "_encoded", here)
    caching(tmp_path, model)


@pytest.mark.slow
def test_on_ray_it_is_the_same(tmp_path: Path, model: XNeMo, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("XNEMO_HOME", str(tmp_path))
    try:
        caching(tmp_path, model)
    finally:
        ray.shutdown()
