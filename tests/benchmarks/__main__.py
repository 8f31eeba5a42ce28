"""`make bench`: how fast the parts are on this machine, one thread each. Printed, never asserted."""

import statistics
import time
from collections.abc import Callable

import torch

from tests.benchmarks import animate as animation
from xnemo import animate
from xnemo.animation import noise
from xnemo.batch import PairBatch
from xnemo.config import ModelConfig, UNetConfig
from xnemo.denoiser import Denoiser
from xnemo.draw import Draw
from xnemo.model import seeded
from xnemo.reference_net import ReferenceNet
from xnemo.stages import StageConfig, build_stage
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render

REPEATS = 5


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'what':<44}{'median':>12}{'least':>12}{'most':>12}")
    for size in (64, 256):
        people, (motion, placement) = random_identities(range(16)), random_motion(0, 16)
        show(f"heads drawn at {size} px, frames/s", 16, lambda: render(people, motion, placement, size))  # noqa: B023
    model = seeded(ModelConfig.small(), 0)
    model.codec.basis.normal_()  # unfitted: the arithmetic is the same
    stage, batch = build_stage(model, "motion", StageConfig(backbone="joint")), pairs(8)

    def step() -> None:
        stage.losses(batch, Draw(0, batch.ids))["loss"].backward()

    show("small model, motion stage, pairs/s", 8, step)
    show("small model, 4 steps of 24 frames, frames/s", 24, lambda: sample(model, 24))
    guided_step()
    animation.main()
    metrics()


def metrics() -> None:
    """Metric frames per second; networks have the published shapes and fresh weights."""
    from xnemo.metrics import faces
    from xnemo.metrics.emotion import EmoNet
    from xnemo.metrics.identity import ArcFace
    from xnemo.metrics.self_reenactment import Lpips
    from xnemo.metrics.temporal import Flicker, WarpingError

    people, (motion, placement) = random_identities(range(8)), random_motion(0, 8)
    frames = render(people, motion, placement, 256).permute(0, 2, 3, 1).contiguous().numpy()
    networks = faces.load_networks(metrics=())
    show("L1, PSNR, SSIM at 256 px, frames/s", 8, lambda: faces.frame_figures(frames, frames[::-1], None))
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    lpips, arcface, emonet = Lpips().eval(), ArcFace().eval(), EmoNet().eval()
    with torch.no_grad():
        show("LPIPS (AlexNet) at 256 px, frames/s", 8, lambda: lpips(pixels, pixels.flip(0)))
    show("face, mesh and head pose at 256 px, frames/s", 8, lambda: list(faces.observe(frames, networks)))
    show("ArcFace R100, frames/s", 8, lambda: arcface.embed(frames[:, :112, :112]))
    show("EmoNet, frames/s", 8, lambda: emonet.read(frames))

    def steadiness() -> None:
        meters = Flicker(), WarpingError()
        for frame in frames:
            for meter in meters:
                meter.add(frame.astype("float32") / 255)

    show("flicker and warping error at 256 px, frames/s", 8, steadiness)


def pairs(count: int) -> PairBatch:
    frames = torch.randint(0, 255, (2, count, 3, 128, 128), dtype=torch.uint8)
    boxes = torch.tensor([[32.0, 32, 96, 96]]).expand(count, 4)
    return PairBatch(frames[0], frames[1], boxes, boxes + 4, torch.arange(count))


def sample(model: torch.nn.Module, frames: int) -> None:
    config = model.config
    tokens = torch.randn(1, frames, *config.motion_shape)
    latents = torch.randn(1, config.codec.channels, config.latent_size, config.latent_size)
    animate.sample(
        model, latents, model.null_context(1), tokens, tokens[:, :1], steps=4, guidance_scale=1.0,
        noise=noise(model, frames, 0),
    )  # fmt: skip


@torch.no_grad()
def guided_step(frames: int = 8, size: int = 16) -> None:
    """The released networks at a fifth of their width: a guided step as it is sampled, against the plain formulation,
    which prepares everything again in each step and multiplies with the default library."""
    config = ModelConfig(unet=UNetConfig(channels=(64, 128, 256, 256), context_dim=256), image_encoder=None)
    net, denoiser = ReferenceNet(config.unet).eval(), Denoiser(config).eval()
    latents, context = torch.randn(1, 4, frames, size, size), torch.randn(1, 1, 256)
    motion = torch.randn(1, frames, *config.motion_shape)
    bank = net(latents[:, :, 0], context)
    told, null = denoiser.prepare(context, motion, bank), denoiser.prepare(0 * context, motion[:, :1])

    def plain() -> None:
        with torch.enable_grad():  # as in training: recorded, so every product is the default library's
            denoiser(latents, 500, context, motion, net(latents[:, :, 0], context))
            denoiser(latents, 500, 0 * context, motion[:, :1].expand_as(motion))

    show(
        "guided step, released / 5, frames/s",
        frames,
        lambda: (denoiser.denoise(latents, 500, told), denoiser.denoise(latents, 500, null)),
    )
    show("the same, plain", frames, plain)


def show(what: str, items: int, work: Callable[[], object]) -> None:
    """Items per second of processor time: median, least and most of a few runs, after one to warm up."""
    work()
    rates = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        rates.append(items / (time.process_time() - began))
    print(f"{what:<44}{statistics.median(rates):>12.1f}{min(rates):>12.1f}{max(rates):>12.1f}", flush=True)


if __name__ == "__main__":
    main()
