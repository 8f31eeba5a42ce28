"""The worker behind the service: takes jobs from the store, does them, and writes what came of them.

Threads: the heart claims jobs, keeps their leases and sees cancellations; media threads read uploads and write
results, each with its own decoding process; the device thread alone runs the denoiser, over all requests at once
(`scheduler`). Whatever dies, the job store hands the job to the next engine.
"""

import logging
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.serve import media, motions
from pipelines.serve.config import AnimationOptions, InterpolateOptions, MotionOptions, OutpaintOptions, ServeConfig
from pipelines.serve.loaded import Loaded, load
from pipelines.serve.scheduler import Request, Scheduler
from xnemo.animation import decode, encode_faces, encode_portrait, motion_tokens, noise
from xnemo.clip import save_frames
from xnemo.errors import XNeMoError
from xnemo.prepare import Portrait
from xnemo.tokens.motion_file import Motion, load_motion, save_motion
from xnemo_platform.errors import PlatformError
from xnemo_platform.jobstore import Job, JobLost, JobStore, new_id
from xnemo_platform.sandbox import Limits as SandboxLimits
from xnemo_platform.sandbox import Sandbox

log = logging.getLogger(__name__)

LEASE_S = 20.0
POLL_S = 0.05
BEAT_S = 0.5
PREPARED, DENOISED = 0.1, 0.9  # share of the progress bar behind us when denoising begins and ends


@dataclass(eq=False)
class Work:
    """One job in hand."""

    job: Job
    started: float = field(default_factory=time.monotonic)
    progress: float = 0.0
    lost: bool = False
    request: Request | None = None
    motion: Motion | None = None
    audio: Path | None = None

    def folder(self, config: ServeConfig) -> Path:
        return Path(config.folder, "jobs", self.job.id)

    def at(self, progress: float) -> None:
        """Note how far the job is; raises JobLost if it was cancelled or taken over."""
        if self.lost:
            raise JobLost(f"job {self.job.id} was cancelled or taken over.")
        self.progress = max(self.progress, progress)

    def eta_s(self) -> float | None:
        """Seconds left, at the pace so far; None until the denoiser has shown its pace."""
        if self.progress <= PREPARED:
            return None
        return round((time.monotonic() - self.started) * (1 - self.progress) / self.progress, 1)


class Engine:
    """Start it, and it works until it is stopped. `name` is how it appears in the job store."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.name = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:6]}"
        Path(config.folder, "jobs").mkdir(parents=True, exist_ok=True)
        self.store = JobStore(config.store_url)
        self._works: dict[str, Work] = {}
        self._joining: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._sandboxes = threading.local()
        self._pool = ThreadPoolExecutor(config.media_workers, thread_name_prefix="media")
        self.loaded: Loaded
        self.scheduler: Scheduler

    def start(self) -> None:
        """Load and warm up the model, then work in the background. Raises PlatformError or XNeMoError."""
        self.store.beat(self.name, "loading", {"model": self.config.model})
        warm = [self._pool.submit(self._warm_sandbox) for _ in range(self.config.media_workers)]
        self.loaded = load(self.config)
        self.scheduler = Scheduler(self.loaded.model, self.config.windows_per_batch)
        self._warm_up()
        for future in warm:
            future.result()
        self._beat()
        for target in (self._heart, self._device):
            thread = threading.Thread(target=target, name=target.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop between two steps; unfinished jobs go back to the queue."""
        self._stop.set()
        for work in list(self._works.values()):
            work.lost = True
            self.store.release(work.job)
        for thread in self._threads:
            thread.join(60)
        self._pool.shutdown(cancel_futures=True)
        self.store.retire(self.name)
        self.store.close()

    def healthy(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    # -- the heart: what happens by the clock ---------------------------------------------------------------

    def _heart(self) -> None:
        beat = sweep = 0.0
        while not self._stop.wait(POLL_S):
            try:
                self._claim()
                self._see_cancellations()
                if time.monotonic() - beat > BEAT_S:
                    beat = time.monotonic()
                    self._publish()
                    self._beat()
                if time.monotonic() - sweep > 60.0:
                    sweep = time.monotonic()
                    self._sweep()
            except Exception:  # the store may be away for a while
                log.exception("the job store cannot be used; trying again")
                self._stop.wait(1.0)

    def _claim(self) -> None:
        if len(self._works) >= self.config.active:
            return
        job = self.store.claim(self.name, lease_s=LEASE_S)
        if job is not None:
            work = self._works[job.id] = Work(job)
            self._pool.submit(self._guarded, work, self._begin)

    def _see_cancellations(self) -> None:
        for work in list(self._works.values()):
            record = self.store.find(work.job.id)
            work.lost = record is None or record.fence != work.job.fence

    def _publish(self) -> None:
        for work in list(self._works.values()):
            request = work.request
            units = {"units_done": request.done_windows, "units_total": request.all_windows} if request else {}
            if request and not request.finished:
                work.progress = PREPARED + (DENOISED - PREPARED) * request.done_windows / request.all_windows
            stage = "preparing" if request is None else "finishing" if request.finished else "denoising"
            state = "preparing" if request is None else "running"
            try:
                work.job = self.store.update(
                    work.job,
                    lease_s=LEASE_S,
                    state=state,
                    stage=stage,
                    progress=work.progress,
                    eta_s=work.eta_s(),
                    **units,
                )
            except JobLost:
                work.lost = True

    def _beat(self) -> None:
        self.store.beat(self.name, "ready", self.loaded.card())

    def _sweep(self) -> None:
        """Forget what ended long ago, with its files."""
        for job in self.store.ended_before(time.time() - 3600 * self.config.keep_hours):
            shutil.rmtree(Path(self.config.folder, "jobs", job.id), ignore_errors=True)
            self.store.delete(job.id)

    # -- media threads: before and after the denoiser -------------------------------------------------------

    def _guarded(self, work: Work, step: Any) -> None:
        """Run one step of a job; whatever goes wrong in it ends this job only."""
        try:
            step(work)
        except JobLost:
            self._forget(work)
        except (XNeMoError, PlatformError) as error:
            self._fail(work, str(error))
        except Exception:
            log.exception("job %s failed", work.job.id)
            self._fail(work, "an internal error; the operator finds the cause in the log under this id.")

    def _fail(self, work: Work, sentence: str) -> None:
        try:
            self.store.fail(work.job, sentence)
        except JobLost:
            pass
        finally:
            self._forget(work)

    def _finish(self, work: Work, result: dict[str, Any]) -> None:
        self.store.finish(
            work.job, result | {"model": self.loaded.exact_name, "seconds": round(time.monotonic() - work.started, 2)}
        )
        self._forget(work)

    def _forget(self, work: Work) -> None:
        self._works.pop(work.job.id, None)

    def _begin(self, work: Work) -> None:
        kind = work.job.kind
        if kind == "animation":
            self._begin_animation(work)
            return
        if kind == "motion":
            motion = self._read_motion(work, MotionOptions(**work.job.options))
        elif kind == "outpaint":
            motion = motions.continued(self.loaded, work.job.inputs["motion"], OutpaintOptions(**work.job.options))
        else:
            motion = motions.blended(work.job.inputs, InterpolateOptions(**work.job.options))
        path = save_motion(motion, work.folder(self.config) / "motion.safetensors")
        self._finish(work, {"motion": str(path), "frames": len(motion), "fps": motion.fps})

    def _begin_animation(self, work: Work) -> None:
        options, config = AnimationOptions(**work.job.options), self.loaded.model.config
        crops = media.ask(
            self._sandbox(),
            "portrait",
            media.portrait_crops,
            Path(work.job.inputs["portrait"]),
            config,
            options.face,
            self.config.media_limits(),
        )
        work.at(0.02)
        if "motion" in work.job.inputs:
            work.motion = load_motion(work.job.inputs["motion"], model=self.loaded.digest)
        else:
            work.motion = self._read_motion(
                work, MotionOptions(head_motion=options.head_motion, start=options.start, end=options.end)
            )
        reference = encode_portrait(self.loaded.model, Portrait(**crops))
        tokens = motion_tokens(self.loaded.model, work.motion)
        first = noise(self.loaded.model, len(work.motion), options.seed)
        work.at(PREPARED)
        own = self.loaded.model.config.guidance_scale
        scale = own if options.guidance_scale is None else options.guidance_scale
        work.request = self.scheduler.prepare(work.job.id, reference, tokens, first, options.steps, scale)
        work.job = self.store.update(work.job, lease_s=LEASE_S, state="running", stage="denoising", progress=PREPARED)
        self._joining.put(work)
        self._wake.set()

    def _read_motion(self, work: Work, options: MotionOptions) -> Motion:
        path, size = Path(work.job.inputs["driving"]), self.loaded.model.config.motion_encoder.image_size
        seen = media.ask(
            self._sandbox(),
            "driving video",
            media.driving_crops,
            path,
            size,
            options.head_motion,
            options.start,
            options.end,
            options.fps,
            self.config.media_limits(),
        )
        work.audio = path if seen["has_audio"] else None
        work.at(0.05)
        faces = seen["faces"]
        batches = (faces[at : at + 32] for at in range(0, len(faces), 32))
        motion = encode_faces(
            self.loaded.model,
            batches,
            seen["f_rts"],
            seen["fps"],
            lambda _, done, total: work.at(0.05 + 0.05 * done / total),
        )
        return replace(motion, model=self.loaded.digest)

    def _render(self, work: Work) -> None:
        """Latents to a video file."""
        options, request, motion = AnimationOptions(**work.job.options), work.request, work.motion
        assert request is not None
        assert motion is not None
        path = work.folder(self.config) / f"result-{work.job.fence}.mp4"
        save_frames(
            path,
            self._frames(work, request),
            motion.fps,
            audio=work.audio,
            audio_start=options.start,
            model=self.loaded.exact_name,
            label=options.label,
        )
        self._finish(work, {"video": str(path), "frames": len(motion), "fps": motion.fps})

    def _frames(self, work: Work, request: Request) -> Iterator[np.ndarray]:
        count = 0
        for frames in decode(self.loaded.model, request.latents):
            count += len(frames)
            work.at(DENOISED + (1 - DENOISED) * count / request.latents.shape[2])
            yield from frames

    def _sandbox(self) -> Sandbox:
        """This thread's decoding process."""
        if not hasattr(self._sandboxes, "own"):
            self._sandboxes.own = Sandbox(SandboxLimits(seconds=300))
        sandbox: Sandbox = self._sandboxes.own
        return sandbox

    def _warm_sandbox(self) -> None:
        outcome = self._sandbox().call(media.warm)
        if outcome.kind != "ok":
            raise PlatformError(f"the decoding process does not start: {outcome.message}")

    # -- the device thread ----------------------------------------------------------------------------------

    def _device(self) -> None:
        while not self._stop.is_set():
            self._join_and_leave()
            try:
                finished = self.scheduler.advance()
            except Exception:
                log.exception("a denoising step failed; its requests are given up")
                self._give_up()
                continue
            for request in finished:
                work = self._works.get(request.id)
                if work is not None:
                    self._pool.submit(self._guarded, work, self._render)
            if not self.scheduler.requests:
                self._wake.wait(POLL_S)
                self._wake.clear()

    def _join_and_leave(self) -> None:
        while not self._joining.empty():
            work = self._joining.get()
            if work.request is not None:
                self.scheduler.join(work.request)
        for request in list(self.scheduler.requests):
            work_or_none = self._works.get(request.id)
            if work_or_none is None or work_or_none.lost:
                self.scheduler.leave(request.id)
                self._works.pop(request.id, None)

    def _give_up(self) -> None:
        for request in list(self.scheduler.requests):
            self.scheduler.leave(request.id)
            if request.id in self._works:
                self._fail(self._works[request.id], "an internal error in the networks; the log says more.")

    def _warm_up(self) -> None:
        """One step of one clip: the first request must not pay for lazy initialisation, and weights that give NaN
        must never take traffic."""
        model, side = self.loaded.model, self.loaded.model.config
        blank = np.zeros((side.image_size, side.image_size, 3), np.uint8)
        face = np.zeros((side.motion_encoder.image_size, side.motion_encoder.image_size, 3), np.uint8)
        reference = encode_portrait(model, Portrait(np.zeros(4), blank, face, (1, 1)))
        motion = encode_faces(model, [np.stack([face, face])], np.array([[0, 0, 1.0]] * 2, np.float32), 25.0)
        request = self.scheduler.prepare("warm-up", reference, motion_tokens(model, motion), noise(model, 2, 0), 1, 2.0)
        self.scheduler.join(request)
        while not request.finished:
            self.scheduler.advance()
        for _ in decode(model, request.latents):
            pass
        if torch.cuda.is_available():
            torch.cuda.synchronize()
