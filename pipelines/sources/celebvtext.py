"""CelebV-Text: celebvtext_info.json in the form of CelebV-HQ's, boxes in pixels, seconds under any name."""

from collections.abc import Iterator

from pipelines.sources import celebvhq
from pipelines.sources.source import EVERYTHING, Source, SourceConfig


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """The listed clips."""
    return celebvhq.listed(uri, "celebvtext_info.json")
