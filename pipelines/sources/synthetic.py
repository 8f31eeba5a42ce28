"""Drawn heads as `xnemo synthetic` writes them: <identity>/<emotion>-<intensity>.mp4 with a JSON beside each."""

import json
from collections.abc import Iterator
from dataclasses import replace

from pipelines.sources import folder
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

_SIDECAR_LIMIT = 16 << 20


def read(uri: str, _: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """Videos below `uri` with the emotion that their sidecar names. Raises PlatformError without a sidecar."""
    for source in folder.read(uri):
        sidecar = source.uri.rpartition(".")[0] + ".json"
        try:
            facts = json.loads(storage.read_bytes(sidecar, _SIDECAR_LIMIT))
            identity = f"seed-{int(facts['identity_seed'])}"
            emotion, intensity = facts.get("emotion"), facts.get("intensity")
        except (ValueError, KeyError, TypeError) as error:
            raise PlatformError(
                f"{sidecar} is no sidecar of a drawn clip ({error}): draw the clip again, or "
                "ingest the folder with reader=folder"
            ) from error
        yield replace(source, identity=identity, emotion=emotion, intensity=intensity)
