"""A thin client of the animation service (HTTP; the service's /docs has every call).

Client("http://127.0.0.1:8000").animate("p.png", "d.mp4", "out.mp4", steps=25)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xnemo.errors import XNeMoError

ENDED = {"done", "failed", "cancelled"}
AGAIN_S = 0.5  # before a service that did not answer is asked once more
SHORTEST_S, LONGEST_S = 0.05, 2.0  # between two looks at a job
TIMEOUT_S = 30.0
PATIENCE_S = 60.0


class Client:
    """Talks to one service, with a bearer key where it asks for one. Raises XNeMoError with the service's own
    sentence."""

    def __init__(self, url: str, key: str | None = None) -> None:
        import requests

        self.url, self.session = url.rstrip("/"), requests.Session()
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def animate(
        self,
        portrait: str | Path,
        driving: str | Path,
        output: str | Path,
        *,
        key: str | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
        **options: Any,
    ) -> Path:
        """Send, wait, fetch the mp4. key: sent again with the same key, the same job is answered."""
        files = {"portrait": Path(portrait), "driving": Path(driving)}
        job = self.finish(self.post("/v1/animations", files, options, key=key), progress)
        return self.download(job["links"]["video"], output)

    def post(
        self, path: str, files: Mapping[str, Path], fields: Mapping[str, Any], key: str | None = None
    ) -> dict[str, Any]:
        """Start a job: a form where files go along, JSON otherwise. Its state as answered."""
        headers = {"Idempotency-Key": key} if key else {}
        with ExitStack() as stack:
            opened = {name: (file.name, stack.enter_context(file.open("rb"))) for name, file in files.items()}
            body: dict[str, Any] = {"files": opened, "data": dict(fields)} if opened else {"json": dict(fields)}
            return dict(self._call("POST", path, headers=headers, **body).json())

    def finish(
        self, job: Mapping[str, Any], progress: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Wait until the job has ended; its last state. A failed one raises with its reason. A service that does not
        answer for a while, as when it is restarted, is waited for."""
        began = time.monotonic()
        while True:
            state = dict(self._call("GET", job["links"]["state"], patience_s=PATIENCE_S).json())
            if progress:
                progress(state)
            if state["state"] == "done":
                return state
            if state["state"] in ENDED:
                raise XNeMoError(
                    f"{state['kind']} {state['id']} {state['state']}: {state.get('error') or 'no reason given'}"
                )
            time.sleep(_pause(state["eta_s"], time.monotonic() - began))

    def download(self, link: str, path: str | Path) -> Path:
        """Write what the link holds to a file, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.part")
        with self._call("GET", link, stream=True) as answer, partial.open("wb") as file:
            for chunk in answer.iter_content(1 << 20):
                file.write(chunk)
        return partial.replace(path)

    def _call(self, method: str, path: str, patience_s: float = 0.0, **options: Any) -> Any:
        import requests

        url, end = path if "://" in path else self.url + path, time.monotonic() + patience_s
        while True:
            try:
                answer = self.session.request(method, url, timeout=TIMEOUT_S, **options)
                if answer.status_code < 500 or time.monotonic() > end:
                    break
            except requests.RequestException as error:
                if time.monotonic() > end:
                    said = f"{self.url} does not answer ({type(error).__name__}): is the service running?"
                    raise XNeMoError(said) from None
            time.sleep(AGAIN_S)
        if not answer.ok:
            try:
                said = answer.json().get("detail") or answer.reason
            except ValueError:
                said = answer.reason
            raise XNeMoError(f"{method} {path}: {said}")
        return answer


def _pause(left_s: float | None, waited_s: float) -> float:
    """Seconds until the next look: the nearer the end, the sooner; while the end is unknown, by the time so far."""
    return min(max(0.2 * (waited_s if left_s is None else left_s), SHORTEST_S), LONGEST_S)
