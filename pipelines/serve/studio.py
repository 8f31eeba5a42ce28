"""What is done for a job before and after the denoiser: reading what was sent, encoding it, writing the video.

It runs in the engine's media threads; what touches uploaded bytes runs in each thread's own decoding process.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.serve import media, motions, saved
from pipelines.serve.config import AnimationOptions, InterpolateOptions, MotionOptions, OutpaintOptions, ServeConfig
from pipelines.serve.files import JobFiles
from pipelines.serve.loaded import Loaded
from pipelines.serve.scheduler import Request
from xnemo.animation import decode, encode_faces, encode_portrait, motion_tokens, noise
from xnemo.clip import save_frames
from xnemo.errors import XNeMoError
from xnemo.prepare import Portrait
from xnemo.tokens.motion_file import Motion, load_motion, to_bytes
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError
from xnemo_platform.jobstore import Job, JobLost
from xnemo_platform.sandbox import Limits as SandboxLimits
from xnemo_platform.sandbox import Sandbox

PREPARED, DENOISED = 0.1, 0.9  # share of the progress bar behind us when denoising begins and ends


@dataclass(eq=False)
class Work:
    """One job in hand, with the networks that it began with."""

    job: Job
    loaded: Loaded
    started: float = field(default_factory=time.monotonic)
    progress: float = 0.0
    begun_at: float = 0.0
    """Progress at which the denoiser began here: more than PREPARED for a job that was taken over."""
    lost: bool = False
    request: Request | None = None
    motion: Motion | None = None
    saved_at: float = 0.0

    def at(self, progress: float) -> None:
        """Note how far the job is; raises JobLost if it was cancelled or taken over."""
        if self.lost:
            raise JobLost(f"job {self.job.id} was cancelled or taken over.")
        self.progress = max(self.progress, progress)

    def eta_s(self) -> float | None:
        """Seconds left, at the pace so far; None until the denoiser has shown its pace."""
        done = self.progress - max(self.begun_at - PREPARED, 0.0)
        if self.progress <= max(PREPARED, self.begun_at):
            return None
        return round((time.monotonic() - self.started) * (1 - self.progress) / done, 1)


class Studio:
    """Raises XNeMoError for what the user can mend, JobLost for work that is no longer ours."""

    def __init__(self, config: ServeConfig, files: JobFiles) -> None:
        self.config, self.files = config, files
        self._sandboxes = threading.local()

    def kept(self, work: Work) -> str:
        """URI of the folder of what is finished: of this model, since another's is of no use."""
        return self.files.uri(work.job.id, f"kept-{work.loaded.digest[:16]}")

    def scratch(self, work: Work) -> Path:
        folder = self.files.scratch / work.job.id / str(work.job.fence)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear(self, work: Work) -> None:
        shutil.rmtree(self.files.scratch / work.job.id / str(work.job.fence), ignore_errors=True)
        with contextlib.suppress(OSError):  # another holder's is in it
            (self.files.scratch / work.job.id).rmdir()

    def prepare(self, work: Work) -> Request:
        """An animation up to where the denoiser begins, or where another engine left it."""
        options, loaded, inputs = AnimationOptions(**work.job.options), work.loaded, self._inputs(work)
        config, limits = loaded.model.config, self.config.media_limits()
        crops = self._ask("portrait", media.portrait_crops, inputs["portrait"], config, options.face, limits)
        work.at(0.02)
        if "motion" in inputs:
            work.motion = load_motion(inputs["motion"].read_bytes(), model=loaded.digest)
        else:
            cut = MotionOptions(head_motion=options.head_motion, start=options.start, end=options.end)
            work.motion = self._motion(work, inputs["driving"], cut)
        reference = encode_portrait(loaded.model, Portrait(**crops))
        tokens = motion_tokens(loaded.model, work.motion)
        first = noise(loaded.model, len(work.motion), options.seed)
        scale = loaded.model.config.guidance_scale if options.guidance_scale is None else options.guidance_scale
        request = loaded.scheduler.prepare(work.job.id, reference, tokens, first, options.steps, scale)
        if work.job.fence > 1:
            saved.restore(self.kept(work), request, loaded.scheduler.schedule)
        work.begun_at = PREPARED + (DENOISED - PREPARED) * request.done_windows / request.all_windows
        work.at(work.begun_at)
        return request

    def reuse(self, work: Work) -> dict[str, Any]:
        """A job that makes a motion; its result."""
        kind, inputs, options = work.job.kind, self._inputs(work), work.job.options
        if kind == "motion":
            motion = self._motion(work, inputs["driving"], MotionOptions(**options))
        elif kind == "outpaint":
            motion = motions.continued(work.loaded, inputs["motion"], OutpaintOptions(**options))
        else:
            motion = motions.blended(inputs, InterpolateOptions(**options))
        uri = self.files.uri(work.job.id, "motion.safetensors")
        storage.publish_bytes(uri, to_bytes(motion))
        return {"motion": uri, "frames": len(motion), "fps": motion.fps}

    def render(self, work: Work) -> dict[str, Any]:
        """Latents to a video file; the result."""
        options, request, motion = AnimationOptions(**work.job.options), work.request, work.motion
        assert request is not None
        assert motion is not None
        driving = self._inputs(work).get("driving")
        limits = self.config.media_limits()
        sound = driving is not None and self._ask("driving video", media.has_sound, driving, limits)
        path = save_frames(
            self.scratch(work) / "result.mp4",
            self._frames(work, request),
            motion.fps,
            audio=driving if sound else None,
            audio_start=options.start,
            model=work.loaded.exact_name,
            label=options.label,
        )
        uri = self.files.put(work.job.id, f"result-{work.job.fence}.mp4", path)
        return {"video": uri, "frames": len(motion), "fps": motion.fps}

    def warm(self) -> None:
        """Start this thread's decoding process."""
        outcome = self._sandbox().call(media.warm)
        if outcome.kind != "ok":
            raise PlatformError(f"the decoding process does not start: {outcome.message}")

    def _motion(self, work: Work, path: Path, options: MotionOptions) -> Motion:
        """The motion of the driving video, taken once per job, whoever works on it."""
        kept, loaded = storage.join(self.kept(work), "motion.safetensors"), work.loaded
        if work.job.fence > 1 and storage.exists(kept):
            return load_motion(storage.read_bytes(kept), model=loaded.digest)
        size = loaded.model.config.motion_encoder.image_size
        seen = self._ask("driving video", media.driving_crops, path, size, options.head_motion, options.start,
                         options.end, options.fps, self.config.media_limits())  # fmt: skip
        work.at(0.05)
        faces = seen["faces"]
        batches = (faces[at : at + 32] for at in range(0, len(faces), 32))

        def told(_: str, done: int, total: int) -> None:
            work.at(0.05 + 0.05 * done / total)

        motion = encode_faces(loaded.model, batches, seen["f_rts"], seen["fps"], told)
        motion = replace(motion, model=loaded.digest)
        if work.job.kind == "animation":
            storage.publish_bytes(kept, to_bytes(motion))
        return motion

    def _frames(self, work: Work, request: Request) -> Iterator[np.ndarray]:
        count = 0
        for frames in decode(work.loaded.model, request.latents):
            count += len(frames)
            work.at(DENOISED + (1 - DENOISED) * count / request.latents.shape[2])
            yield from frames

    def _inputs(self, work: Work) -> dict[str, Path]:
        try:
            return self.files.fetch(work.job.inputs, self.scratch(work))
        except PlatformError as error:
            if not all(storage.exists(uri) for uri in work.job.inputs.values()):
                raise XNeMoError("what was sent for this job is no longer kept: send it again.") from error
            raise

    def _ask(self, what: str, function: Any, *args: Any) -> Any:
        return media.ask(self._sandbox(), what, function, *args)

    def _sandbox(self) -> Sandbox:
        """This thread's decoding process."""
        if not hasattr(self._sandboxes, "own"):
            self._sandboxes.own = Sandbox(SandboxLimits(seconds=300))
        sandbox: Sandbox = self._sandboxes.own
        return sandbox
