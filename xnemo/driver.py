"""A driver's motion, taken from its video no further than it is asked for, so that memory does not grow with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from xnemo.encode import check_motion, encode_faces
from xnemo.prepare import Driving
from xnemo.tokens.motion_file import Motion

if TYPE_CHECKING:
    from xnemo.model import XNeMo


class Driver:
    """The motion of a followed video, or one taken before.

    The codes f_mot (2 kB a frame at the released shape) lie in a file; in memory are f_rts and the boxes, 44 bytes a
    frame. codes: that file, open for reading and writing; what it holds already is not encoded again. None: a
    temporary one.
    """

    def __init__(self, model: XNeMo, driving: Driving | Motion, frames: int, codes: IO[bytes] | None = None) -> None:
        if isinstance(driving, Motion):
            check_motion(model.config, driving)
        self.model, self.driving, self.frames = model, driving, frames
        self._codes = codes or tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this does)
        self._row = 4 * model.config.motion_encoder.f_mot
        self._known = os.fstat(self._codes.fileno()).st_size // self._row
        self._batches = self._encoded(driving) if isinstance(driving, Driving) else iter(())

    def part(self, start: int, end: int) -> Motion:
        """The motion of frames start … end - 1; reads the video on as far as that needs."""
        if isinstance(self.driving, Motion):
            return self.driving.part(start, end)
        while self._known < end:
            next(self._batches)
        self._codes.seek(start * self._row)
        f_mot = np.frombuffer(bytearray(self._codes.read((end - start) * self._row)), np.float32)
        return Motion(f_mot.reshape(end - start, -1), self.driving.f_rts[start:end], self.driving.fps)

    def whole(self) -> Motion:
        """All of it, in memory."""
        return self.part(0, self.frames)

    def _encoded(self, driving: Driving) -> Iterator[None]:
        """Encode batch after batch into the file. The batches of a run that goes on are those of the first run, since
        a network's numbers depend, in their last bits, on what else is in the batch."""
        at = 0
        for faces in driving.faces(self.model.config.motion_encoder.image_size):
            end = at + len(faces)
            if end > self._known:
                motion = encode_faces(self.model, [faces], driving.f_rts[at:end], driving.fps)
                self._codes.seek(at * self._row)
                self._codes.write(motion.f_mot.tobytes())
                self._codes.flush()
                self._known = end
                yield
            at = end
