"""A changed alias: the new version is loaded and tried beside the old one, which serves until then, and for ever where
the new one does not work."""

import logging
import time
from typing import Any

from pipelines.models import ALIAS
from pipelines.serve import meters
from pipelines.serve.config import ServeConfig
from pipelines.serve.loaded import Loaded, load_version
from pipelines.serve.problems import without_paths
from xnemo_platform import registry
from xnemo_platform.errors import PlatformError

RETRY_S = 600.0  # a refused version is tried again: it may have been the machine's fault
log = logging.getLogger(__name__)


class AliasWatch:
    """`refused`: what the alias means now and why it does not serve. `away`: why the alias cannot be asked."""

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.alias = config, ALIAS.match(config.model)
        self.refused: dict[str, str] | None = None
        self.away: str | None = None
        self._tried_at = 0.0

    def newer(self, current: str | None) -> Loaded | None:
        """The networks of the version that the alias means now, if it is not `current` and works."""
        assert self.alias is not None
        try:
            version = registry.version_behind(self.alias["name"], self.alias["alias"])
            self.away = None
        except PlatformError as error:
            if self.away is None:
                log.warning("%s", error)
            self.away = "MLflow does not answer"
            return None
        if version in (None, current):
            self.refused = None
            return None
        known = self.refused is not None and self.refused["version"] == version
        if known and time.monotonic() - self._tried_at < RETRY_S:
            return None
        self._tried_at = time.monotonic()
        try:
            found = registry.resolve(self.alias["name"], self.alias["alias"])
            loaded = load_version(self.config, found)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.refused = {"version": str(version), "reason": without_paths(reason)}
            log.error("%s version %s is refused: %s", self.config.model, version, reason)
            meters.count("swaps", outcome="refused")
            return None
        self.refused = None
        log.info("%s: version %s takes over from %s", self.config.model, loaded.version, current)
        meters.count("swaps", outcome="serving")
        return loaded

    def card(self) -> dict[str, Any]:
        """What `/v1/models` adds."""
        said = {"refused": self.refused, "alias_not_checked": self.away}
        return {name: value for name, value in said.items() if value is not None}
