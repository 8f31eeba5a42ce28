"""The denoiser: recorded outputs under every kind of conditioning, and what each condition may change."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xnemo.config import ModelConfig, UNetConfig
from xnemo.denoiser import Denoiser
from xnemo.errors import XNeMoError
from xnemo.reference_net import ReferenceNet

UNET = UNetConfig(channels=(8, 16), attention=(True, True), layers_per_block=1, heads=2, norm_groups=4, context_dim=4)
TINY = ModelConfig(unet=UNET, image_encoder=None)


@pytest.fixture(scope="module")
def golden(
    recorded: Callable[[str], dict[str, Tensor]],
    golden_fill: Callable[[nn.Module], nn.Module],
    tiny_config: ModelConfig,
) -> Callable[..., None]:
    """Compares one output of the recorded denoiser with ours."""
    data = recorded("unet_tiny") | recorded("unet_tiny_stages")
    denoiser = golden_fill(Denoiser(tiny_config))
    bank = golden_fill(ReferenceNet(tiny_config.unet))(data["ref_lat"], data["clip"])

    @torch.no_grad()
    def check(name: str, read: bool = False, frames: int = 4, **options: object) -> None:
        given = {"context": data["clip"], "motion": data["mot"][:, :frames], "reference": bank if read else None}
        if options.pop("fp16_bank", False):
            given["reference"] = {k: v.half().float() for k, v in bank.items()}
        if options.pop("null", False):
            given |= {"context": torch.zeros_like(data["clip"]), "motion": data["neg"][:, None]}
        if options.pop("masked", False):
            given["kept"] = {k.removeprefix("rfm_ids/"): v for k, v in data.items() if k.startswith("rfm_ids/")}
        out = denoiser(data["lat"][:, :, :frames], data["t"], **given, **options)
        torch.testing.assert_close(out, data[name], rtol=1e-4, atol=1e-4 * float(data[name].abs().max()))

    return check


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out_noref", {}),
        ("out_noref_skip_mm", {"use_motion": False, "use_temporal": False}),
        ("out_cfg_cond", {"read": True}),
        ("out_cfg_cond_fp16bank", {"fp16_bank": True}),
        ("out_cfg_uncond", {"null": True}),
        ("out_ref_nocfg", {"read": True}),
        ("out_ref_rfm30", {"read": True, "masked": True}),
        ("out_single_frame", {"frames": 1}),
        ("no_temporal", {"use_temporal": False}),
        ("no_temporal_no_motion", {"use_motion": False, "use_temporal": False}),
    ],
)
def test_recorded_outputs_are_reproduced(golden: Callable[..., None], name: str, options: dict[str, bool]) -> None:
    golden(name, **options)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"latents": torch.randn(2, 4, 3, 4, 4), "context": torch.randn(2, 1, 4), "motion": torch.randn(2, 3, 32, 16)}


@pytest.fixture
def awake() -> Denoiser:
    """A denoiser whose motion and temporal modules have left their zero start."""
    torch.manual_seed(1)
    denoiser = Denoiser(TINY)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


def test_fresh_motion_and_temporal_modules_change_nothing(inputs: dict[str, Tensor]) -> None:
    denoiser = Denoiser(TINY)
    bare = denoiser(**inputs, timestep=9, use_motion=False, use_temporal=False)
    torch.testing.assert_close(denoiser(**inputs, timestep=9), bare)


@pytest.mark.parametrize("switch", ["use_motion", "use_temporal"])
def test_each_switch_bypasses_its_modules(awake: Denoiser, inputs: dict[str, Tensor], switch: str) -> None:
    assert not torch.allclose(awake(**inputs, timestep=9), awake(**inputs, timestep=9, **{switch: False}), atol=1e-3)


def test_samples_of_a_batch_do_not_mix(awake: Denoiser, inputs: dict[str, Tensor]) -> None:
    bank = ReferenceNet(UNET)(inputs["latents"][:, :, 0], inputs["context"])
    together = awake(**inputs, timestep=torch.tensor([9, 700]), reference=bank)
    second = {name: t[1:] for name, t in inputs.items()}
    alone = awake(**second, timestep=700, reference={k: v[1:] for k, v in bank.items()})
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_without_temporal_modules_a_clip_is_its_frames(awake: Denoiser, inputs: dict[str, Tensor]) -> None:
    clip = awake(**inputs, timestep=9, use_temporal=False)
    single = inputs | {"latents": inputs["latents"][:, :, 1:2], "motion": inputs["motion"][:, 1:2]}
    torch.testing.assert_close(clip[:, :, 1:2], awake(**single, timestep=9, use_temporal=False), rtol=1e-4, atol=1e-4)


def test_one_motion_for_all_frames_equals_repeating_it(awake: Denoiser, inputs: dict[str, Tensor]) -> None:
    one = inputs["motion"][:, :1]
    repeated = awake(**(inputs | {"motion": one.expand(-1, 3, -1, -1)}), timestep=9)
    torch.testing.assert_close(awake(**(inputs | {"motion": one}), timestep=9), repeated, rtol=1e-4, atol=1e-4)


def test_a_window_of_prepared_conditions_equals_preparing_the_window(
    awake: Denoiser, inputs: dict[str, Tensor]
) -> None:
    ids = torch.tensor([2, 0])
    window = awake.prepare(inputs["context"], inputs["motion"]).frames(ids)
    fresh = awake(inputs["latents"][:, :, ids], 9, inputs["context"], inputs["motion"][:, ids])
    torch.testing.assert_close(awake.denoise(inputs["latents"][:, :, ids], 9, window), fresh)


def test_the_papers_positions_leave_out_places_without_a_transformer() -> None:
    release = ModelConfig.sd15()
    paper = release.model_copy(update={"motion_positions": "paper16"})
    with torch.device("meta"):
        assert len(Denoiser(release).motion_modules()) == 21
        names = [name for name, _ in Denoiser(paper).motion_modules()]
    assert len(names) == 16
    assert not any(name.startswith(("down_blocks.3", "up_blocks.0")) for name in names)


def test_a_bank_of_another_configuration_is_refused(awake: Denoiser, inputs: dict[str, Tensor]) -> None:
    with pytest.raises(XNeMoError, match="another configuration"):
        awake(**inputs, timestep=9, reference={"elsewhere": torch.randn(2, 3, 8)})


def test_a_step_of_the_released_shape_does_no_redundant_work() -> None:
    """Operations for one frame of 512 px with guidance; the exact minimum is 2783 GFLOP, the released loop's 3288."""
    release = ModelConfig.sd15()

    def gflop(work: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops() / 1e9

    with torch.device("meta"), torch.no_grad():
        net, denoiser = ReferenceNet(release.unet), Denoiser(release)
        latents, context, motion = torch.empty(1, 4, 2, 64, 64), torch.empty(1, 1, 768), torch.empty(1, 2, 32, 16)
        told, null = (
            denoiser.prepare(context, motion, net(latents[:, :, 0], context)),
            denoiser.prepare(context, motion),
        )
        assert gflop(lambda: net(latents[:, :, 0], context)) < 796.8
        both = gflop(lambda: (denoiser.denoise(latents, 1, told), denoiser.denoise(latents, 1, null)))
    assert both / 2 < 2783.1
