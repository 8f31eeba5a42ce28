"""What the service is told at its start, and what a request may ask of it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from xnemo.media.limits import Limits as MediaLimits
from xnemo_platform.config import Config
from xnemo_platform.settings import settings


class Limits(Config):
    """What one request may bring, and how much work may wait."""

    portrait_mb: float = Field(default=20, gt=0)
    driving_mb: float = Field(default=200, gt=0)
    pixels: int = Field(default=4096 * 2304, gt=0)
    """Of the portrait, and of one frame of the driving video."""
    seconds: float = Field(default=60, gt=0)
    """Of the driving video."""
    frames: int = Field(default=3600, gt=0)
    steps: int = Field(default=100, gt=0)
    queue: int = Field(default=16, gt=0)
    """Jobs that may wait; one more is answered 429."""
    unfinished: int = Field(default=8, gt=0)
    """Jobs of one key that may wait or run."""
    per_minute: int = Field(default=30, gt=0)
    """Works that one key may ask for in a minute, where the key itself does not say."""
    per_day: int = Field(default=1000, gt=0)
    idle_s: float = Field(default=30, gt=0)
    """An upload that brings nothing for so long is given up (408)."""
    upload_s: float = Field(default=600, gt=0)


class ServeConfig(Config):
    """The service. Paths are made absolute where the command was typed."""

    model: str = "models:/xnemo@demo"
    """A model folder, models:/<name>@<alias>, or "bundled": the small one that comes with the code."""
    tokenizer: str | None = None
    """Motion tokenizer, for outpainting; as `model`."""
    generator: str | None = None
    """Motion generator, for outpainting; as `model`."""
    host: str = "127.0.0.1"
    """0.0.0.0 to be reached from other machines."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free one."""
    folder: str = Field(default_factory=lambda: str(settings().home / "serve"))
    """Folder of this machine: the sqlite job store, and uploads on their way."""
    storage: str | None = None
    """URI of inputs, finished windows and results, such as s3://bucket/serve; default: `folder`."""
    store: str | None = None
    """Job store and keys: sqlite:///<file> or postgresql://<user>@<host>/<database>; default: sqlite in `folder`.
    Replicas on several machines need Postgres and a `storage` that all of them reach."""
    require_key: bool = False
    """Every call below /v1 needs a bearer key (`xnemo serve --add-key NAME`)."""
    samples: str | None = None
    """Folder with portraits/ and driving/ that the page offers to try; `xnemo serve` draws some if none is named."""
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    windows_per_batch: int | None = Field(default=None, gt=0)
    """Denoising windows of different requests that go through the network together. Without it 4 on a GPU, and 1 on a
    CPU: a core's cache holds the activations of one window, and four at once take longer than four in turn."""
    active: int = Field(default=4, gt=0)
    """Requests in work at once."""
    media_workers: int = Field(default=2, gt=0)
    """Decoding processes of one media replica, started when they are needed; they read uploads and write results."""
    media_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs reserved for one media replica."""
    cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs reserved for one engine."""
    gpus: float = Field(default=0.0, ge=0)
    keep_hours: float = Field(default=24, gt=0)
    """Ended jobs and their files are removed after so long."""
    audit_days: float = Field(default=90, gt=0)
    """Lines of the audit log are removed after so long."""
    save_s: float = Field(default=1.0, ge=0)
    """Finished windows are stored at least this often; 0: each as it comes."""
    lease_s: float = Field(default=20.0, gt=1)
    """An engine that is silent for so long loses its jobs to the others."""
    alias_s: float = Field(default=30.0, gt=0)
    """How often MLflow is asked whether the model's alias means another version."""
    limits: Limits = Limits()

    def media_limits(self) -> MediaLimits:
        """The limits as the media readers know them."""
        limits = self.limits
        return MediaLimits(
            pixels=limits.pixels,
            frames=limits.frames,
            seconds=limits.seconds,
            bytes=int(max(limits.portrait_mb, limits.driving_mb) * 2**20),
        )

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{self.folder}/service.db"

    @property
    def storage_uri(self) -> str:
        return self.storage or self.folder


class AnimationOptions(BaseModel):
    """Options of one animation, as form fields beside the files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(
        default=None, ge=1, le=999, description="Denoising steps. Without it the model's own.", examples=[25]
    )
    guidance_scale: float | None = Field(
        default=None, ge=0, le=30, allow_inf_nan=False,
        description="s in ε_u + s (ε_c − ε_u); 1 switches guidance off. Without it the model's own.")  # fmt: skip
    seed: int = Field(default=0, ge=0, lt=2**63)
    head_motion: Literal["relative", "still"] = Field(
        default="relative", description="Follow the driver's head, or leave the head where the portrait has it."
    )
    face: int | None = Field(default=None, ge=0, le=99, description="Which face of the portrait; 0 is the largest.")
    start: float = Field(default=0.0, ge=0, le=86400, allow_inf_nan=False, description="Seconds into the video.")
    end: float | None = Field(default=None, gt=0, le=86400, allow_inf_nan=False)
    label: bool = Field(default=True, description="A visible label; watermark and note are always there.")


class MotionOptions(BaseModel):
    """Options of one motion extraction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_motion: Literal["relative", "still"] = "relative"
    start: float = Field(default=0.0, ge=0, le=86400, allow_inf_nan=False)
    end: float | None = Field(default=None, gt=0, le=86400, allow_inf_nan=False)
    fps: float | None = Field(default=None, ge=1, le=120, allow_inf_nan=False,
                              description="Resample to this rate; the motion models know 25.")  # fmt: skip


class OutpaintOptions(BaseModel):
    """How a motion is continued."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"seconds": 8, "seed": 0}]})

    seconds: float = Field(gt=0, le=600, allow_inf_nan=False, description="Length of the result, prefix included.")
    seed: int = Field(default=0, ge=0, lt=2**63)


class InterpolateOptions(BaseModel):
    """How expressions are blended: moments of motions, visited in order."""

    model_config = ConfigDict(
        frozen=True, extra="forbid",
        json_schema_extra={"examples": [{"keys": [{"motion": "0" * 32}, {"motion": "0" * 32, "seconds": 1.2}]}]},
    )  # fmt: skip

    keys: list["Moment"] = Field(min_length=2, max_length=32)
    seconds: float = Field(default=2.0, gt=0, le=600, allow_inf_nan=False)
    curve: Literal["linear", "spherical"] = "linear"


class Moment(BaseModel):
    """One moment of a stored motion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    motion: str = Field(pattern="^[0-9a-f]{32}$", description="Id of a motion.")
    seconds: float = Field(default=0.0, ge=0, le=86400, allow_inf_nan=False)


InterpolateOptions.model_rebuild()
