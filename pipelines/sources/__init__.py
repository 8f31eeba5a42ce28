"""Readers of data sets: each lists its inputs. A new one is a file here and an entry in READERS.

A reader is a function from a folder's URI to the videos in it, told apart by who is seen: that is what splits
are made of. It opens no video.
"""

from collections.abc import Callable, Iterable

from pipelines.sources import folder, synthetic
from pipelines.sources.source import Source

READERS: dict[str, Callable[[str], Iterable[Source]]] = {"folder": folder.read, "synthetic": synthetic.read}
