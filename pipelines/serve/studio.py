"""What is done for a job before and after the denoiser, in the engine's own threads: the small networks, with the work
on files left to `Media`. Pictures come and go in pieces, so that none of it holds a whole clip."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipelines.serve import motions, saved
from pipelines.serve.config import AnimationOptions, InterpolateOptions, MotionOptions, OutpaintOptions
from pipelines.serve.files import JobFiles
from pipelines.serve.loaded import Loaded
from pipelines.serve.media import GONE, Media, RemoteMedia
from pipelines.serve.scheduler import Request
from xnemo.animation import decode, encode_faces, encode_portrait, motion_tokens, noise
from xnemo.errors import XNeMoError
from xnemo.options import sampling
from xnemo.prepare import Portrait
from xnemo.tokens.motion_file import Motion, load_motion, to_bytes
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError
from xnemo_platform.jobstore import Job, JobLost

PREPARED, DENOISED = 0.1, 0.9  # share of the progress bar behind us when denoising begins and ends
PART = 48  # frames of a result that are encoded in one piece


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

    def __init__(self, files: JobFiles, media: Media | RemoteMedia) -> None:
        self.files, self.media = files, media

    def kept(self, work: Work) -> str:
        """URI of the folder of what is finished: of this model, since another's is of no use."""
        return self.files.uri(work.job.id, f"kept-{work.loaded.digest[:16]}")

    def prepare(self, work: Work) -> Request:
        """An animation up to where the denoiser begins, or where another engine left it."""
        options, loaded, inputs = AnimationOptions(**work.job.options), work.loaded, work.job.inputs
        crops = self.media.portrait(inputs["portrait"], loaded.model.config, options.face)
        work.at(0.02)
        if "motion" in inputs:
            work.motion = load_motion(self._read(inputs["motion"]), model=loaded.digest)
        else:
            cut = MotionOptions(head_motion=options.head_motion, start=options.start, end=options.end)
            work.motion = self._motion(work, inputs["driving"], cut)
        reference = encode_portrait(loaded.model, Portrait(**crops))
        tokens = motion_tokens(loaded.model, work.motion)
        first = noise(loaded.model, len(work.motion), options.seed)
        steps, scale = sampling(loaded.model.config, options.steps, options.guidance_scale)
        request = loaded.scheduler.prepare(work.job.id, reference, tokens, first, steps, scale)
        if work.job.fence > 1:
            saved.restore(self.kept(work), request, loaded.scheduler.schedule)
        work.begun_at = PREPARED + (DENOISED - PREPARED) * request.done_windows / request.all_windows
        work.at(work.begun_at)
        return request

    def reuse(self, work: Work) -> dict[str, Any]:
        """A job that makes a motion; its result."""
        kind, inputs, options = work.job.kind, work.job.inputs, work.job.options
        if kind == "motion":
            motion = self._motion(work, inputs["driving"], MotionOptions(**options))
        elif kind == "outpaint":
            motion = motions.continued(work.loaded, self._read(inputs["motion"]), OutpaintOptions(**options))
        else:
            files = {role: self._read(uri) for role, uri in inputs.items()}
            motion = motions.blended(files, InterpolateOptions(**options))
        uri = self.files.uri(work.job.id, "motion.safetensors")
        storage.publish_bytes(uri, to_bytes(motion))
        return {"motion": uri, "frames": len(motion), "fps": motion.fps}

    def render(self, work: Work) -> dict[str, Any]:
        """Latents to a video file; the result. While a part is encoded, the next one is decoded from its latents."""
        options, motion = AnimationOptions(**work.job.options), work.motion
        assert motion is not None
        parts: list[bytes] = []
        under_way: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder:
            for frames in self._frames(work):
                under_way.append(encoder.submit(self.media.encode, frames, motion.fps, options.label))
                if len(under_way) > 1:
                    parts.append(under_way.popleft().result())
            parts += [part.result() for part in under_way]
        name, sound = f"result-{work.job.fence}.mp4", work.job.inputs.get("driving")
        uri = self.media.join(work.job.id, name, parts, work.loaded.exact_name, sound, options.start)
        return {"video": uri, "frames": len(motion), "fps": motion.fps}

    def _motion(self, work: Work, driving: str, options: MotionOptions) -> Motion:
        """The motion of the driving video, taken once per job, whoever works on it."""
        kept, loaded = storage.join(self.kept(work), "motion.safetensors"), work.loaded
        if work.job.fence > 1 and storage.exists(kept):
            return load_motion(storage.read_bytes(kept), model=loaded.digest)
        pieces = self.media.driving(driving, loaded.model.config.motion_encoder.image_size, options)
        seen = next(pieces)
        work.at(0.05)

        def told(_: str, done: int, total: int) -> None:
            work.at(0.05 + 0.05 * done / total)

        motion = encode_faces(loaded.model, pieces, seen["f_rts"], seen["fps"], told)
        motion = replace(motion, model=loaded.digest)
        if work.job.kind == "animation":
            storage.publish_bytes(kept, to_bytes(motion))
        return motion

    def _frames(self, work: Work) -> Iterator[np.ndarray]:
        """The pictures uint8 [n,H,W,3] of a finished request, PART or so at a time."""
        request, waiting, count = work.request, list[np.ndarray](), 0
        assert request is not None
        for frames in decode(work.loaded.model, request.latents):
            count += len(frames)
            work.at(DENOISED + (1 - DENOISED) * count / request.latents.shape[2])
            waiting.append(frames)
            if sum(map(len, waiting)) >= PART:
                yield np.concatenate(waiting)
                waiting = []
        if waiting:
            yield np.concatenate(waiting)

    def _read(self, uri: str) -> bytes:
        """A motion that a job reads."""
        try:
            return storage.read_bytes(uri)
        except PlatformError as error:
            if storage.exists(uri):
                raise
            raise XNeMoError(GONE) from error
