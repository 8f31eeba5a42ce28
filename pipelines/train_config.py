"""The configuration of a stage's training: `recipe` is what the stage does, `loop` how it is run, the rest its data."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from xnemo.config import ModelConfig
from xnemo.stages import StageConfig, StageName
from xnemo_platform.config import Config
from xnemo_platform.loop import MAY_CHANGE, LoopConfig

Kind = Literal["resnets", "attentions", "motion_modules", "temporal_modules"]
Recomputed = Literal["reference_net", "denoiser", Kind]
SHAPES = {"tiny": ModelConfig.tiny, "small": ModelConfig.small, "sd15": ModelConfig.sd15}
MIN_SHARE = 0.001


class TrainConfig(Config):
    """One stage's training."""

    stage: StageName
    dataset: str  # folder (URI) of shards
    mix: dict[str, float] = Field(default_factory=dict)
    """Further data sets, each with its share of all samples; `dataset` has the rest."""
    output: str  # the run's folder, on storage that all nodes share; the same folder continues the run
    start: str | None = None  # model to start from: folder or models:/<name>@<alias>
    model: ModelConfig | None = None  # or fresh weights of this shape; "tiny", "small" and "sd15" name three
    recipe: StageConfig = StageConfig()
    loop: LoopConfig
    experiment: str = "xnemo"
    average: float = Field(default=0.9999, ge=0, lt=1)  # decay of the weight average; 0 keeps none
    checkpointing: tuple[Recomputed, ...] = ()
    """What is recomputed in the backward pass instead of kept, so that memory is saved for time: a whole network, block
    by block (a third slower), or one kind of block in both."""
    compile: bool = False
    """torch.compile of the two networks: minutes at the start, then faster steps (needs a C++ compiler)."""
    frame_size: int = Field(default=512, ge=32)  # frames are decoded to this size
    view: int = Field(default=0, ge=0)
    """Pixels of the square around the reference's face that a sample is cut by, as a portrait is when it is animated;
    0 takes frames whole. Needs shards with room around the head (clips.square=2.8)."""
    latents: bool = False  # train on what `xnemo data latents` cached with the codec of `start`
    cache_gb: float = Field(default=4.0, ge=0)  # decoded frames kept by each worker
    min_gap: int = Field(default=1, ge=1)  # frames between the two of a pair
    clip_frames: int = Field(default=24, ge=2)  # temporal stage
    codec_frames: int = Field(default=2048, ge=1)  # that the codec of a fresh model is fitted to
    codec_steps: int = Field(default=800, ge=1)  # of that fitting, where it is trained
    validation_clips: int = Field(default=6, ge=1)
    validation_steps: int = Field(default=8, ge=1)  # DDIM
    validation_frames: int = Field(default=12, ge=2)  # of the short video of the motion stage
    drawn_pairs: int = Field(default=0, ge=0)  # for models of drawn heads: pairs with known truth whose gaps are told
    dataset_digest: str = ""  # version of the data and of the start; filled in, or pinned by hand
    start_digest: str = ""

    @field_validator("model", mode="before")
    @classmethod
    def _shape(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in SHAPES:
                raise ValueError(f"no model shape of that name; write {' or '.join(SHAPES)}, or the keys themselves")
            return SHAPES[value]()
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if (self.start is None) == (self.model is None):
            raise ValueError("give either start (a model to continue from) or model (the shape of a fresh one)")
        if self.mix and not all(MIN_SHARE <= share < 1 for share in self.shares.values()):
            raise ValueError(
                f"mix gives each further data set its share of the samples, from {MIN_SHARE} on, and leaves as much "
                f"for dataset; as it stands the shares are {self.shares}"
            )
        if self.view and self.latents:
            raise ValueError("view cuts frames anew for every pair, so latents cannot be cached; leave one out")
        if "://" in self.output:
            raise ValueError("output must be a path on storage that all nodes share; only data may be a URI")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """All data sets and their shares of the samples, in a fixed order."""
        return {self.dataset: 1 - sum(self.mix.values())} | dict(sorted(self.mix.items()))


MAY_DIFFER = [f"loop.{key}" for key in MAY_CHANGE] + [
    "cache_gb",
    "experiment",
    "dataset",
    "start",
    "latents",
    "validation_clips",
    "validation_steps",
    "validation_frames",
    "drawn_pairs",
    "checkpointing",
    "compile",
]
"""Keys a resumed run may change. Data and start may move: their digests may not. Latents are the same numbers."""
