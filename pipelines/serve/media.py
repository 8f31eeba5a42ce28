"""The work on files around the networks: decode, crop, encode, mux. A deployment of its own, on CPUs.

`Media` does it; it holds nothing between two calls, so any replica can do any piece of any job. `RemoteMedia` calls the
deployment, again where a replica died. Pictures travel in pieces: the crops of a driving video as they are cut, the
frames of a result as they are decoded from latents.
"""

import logging
import queue
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.serve import decoding
from pipelines.serve.config import MotionOptions, ServeConfig
from pipelines.serve.decoding import ChildDied, ask
from pipelines.serve.files import JobFiles
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError
from xnemo_platform.jobstore import new_id
from xnemo_platform.sandbox import Limits as SandboxLimits
from xnemo_platform.sandbox import Sandbox

ATTEMPTS = 5
GONE = "what was sent for this job is no longer kept: send it again."
log = logging.getLogger(__name__)


class Media:
    """Every call runs in a decoding process of its own, of which `media_workers` are kept. Inputs are named by URI.
    Raises XNeMoError for what the user can mend."""

    def __init__(self, config: ServeConfig) -> None:
        self.limits, self.files = config.media_limits(), JobFiles(config.storage_uri, Path(config.folder, "scratch"))
        self._idle: queue.LifoQueue[Sandbox] = queue.LifoQueue()  # the last used is the next: others start when needed
        for _ in range(config.media_workers):
            self._idle.put(Sandbox(SandboxLimits(seconds=300)))

    def warm(self) -> None:
        """Start one decoding process."""
        with self._sandbox() as sandbox:
            outcome = sandbox.call(decoding.warm)
        if outcome.kind != "ok":
            raise PlatformError(f"the decoding process does not start: {outcome.message}")

    def portrait(self, uri: str, config: ModelConfig, face: int | None) -> dict[str, Any]:
        """The fields of `xnemo.prepare.Portrait`."""
        with self._local("portrait", uri) as path, self._sandbox() as sandbox:
            crops: dict[str, Any] = ask(sandbox, "portrait", decoding.portrait_crops, path, config, face, self.limits)
            return crops

    def driving(self, uri: str, size: int, cut: MotionOptions) -> Iterator[Any]:
        """First {"f_rts": [F,3], "fps"} of a driving video, then its face crops uint8 [n,size,size,3] as they come."""
        args = (size, cut.head_motion, cut.start, cut.end, cut.fps, self.limits)
        with self._local("driving", uri) as path, self._sandbox() as sandbox:
            given = 0
            for last in (False, True):  # a child that dies is given a second chance
                try:
                    for piece in islice(_read(sandbox, path, *args), given, None):
                        yield piece
                        given += 1
                    return
                except ChildDied:
                    if last:
                        raise

    def encode(self, frames: np.ndarray, fps: float, label: bool) -> bytes:
        """Frames uint8 [n,H,W,3] of a result, with their marks, as a part of its mp4."""
        with self._sandbox() as sandbox:
            part: bytes = ask(sandbox, "result", decoding.encode, frames, fps, label)
            return part

    def join(self, job_id: str, name: str, parts: list[bytes], model: str, sound: str | None, start: float) -> str:
        """Store the parts as one mp4, with the sound of the video at the URI `sound`; its URI."""
        with self._scratch() as folder, self._sandbox() as sandbox:
            driving = self.files.fetch({"driving": sound}, folder)["driving"] if sound else None
            ask(sandbox, "driving video", decoding.join, folder / name, parts, model, driving, start)
            return self.files.put(job_id, name, folder / name)

    @contextmanager
    def _sandbox(self) -> Iterator[Sandbox]:
        sandbox = self._idle.get()
        try:
            yield sandbox
        finally:
            self._idle.put(sandbox)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = self.files.arriving(new_id())
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _local(self, role: str, uri: str) -> Iterator[Path]:
        """An input on this machine."""
        with self._scratch() as folder:
            try:
                path = self.files.fetch({role: uri}, folder)[role]
            except PlatformError as error:
                if storage.exists(uri):
                    raise
                raise XNeMoError(GONE) from error
            yield path


def _read(sandbox: Sandbox, path: Path, *args: Any) -> Iterator[Any]:
    yield ask(sandbox, "driving video", decoding.open_driving, path, *args, again=False)
    while (faces := ask(sandbox, "driving video", decoding.next_faces, again=False)) is not None:
        yield faces


class RemoteMedia:
    """The same, done by the replicas behind a handle of Ray Serve. What a replica took into its grave is asked for
    again."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.pieces = handle, handle.options(stream=True)

    def warm(self) -> None:
        self._call("warm")

    def portrait(self, uri: str, config: ModelConfig, face: int | None) -> dict[str, Any]:
        return dict(self._call("portrait", uri, config, face))

    def driving(self, uri: str, size: int, cut: MotionOptions) -> Iterator[Any]:
        return _asked(lambda: self.pieces.driving.remote(uri, size, cut))

    def encode(self, frames: np.ndarray, fps: float, label: bool) -> bytes:
        return bytes(self._call("encode", frames, fps, label))

    def join(self, job_id: str, name: str, parts: list[bytes], model: str, sound: str | None, start: float) -> str:
        return str(self._call("join", job_id, name, parts, model, sound, start))

    def _call(self, method: str, *args: Any) -> Any:
        return next(_asked(lambda: [getattr(self.handle, method).remote(*args).result()]))


def _asked(call: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The pieces of an answer. Where its replica dies the call is made again, and what was given already left out."""
    from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

    given = 0
    for left in reversed(range(ATTEMPTS)):
        try:
            for piece in islice(call(), given, None):
                yield piece
                given += 1
            return
        except RayTaskError as error:  # the replica lives, the work failed
            raise (error.cause or error) from None
        except (RayActorError, ObjectLostError) as error:
            log.warning("a media replica died (%s); its work is asked for again", type(error).__name__)
            if not left:
                raise
