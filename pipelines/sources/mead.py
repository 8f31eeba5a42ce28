"""MEAD: <person>/video/<view>/<emotion>/level_<intensity>/<number>.mp4, seven views of which front is taken."""

import re
from collections.abc import Iterator

from pipelines.sources.files import videos
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo_platform import storage

_PATH = re.compile(r"^(?:.*/)?(?P<person>[MW]\d+)/(?:video/)?(?P<view>\w+)/(?P<emotion>\w+)/level_(?P<level>\d)/[^/]+$")


def read(uri: str, config: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """Videos of the chosen views, with emotion and intensity (1 to 3)."""
    views = config.cameras or ("front",)
    for path in videos(uri):
        match = _PATH.match(str(path))
        if match and match["view"] in views:
            yield Source(
                storage.join(uri, str(path)), match["person"], emotion=match["emotion"], intensity=int(match["level"])
            )
