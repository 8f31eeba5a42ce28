"""Committed checkpoints at a second place, any URI: for runs whose own folder may be lost with its machine.

The same folders under the same names. The file that makes a checkpoint count is sent last, so a reader never takes
half of one. Losing the mirror costs a warning, not the run.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

NAME = re.compile(r"step-\d{8}")
log = logging.getLogger(__name__)


class Mirror:
    """The checkpoints of one run below `uri`."""

    def __init__(self, uri: str):
        self.uri = uri

    def names(self) -> list[str]:
        """Of the checkpoints there, in no order; none if the place does not answer."""
        try:
            found = {name.split("/")[0] for name in storage.list_files(self.uri)}
        except PlatformError as error:
            log.warning("the mirror of the checkpoints does not answer: %s", error)
            return []
        return [name for name in found if NAME.fullmatch(name)]

    def follow(self, folders: Sequence[Path], last: str) -> None:
        """Make the mirror hold these checkpoints and no others; `last` is the file that makes one count."""
        try:
            there = set(self.names())
            for folder in folders:
                if not storage.exists(storage.join(self.uri, folder.name, last)):
                    self._send(folder, last)
            for name in there - {folder.name for folder in folders}:
                storage.remove(storage.join(self.uri, name, last))
                storage.remove(storage.join(self.uri, name))
        except PlatformError as error:
            log.warning("a checkpoint could not be copied to the mirror, the next save tries again: %s", error)

    def _send(self, folder: Path, last: str) -> None:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for name in [*(name for name in names if name != last), last]:
            storage.publish_file(storage.join(self.uri, folder.name, name), folder / name)

    def fetch(self, name: str, folder: Path) -> None:
        """Copy a checkpoint to a local folder. Raises PlatformError."""
        place = storage.join(self.uri, name)
        for file in storage.list_files(place):
            storage.fetch_file(storage.safe_join(place, file), folder / file)
