"""Under which key rows and results are kept, so that no work is done twice and none is taken for other work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from xnemo_platform.errors import PlatformError

MEASURED = b"2"  # raised when rows of earlier code would not do any more
ELSEWHERE = {
    "output",
    "workers",
    "clips",
    "model",
    "experiment",
    "pairs",
    "controls",
    "people",
    "limit",
    "data",
    "split",
    "device",
    "gpus",
    "weights",
}
"""Settings that change no result, or are in a key of their own (pairs by their content, weights by their
digests, drawn pairs without controls by a word)."""


def fingerprint(config: Any, *models: Path | None) -> str:
    """Of the settings and the digests of the models' files. Raises PlatformError for a folder without digests."""
    parts = [MEASURED, json.dumps(config.model_dump(exclude=ELSEWHERE), sort_keys=True).encode()]
    for folder in models:
        if folder is None:
            continue
        digests = folder / "digests.json"
        if not digests.exists():
            raise PlatformError(
                f"{folder}: no model here (digests.json is missing); give a folder made by training or export."
            )
        parts.append(digests.read_bytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
