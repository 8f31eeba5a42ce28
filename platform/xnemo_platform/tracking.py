"""Records of a run that no tracker can hold up: a local outbox, drained to MLflow by a thread of the driver.

The training only appends lines to `outbox.jsonl` in the run's folder and files to `artifacts/`. The driver's
`Drain` creates the MLflow run and carries them over. While MLflow is down they wait, and the next start of the
run sends the rest. A (key, step) is sent once, with the time stamp of its first record.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xnemo_platform.confidential import hidden
from xnemo_platform.config import Config
from xnemo_platform.metrics import Gauges

OUTBOX = "outbox.jsonl"
SENT = "outbox.sent.json"
RUN_ID = "run_id"
ARTIFACTS = "artifacts"
METRICS_PER_CALL = 1000  # MLflow's limits
PARAMS_PER_CALL = 100
VALUE_LENGTH = 6000
DRAIN_EVERY_S = 2.0
LAST_DRAIN_S = 60.0  # a fresh embedded store takes its time on a busy machine
AWAY = {  # what the network's errors mean
    "Connection refused": "no server listens there",
    "Failed to resolve": "its host name leads nowhere",
    "timed out": "no answer in time",
}
log = logging.getLogger(__name__)


class Outbox:
    """Appends numbers to a run's folder. Never touches the network; `active=False` writes nothing.

    What a full disk does not take waits in memory: the next record, or the end, tries again.
    """

    def __init__(self, folder: Path, active: bool = True):
        self.file, self.waiting, self.told = None, b"", False
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(folder / OUTBOX, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
            self._append("\n")  # ends a line that a kill may have torn

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of a step; NumPy and torch scalars become plain ones, non-finite ones are left out."""
        if self.file:
            plain = {name: float(value) for name, value in values.items()}
            finite = {name: value for name, value in plain.items() if abs(value) < float("inf")}
            record = {"time": int(time.time() * 1000), "step": step, "metrics": finite}
            self._append(json.dumps(record) + "\n")

    def _append(self, text: str) -> None:
        assert self.file
        self.waiting += text.encode()
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            if not self.told:
                log.warning("%s cannot be written (%s); its numbers wait in memory", self.file.name, error.strerror)
            self.told = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file:
            self._append("")
            self.file.close()


class Tracker(Config):
    """Where runs are recorded. `uri` is absolute: workers run in another folder."""

    uri: str
    experiment: str
    artifact_root: str | None = None  # for the embedded store; a server knows its own


def run_id(folder: Path) -> str | None:
    """The MLflow run of the run in `folder`, once it has one."""
    path = folder / RUN_ID
    return path.read_text() if path.exists() else None


class Drain:
    """Sends what lies in a run's folder to MLflow until the block ends. Losing MLflow is a warning, no error."""

    def __init__(self, folder: Path, name: str, tracker: Tracker, params: dict[str, Any], tags: dict[str, str]):
        self.folder, self.name, self.tracker, self.params, self.tags = folder, name, tracker, params, tags
        self.over = threading.Event()
        self.complaint = ""
        self.client: Any = None
        self.gauges = Gauges(name)
        self.offset, self.artifacts = _read_sent(folder)  # the outbox is read up to here
        self.waiting: list[dict[str, Any]] = []  # read, and not yet taken by MLflow
        self.seen = {key for record in _records(folder, 0, self.offset)[0] for key in _keys(record)}
        self.thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self.over.set()
        self.thread.join(LAST_DRAIN_S)
        if self.thread.is_alive() or self.complaint:
            log.warning(
                "MLflow (%s) did not take everything (%s); the rest waits in %s and is sent when the same "
                "command runs again.",
                self.tracker.uri,
                self.complaint or "no answer",
                self.folder / OUTBOX,
            )

    def _work(self) -> None:
        while not self.over.wait(DRAIN_EVERY_S if self.client else 0):
            self._attempt(self.send)
        self._attempt(self.send)
        if not self.complaint:
            self._attempt(lambda: self.client.set_terminated(run_id(self.folder), self.status))

    def _attempt(self, action: Any) -> None:
        try:
            action()
            self.complaint = ""
        except Exception as error:  # whatever MLflow or its store raises, training goes on
            if not self.complaint:
                log.warning(
                    "MLflow (%s) is away: %s; records wait in %s.",
                    self.tracker.uri,
                    why(error),
                    self.folder / OUTBOX,
                )
            self.complaint = why(error)
            self.over.wait(DRAIN_EVERY_S)

    def send(self) -> None:
        """One pass: gauges, the run if it is not there yet, then new numbers, then new files."""
        newest, self.offset = _records(self.folder, self.offset)
        for record in newest:
            self.gauges.show(record["step"], record["metrics"])
        self.waiting += newest
        if self.client is None:
            self.client = self._connect()
            self._tell()
        run = run_id(self.folder)
        from mlflow.entities import Metric

        fresh: dict[tuple[str, int], Metric] = {}  # a resumed run repeats steps: the first record stands
        for record in self.waiting:
            for key, value in record["metrics"].items():
                if (key, record["step"]) not in self.seen:
                    fresh.setdefault((key, record["step"]), Metric(key, value, record["time"], record["step"]))
        metrics = list(fresh.values())
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])
        self.seen |= {key for record in self.waiting for key in _keys(record)}
        self.waiting = []
        for name in sorted(_files(self.folder / ARTIFACTS) - self.artifacts):
            parent = str(Path(name).parent)
            self.client.log_artifact(run, self.folder / ARTIFACTS / name, None if parent == "." else parent)
            self.artifacts.add(name)
        _write_atomically(self.folder / SENT, json.dumps({"offset": self.offset, "artifacts": sorted(self.artifacts)}))

    def _tell(self) -> None:
        """One line of the log says where the run can be watched; `xnemo jobs status` looks for it."""
        if self.tracker.uri.startswith("http"):
            run = self.client.get_run(run_id(self.folder)).info
            print(
                f"MLflow: {self.tracker.uri.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}",
                flush=True,
            )

    def _connect(self) -> Any:
        """A client, and the run: the one of this folder, set running again, or a new one."""
        client = mlflow_client(self.tracker.uri)
        if existing := run_id(self.folder):
            client.update_run(existing, status="RUNNING")
            return client
        tags = {key: hidden(value) for key, value in self.tags.items()}
        run = client.create_run(experiment_id(client, self.tracker), run_name=self.name, tags=tags)
        from mlflow.entities import Param

        params = [Param(key, hidden(str(value))[:VALUE_LENGTH]) for key, value in self.params.items()]
        for start in range(0, len(params), PARAMS_PER_CALL):
            client.log_batch(run.info.run_id, params=params[start : start + PARAMS_PER_CALL])
        _write_atomically(self.folder / RUN_ID, run.info.run_id)
        return client


def mlflow_client(uri: str) -> Any:
    """An MLflow client that gives up in seconds rather than minutes. Creates an embedded store on first use."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    import mlflow

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def why(error: Exception) -> str:
    """What kept MLflow from answering, in one line; its 403 for an unknown host name gets the mend."""
    whole = str(error)
    text = hidden(whole.splitlines()[0][:200]) if whole else type(error).__name__
    if "Invalid Host header" in text or ("403" in text and "ermission" not in text):
        return (
            "it answers 403: it does not know the host name it is called by; start the server with "
            "MLFLOW_SERVER_ALLOWED_HOSTS naming it"
        )
    for sign, meaning in AWAY.items():
        if sign in whole:
            return meaning
    return text


def experiment_id(client: Any, tracker: Tracker) -> str:
    """The experiment of that name, made if it is missing."""
    if found := client.get_experiment_by_name(tracker.experiment):
        return str(found.experiment_id)
    embedded = tracker.artifact_root and not tracker.uri.startswith("http")
    place = f"{tracker.artifact_root}/{tracker.experiment}" if embedded else None
    try:
        return str(client.create_experiment(tracker.experiment, artifact_location=place))
    except Exception:  # another job made it in the meantime
        if found := client.get_experiment_by_name(tracker.experiment):
            return str(found.experiment_id)
        raise


def _records(folder: Path, start: int, stop: int | None = None) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of the outbox from byte `start`, and where they end; a line torn by a kill is passed over."""
    path = folder / OUTBOX
    if not path.exists():
        return [], start
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read() if stop is None else file.read(stop - start)
    whole, newline, _ = data.rpartition(b"\n")
    records = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records, start + len(whole) + len(newline)


def _keys(record: dict[str, Any]) -> list[tuple[str, int]]:
    return [(key, record["step"]) for key in record["metrics"]]


def _read_sent(folder: Path) -> tuple[int, set[str]]:
    try:
        sent = json.loads((folder / SENT).read_text())
        return sent["offset"], set(sent["artifacts"])
    except (OSError, ValueError, KeyError):
        return 0, set()  # sent again; MLflow keeps one of two equal records


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    }


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
