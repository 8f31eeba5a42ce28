"""Every size of the networks. The released model and the small trainable one are two values of one config.

`ModelConfig.sd15()` is the released shape (numbers: released code); `ModelConfig.small()` trains on a laptop.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A frozen record: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UNetConfig(Strict):
    """Shape shared by the reference net and the denoiser."""

    in_channels: int = 4  # latent channels; equals codec.channels
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one per level; each level halves the resolution
    layers_per_block: int = 2  # ResNets per down level; up levels have one more
    attention: tuple[bool, ...] = (True, True, True, False)  # spatial transformers at this level?
    heads: int = 8
    norm_groups: int = 32
    context_dim: int = 768  # width of the image token
    token_places: Literal["none", "picture", "head"] = "none"  # see xnemo/places.py; the release has none

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.attention) != len(self.channels):
            raise ValueError(f"attention needs one entry per level: {len(self.channels)}")
        for width in self.channels:
            if width % self.heads or width % self.norm_groups or width % 2:
                raise ValueError(
                    f"channels: {width} must be even, a multiple of heads ({self.heads}) "
                    f"and of norm_groups ({self.norm_groups})"
                )
            if self.token_places != "none" and width % 16:
                raise ValueError(f"channels: {width} must be a multiple of 16 where tokens know their places")
        return self


class ImageEncoderConfig(Strict):
    """CLIP image tower with projection (the reference's one context token)."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    activation: str = "quick_gelu"
    projection_dim: int = 768  # equals unet.context_dim


class CodecConfig(Strict):
    """Images to latents: the SVD temporal-decoder VAE, the SD VAE, a small VAE trained here, or linear patches."""

    kind: Literal["svd", "sd", "conv", "patches"] = "svd"
    factor: int = 8  # pixels per latent cell, each way
    channels: int = 4
    scaling: float = 0.18215
    whitening: float = 1.0  # patches, conv: 1 gives every channel unit deviation, 0 leaves their natural proportions
    widths: tuple[int, ...] = (128, 256, 512, 512)  # VAEs only; "conv": one per halving, log2(factor) of them
    layers_per_block: int = 2  # VAEs only
    linear_encoder: bool = False  # "conv" only: the network decodes, and latents are those of "patches"


class MotionEncoderConfig(Strict):
    """E_mot: face crop to f_mot. "fan" is the released trunk, "small" a few convolutions."""

    kind: Literal["fan", "small"] = "fan"
    image_size: int = 224
    f_mot: int = 512
    rts_hidden: int = 64
    rts_gain: float = 1.0  # stretches f_rts away from (0, 0, 1) so that a short training notices it; 1 is released
    widths: tuple[int, ...] = (64, 128, 256)  # convolution stages
    maps: int = 68  # feature maps before the last convolution (landmark heat maps in FAN)
    attention_dim: int = 1024
    attention_heads: int = 8
    hourglass_depth: int = 4  # fan only
    dropout: float = 0.5  # on the hourglass skips, training only
    latent_dropout: float = 0.0  # on f_mot, training only


class ScheduleConfig(Strict):
    """Noise schedule: scaled-linear betas; beta_end is 0.02 in the release (not SD's 0.012)."""

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.02
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    steps_offset: int = 1
    sampling_shift: float = Field(default=1.0, ge=1)  # above 1 DDIM's steps lie at noisier times; 1 is released


class GanConfig(Strict):
    """The training-only head: appearance trunk, generator and discriminator (paper section 3.3)."""

    image_size: int = 224  # the generated face crop
    appearance: Literal["resnet50", "small"] = "resnet50"
    appearance_dim: int = 2048
    base_size: int = 7  # the generator's constant input; doubled per entry of channels after the first
    channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128)
    discriminator_channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512, 512)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.base_size << (len(self.channels) - 1) != self.image_size:
            raise ValueError("gan.base_size doubled per further entry of gan.channels must give gan.image_size")
        return self


class ModelConfig(Strict):
    """The whole model. Defaults are the released shape."""

    image_size: int = 512
    codec: CodecConfig = CodecConfig()
    unet: UNetConfig = UNetConfig()
    motion_input: Literal["attention", "map"] = "attention"  # map: the ablation "w/o cross-attention" (motion_map.py)
    motion_positions: Literal["release21", "paper16"] = "release21"  # after every ResNet | every transformer
    motion_tokens: int = 32
    motion_token_dim: int = 16
    temporal_max_len: int = 32  # frames the temporal position table covers
    motion_encoder: MotionEncoderConfig = MotionEncoderConfig()
    image_encoder: ImageEncoderConfig | None = ImageEncoderConfig()  # None: the context token is zero
    schedule: ScheduleConfig = ScheduleConfig()
    steps: int = 25  # what sampling uses unless told otherwise (paper, appendix A; the released script: 35)
    guidance_scale: float = 3.5  # the same
    shared_noise: bool = False  # all frames of a clip start from one noise; the release draws one for each
    gan: GanConfig = Field(default=GanConfig())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.codec.channels != self.unet.in_channels:
            raise ValueError("unet.in_channels must equal codec.channels")
        if self.unet.token_places == "head" and self.motion_token_dim < 9:
            raise ValueError(
                'motion_token_dim must be at least 9 for unet.token_places "head": a token carries the place'
            )
        if self.image_encoder and self.image_encoder.projection_dim != self.unet.context_dim:
            raise ValueError("image_encoder.projection_dim must equal unet.context_dim")
        step = self.codec.factor << (len(self.unet.channels) - 1)
        if self.image_size % step:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of {step}: "
                "codec.factor, doubled at each further UNet level"
            )
        return self

    @property
    def latent_size(self) -> int:
        return self.image_size // self.codec.factor

    @property
    def motion_shape(self) -> tuple[int, int]:
        """Tokens a frame and their width [L, c], as the denoiser is given them."""
        return self.motion_tokens + (self.unet.token_places == "head"), self.motion_token_dim

    @classmethod
    def sd15(cls) -> ModelConfig:
        """The released shape."""
        return cls()

    @classmethod
    def small(cls) -> ModelConfig:
        """64 px, no pretrained part: what two CPU cores train. docs/small-recipe.md says why these numbers."""
        return cls(
            image_size=64,
            codec=CodecConfig(
                kind="conv", factor=4, channels=12, scaling=1.0, widths=(32, 64), whitening=0.3,
                linear_encoder=True,
            ),
            unet=UNetConfig(
                in_channels=12, channels=(64,), layers_per_block=1, attention=(True,), heads=4,
                norm_groups=8, context_dim=8, token_places="head",
            ),
            motion_tokens=8,
            motion_token_dim=48,
            motion_encoder=MotionEncoderConfig(
                kind="small", image_size=48, widths=(24, 48, 96), maps=8, attention_dim=96, attention_heads=4,
                f_mot=128, rts_hidden=16, rts_gain=6.0, dropout=0.0,
            ),
            image_encoder=None,
            schedule=ScheduleConfig(prediction="sample", sampling_shift=12.0),
            steps=3,
            guidance_scale=1.0,
            shared_noise=True,
            gan=GanConfig(
                image_size=32, appearance="small", appearance_dim=96, base_size=4, channels=(48, 48, 32, 24),
                discriminator_channels=(24, 48, 64),
            ),
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> ModelConfig:
        """`small` with cells of 8 × 8 pixels and no decoder to train: softer, and three times the pairs a second."""
        small = cls.small()
        codec = CodecConfig(kind="patches", factor=8, channels=24, scaling=1.0, whitening=0.3)
        unet = small.unet.model_copy(update={"in_channels": 24, "channels": (96,)})
        return cls.model_validate(small.model_dump() | {"codec": codec, "unet": unet})
