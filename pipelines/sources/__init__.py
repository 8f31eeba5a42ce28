"""Readers of data sets: each lists its inputs. A new one is a file here and an entry in READERS.

A reader is a function from a folder's URI to the videos in it, told apart by who is seen: that is what splits
are made of. It opens no video.
"""

from collections.abc import Callable, Iterable

from pipelines.sources import celebvhq, celebvtext, dfew, folder, hdtf, mead, nersemble, synthetic, vfhq
from pipelines.sources.source import Source, SourceConfig

Reader = Callable[[str, SourceConfig], Iterable[Source]]
READERS: dict[str, Reader] = {
    "celebvhq": celebvhq.read,
    "celebvtext": celebvtext.read,
    "dfew": dfew.read,
    "folder": folder.read,
    "hdtf": hdtf.read,
    "mead": mead.read,
    "nersemble": nersemble.read,
    "synthetic": synthetic.read,
    "vfhq": vfhq.read,
}
