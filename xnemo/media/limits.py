"""What a media file may ask of us before it is decoded, and the error that says it asked too much.

A 200 kB mp4 can hold 50 GB of pixels, so every reader checks the header against these numbers first.
"""

from dataclasses import dataclass

from xnemo.errors import XNeMoError


class MediaError(XNeMoError):
    """A file that cannot be used. `code` is a short stable reason (`truncated`, `too_large`, ...)."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return MediaError, (self.code, str(self))


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one file: pixels per frame, frames, seconds, pixels of the whole video, bytes."""

    pixels: int = 4096 * 2304
    frames: int = 60_000
    seconds: float = 30 * 60
    total_pixels: int = 130_000_000_000  # 30 minutes of 1080p at 30 fps, with room
    bytes: int = 8 << 30


LIMITS = Limits()
