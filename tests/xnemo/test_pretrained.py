"""Initial weights from published checkpoints: what is filled, what stays, what is refused."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo, seeded
from xnemo.official import MOTION, TEMPORAL
from xnemo.pretrained import Pretrained, Start, initialise, start

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fresh(tiny_config: ModelConfig) -> XNeMo:
    return seeded(tiny_config.model_copy(update={"motion_encoder": ModelConfig.small().motion_encoder}), seed=0)


def test_a_backbone_fills_both_unets_and_leaves_the_inserted_modules(fresh: XNeMo, released_folder: Path) -> None:
    source = released_folder / "sd-image-variations-diffusers"
    before = {name: t.clone() for name, t in fresh.denoiser.state_dict().items()}
    reports = initialise(fresh, Pretrained(backbone=str(source)))
    unet = load_file(source / "unet" / "diffusion_pytorch_model.safetensors")
    assert not any(reports)
    for name, tensor in fresh.denoiser.state_dict().items():
        assert torch.equal(tensor, unet.get(name, before[name]))
    assert all(torch.equal(t, unet[name]) for name, t in fresh.reference_net.state_dict().items())


def test_an_image_encoder_and_a_vae_are_filled_whole(fresh: XNeMo, released_folder: Path) -> None:
    clip, vae = released_folder / "sd-image-variations-diffusers", released_folder / "stable-video-diffusion-img2vid-xt"
    initialise(fresh, Pretrained(image_encoder=str(clip), vae=str(vae)))
    tensors = load_file(vae / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(t, tensors[name]) for name, t in fresh.codec.vae.state_dict().items())
    tensors = load_file(clip / "image_encoder" / "model.safetensors")
    assert all(torch.equal(t, tensors[name]) for name, t in fresh.image_encoder.state_dict().items())


def as_animatediff(temporal: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(".temporal_modules.", ".motion_modules."): t for name, t in temporal.items()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_animatediff_fills_the_temporal_modules(
    fresh: XNeMo, released_folder: Path, tmp_path: Path, wrapped: bool
) -> None:
    temporal = torch.load(released_folder / TEMPORAL, weights_only=True)
    published = {f"module.{name}": t for name, t in as_animatediff(temporal).items() if ".pe" not in name}
    torch.save({"state_dict": published, "epoch": 3} if wrapped else published, tmp_path / "mm.ckpt")
    (report,) = initialise(fresh, Pretrained(animatediff=str(tmp_path / "mm.ckpt")))
    own = fresh.denoiser.state_dict()
    assert not report
    assert all(torch.equal(own[name], t) for name, t in temporal.items())


def test_animatediffs_first_version_leaves_the_middle_fresh(
    fresh: XNeMo, released_folder: Path, tmp_path: Path
) -> None:
    temporal = torch.load(released_folder / TEMPORAL, weights_only=True)
    torch.save({name: t for name, t in as_animatediff(temporal).items() if "mid" not in name}, tmp_path / "v1")
    initialise(fresh, Pretrained(animatediff=str(tmp_path / "v1")))
    own = fresh.denoiser.state_dict()
    assert not own["mid_block.temporal_modules.0.temporal_transformer.proj_out.weight"].any()
    assert own["up_blocks.0.temporal_modules.0.temporal_transformer.proj_out.weight"].any()


def test_the_landmark_network_fills_the_trunk_only(
    tiny_config: ModelConfig, released_folder: Path, tmp_path: Path
) -> None:
    fresh = XNeMo(tiny_config)
    motion = torch.load(released_folder / MOTION, weights_only=True)
    fan = {k.removeprefix("model."): t for k, t in motion.items() if k.startswith("model.") and "att_" not in k}
    torch.save(
        {k: t for k, t in fan.items() if "num_batches" not in k} | {"al0.weight": torch.zeros(2)}, tmp_path / "f"
    )
    before = fresh.motion_encoder.final_proj.weight.clone()
    initialise(fresh, Pretrained(fan=str(tmp_path / "f")))
    own = fresh.motion_encoder.state_dict()
    assert torch.equal(own["model.m0.b1_4.conv1.weight"], motion["model.m0.b1_4.conv1.weight"])
    assert torch.equal(own["final_proj.weight"], before)


def test_a_backbone_of_another_architecture_is_refused(fresh: XNeMo, released_folder: Path, tmp_path: Path) -> None:
    unet = load_file(released_folder / "sd-image-variations-diffusers" / "unet" / "diffusion_pytorch_model.safetensors")
    unet["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    save_file(unet, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(XNeMoError, match=r"another architecture.*conv_in\.weight \(32, 9, 3, 3\) for \(32, 4, 3, 3\)"):
        initialise(fresh, Pretrained(backbone=str(tmp_path)))


def test_sources_the_model_has_no_place_for_are_refused(fresh: XNeMo) -> None:
    with pytest.raises(XNeMoError, match=r'needs motion_encoder\.kind "fan"'):
        initialise(fresh, Pretrained(fan="fan.pth"))
    with pytest.raises(XNeMoError, match="image_encoder is given"):
        initialise(seeded(ModelConfig.small(), seed=0), Pretrained(image_encoder="clip"))


def test_a_source_that_is_not_there_is_named(fresh: XNeMo) -> None:
    with pytest.raises(XNeMoError, match=r"no file .*nowhere\.ckpt"):
        initialise(fresh, Pretrained(animatediff="/nowhere.ckpt"))
    with pytest.raises(XNeMoError, match="no folder /nowhere"):
        initialise(fresh, Pretrained(backbone="/nowhere"))


def test_the_shipped_configuration_is_the_released_shape() -> None:
    config = Start.model_validate(yaml.safe_load((ROOT / "jobs" / "configs" / "sd15.yaml").read_text()))
    assert config.model == ModelConfig.sd15()
    assert config.pretrained.backbone


def test_a_start_without_sources_is_the_seeded_model() -> None:
    model, reports = start(Start(model=ModelConfig.small(), seed=3))
    assert reports == []
    assert torch.equal(next(model.parameters()), next(seeded(ModelConfig.small(), seed=3).parameters()))
