"""The worker behind the service: takes jobs from the store, does them, and writes what came of them.

Threads: the heart claims jobs, keeps their leases and sees cancellations; one thread for each job does what comes
before and after the denoiser (`studio`), while `media` does the work on files elsewhere; the device thread alone runs
the denoiser, over all requests at once (`scheduler`); one thread stores finished windows (`saved`), one watches the
model's alias (`alias`). Whatever dies, the job store hands the job to the next engine, which goes on where this one
was.
"""

import logging
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pipelines.serve import meters, saved
from pipelines.serve.alias import AliasWatch
from pipelines.serve.config import ServeConfig
from pipelines.serve.files import JobFiles
from pipelines.serve.loaded import Loaded, load
from pipelines.serve.media import Media, RemoteMedia
from pipelines.serve.problems import without_paths
from pipelines.serve.studio import DENOISED, PREPARED, Studio, Work
from xnemo.errors import XNeMoError
from xnemo_platform import storage
from xnemo_platform.access import Access
from xnemo_platform.database import StoreAway
from xnemo_platform.errors import PlatformError
from xnemo_platform.jobstore import JobLost, JobStore, new_id

T = TypeVar("T")
log = logging.getLogger(__name__)

POLL_S = 0.05
BEAT_S = 0.5
SWEEP_S = 60.0


class Engine:
    """Start it, and it works until it is stopped. `name` is how it appears in the job store. `media`: who does the work
    on files; without it this process does."""

    def __init__(self, config: ServeConfig, media: Media | RemoteMedia | None = None) -> None:
        self.config = config
        self.name = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:6]}"
        Path(config.folder).mkdir(parents=True, exist_ok=True)
        self.store = JobStore(config.store_url)
        self.files = JobFiles(config.storage_uri, Path(config.folder, "scratch"))
        self.media = media or Media(config)
        self.studio = Studio(self.files, self.media)
        self._works: dict[str, Work] = {}
        self._joining: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._hands = ThreadPoolExecutor(2 * config.active, thread_name_prefix="studio")  # some wait for lost jobs
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._alias = AliasWatch(config)
        self._orphans: set[str] = set()
        self._loaded: list[Loaded] = []

    @property
    def loaded(self) -> Loaded:
        """The networks that new jobs begin with; older ones in the list finish what they began."""
        return self._loaded[-1]

    def start(self) -> None:
        """Load and warm up the model, then work in the background. Raises PlatformError or XNeMoError."""
        self.store.beat(self.name, "loading", {"model": self.config.model})
        warm = self._hands.submit(self.media.warm)
        self._loaded = [load(self.config)]
        warm.result()
        self._beat()
        watch = [self._watch] if self._alias.alias else []
        for target in (self._heart, self._device, *watch):
            thread = threading.Thread(target=target, name=target.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop between two steps; unfinished jobs go back to the queue with what is finished of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        for work in list(self._works.values()):
            work.lost = True
            if work.request is not None and (portion := saved.take(work.request)):
                self._keep(work, portion)
            with suppress(StoreAway):  # its lease will run out instead
                self.store.release(work.job)
        self._hands.shutdown(cancel_futures=True)
        self._keeper.shutdown()
        with suppress(StoreAway):
            self.store.retire(self.name)
        self.store.close()

    def healthy(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def in_hand(self) -> float:
        """The jobs that are worked on here, as a share of what an engine takes."""
        return len(self._works) / self.config.active

    def backlog(self) -> float:
        """The jobs that wait for any engine and those in hand here, in engines' worth of work."""
        return self.store.counts().get("queued", 0) / self.config.active + self.in_hand()

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
                if time.monotonic() - sweep > SWEEP_S:
                    sweep = time.monotonic()
                    self.sweep()
            except StoreAway as error:
                log.warning("%s Trying again.", error)
                self._stop.wait(1.0)
            except Exception:
                log.exception("the heart stumbled; going on")
                self._stop.wait(1.0)

    def _claim(self) -> None:
        while len(self._works) < self.config.active and (
            job := self.store.claim(self.name, lease_s=self.config.lease_s)
        ):
            if job.fence == 1:
                meters.observe("queue_wait_seconds", max(0.0, time.time() - job.created))
            work = self._works[job.id] = Work(job, self.loaded)
            self._hands.submit(self._guarded, work, self._begin)

    def _see_cancellations(self) -> None:
        works = list(self._works.values())
        fences = self.store.fences([work.job.id for work in works]) if works else {}
        for work in works:
            work.lost = fences.get(work.job.id) != work.job.fence
            if work.lost and work.request is None:  # its files are still being read: meanwhile it holds no place
                self._forget(work)

    def _publish(self) -> None:
        for work in list(self._works.values()):
            request = work.request
            units = {"units_done": request.done_windows, "units_total": request.all_windows} if request else {}
            if request and not request.finished:
                work.progress = PREPARED + (DENOISED - PREPARED) * request.done_windows / request.all_windows
            stage = "preparing" if request is None else "finishing" if request.finished else "denoising"
            state = "preparing" if request is None else "running"
            told = {"state": state, "stage": stage, "progress": work.progress, "eta_s": work.eta_s(), **units}
            try:
                self.store.update(work.job, lease_s=self.config.lease_s, **told)
            except JobLost:
                work.lost = True

    def _beat(self) -> None:
        draining = [loaded.version or loaded.name for loaded in self._loaded[:-1]]
        more = {"draining": draining} if draining else {}
        self.store.beat(self.name, "ready", self.loaded.card() | self._alias.card() | more)
        meters.show("queue_length", self.store.counts().get("queued", 0))
        meters.show("active_jobs", len(self._works))

    def sweep(self) -> None:
        """Forget what ended long ago with its files, files that belong to no job, and old lines of the audit log."""
        now = time.time()
        for job in self.store.ended_before(now - 3600 * self.config.keep_hours):
            self.files.remove(job.id)
            self.store.delete(job.id)
        there = self.files.jobs()
        strays = there - self.store.fences(there).keys()
        for job_id in strays & self._orphans:  # twice without a job: not one that is just being accepted
            self.files.remove(job_id)
        self._orphans = strays
        for folder in self.files.scratch.iterdir():
            if now - folder.stat().st_mtime > self.config.limits.upload_s + 3600:
                shutil.rmtree(folder, ignore_errors=True)
        access = Access(self.config.store_url)
        access.forget_before(now - 86400 * self.config.audit_days)
        access.close()

    def _watch(self) -> None:
        while not self._stop.wait(self.config.alias_s):
            fresh = self._alias.newer(self.loaded.version)
            if fresh is not None:
                self._loaded = [*self._loaded, fresh]

    # -- a thread per job: before and after the denoiser -----------------------------------------------------

    def _guarded(self, work: Work, step: Callable[[Work], None]) -> None:
        """Run one step of a job; whatever goes wrong in it ends this job only."""
        try:
            step(work)
        except JobLost:
            self._forget(work)
        except StoreAway:  # we are stopping; its lease runs out, and another goes on with it
            self._forget(work)
        except (XNeMoError, PlatformError) as error:
            self._fail(work, without_paths(str(error)))
        except Exception:
            log.exception("job %s failed", work.job.id)
            self._fail(work, "an internal error; the operator finds the cause in the log under this id.")

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call until the job store answers."""
        while True:
            try:
                return call()
            except StoreAway:
                if self._stop.wait(1.0):
                    raise

    def _fail(self, work: Work, sentence: str) -> None:
        try:
            self._patiently(lambda: self.store.fail(work.job, sentence))
            meters.count("jobs", kind=work.job.kind, state="failed")
        except (JobLost, StoreAway):
            pass
        finally:
            self._forget(work)

    def _finish(self, work: Work, result: dict[str, Any]) -> None:
        facts = {"model": work.loaded.exact_name, "seconds": round(time.monotonic() - work.started, 2)}
        self._patiently(lambda: self.store.finish(work.job, result | facts))
        meters.count("jobs", kind=work.job.kind, state="done")
        if work.job.kind == "animation":
            meters.count("frames", by=float(result["frames"]))
            self._keeper.submit(storage.remove, self.studio.kept(work))
        self._forget(work)

    def _forget(self, work: Work) -> None:
        if self._works.get(work.job.id) is work:
            del self._works[work.job.id]

    def _begin(self, work: Work) -> None:
        if work.job.kind != "animation":
            self._finish(work, self.studio.reuse(work))
            return
        request = self.studio.prepare(work)
        work.request, work.saved_at = request, time.monotonic()
        if request.finished:
            self._end(work)
            return
        self._joining.put(work)
        self._wake.set()

    def _end(self, work: Work) -> None:
        self._finish(work, self.studio.render(work))

    def _keep(self, work: Work, portion: saved.Portion) -> None:
        """Store finished windows; where that fails the job goes on, and would lose them with this engine."""
        try:
            saved.write(self.studio.kept(work), portion)
        except PlatformError as error:
            log.warning("finished windows of job %s cannot be stored: %s", work.job.id, error)

    # -- the device thread ----------------------------------------------------------------------------------

    def _device(self) -> None:
        while not self._stop.is_set():
            self._join_and_leave()
            for loaded in self._loaded:
                self._advance(loaded)
            if len(self._loaded) > 1:
                used = {id(work.loaded) for work in list(self._works.values())}
                self._loaded = [each for each in self._loaded if each is self.loaded or id(each) in used]
            if not any(loaded.scheduler.requests for loaded in self._loaded):
                self._wake.wait(POLL_S)
                self._wake.clear()

    def _advance(self, loaded: Loaded) -> None:
        if not loaded.scheduler.requests:
            return
        began = time.perf_counter()
        try:
            finished = loaded.scheduler.advance()
        except Exception:
            log.exception("a denoising step failed; its requests are given up")
            self._give_up(loaded)
            return
        meters.observe("step_seconds", time.perf_counter() - began)
        meters.observe("batch_windows", loaded.scheduler.last_batch)
        self._keep_finished_windows()
        for request in finished:
            work = self._works.get(request.id)
            if work is not None and work.request is request:
                self._hands.submit(self._guarded, work, self._end)

    def _keep_finished_windows(self) -> None:
        now = time.monotonic()
        for work in list(self._works.values()):
            due = now - work.saved_at >= self.config.save_s
            if due and work.request is not None and (portion := saved.take(work.request)):
                work.saved_at = now
                self._keeper.submit(self._keep, work, portion)

    def _join_and_leave(self) -> None:
        while not self._joining.empty():
            work = self._joining.get()
            if work.request is not None:
                work.loaded.scheduler.join(work.request)
        for loaded in self._loaded:
            for request in list(loaded.scheduler.requests):
                holder = self._works.get(request.id)
                if holder is None or holder.lost or holder.request is not request:
                    loaded.scheduler.leave(request.id)
                    if holder is not None and holder.request is request:
                        self._forget(holder)

    def _give_up(self, loaded: Loaded) -> None:
        for request in list(loaded.scheduler.requests):
            loaded.scheduler.leave(request.id)
            if request.id in self._works:
                self._fail(self._works[request.id], "an internal error in the networks; the log says more.")
