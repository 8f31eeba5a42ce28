"""An ingestion that is seen while it runs and found again: the MLflow run of `xnemo data ingest`.

Counts, drops by reason, throughput and the workers' seconds by stage go there as they come; the configuration, the
summary and the preview sheet when it is done. MLflow being away costs nothing: see `xnemo_platform.tracking`.
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import yaml

from pipelines import preprocess, preview
from pipelines.preprocess import IngestConfig, Tally
from pipelines.summary import histograms
from xnemo_platform.config import flatten
from xnemo_platform.settings import settings
from xnemo_platform.tracking import ARTIFACTS, Drain, Outbox, Tracker, run_id

EXPERIMENT = "xnemo-data"


def ingest(config: IngestConfig) -> dict[str, Any]:
    """As `preprocess.run`, recorded from the first finished unit on. The summary gets "run_id": empty where there was
    nothing to do, or while MLflow is away. Raises PlatformError as `preprocess.run`."""
    began = time.time()
    with contextlib.ExitStack() as stack:
        folder: Path | None = None
        outbox: Outbox | None = None

        def watch(now: Tally) -> None:
            nonlocal folder, outbox
            if folder is None or outbox is None:
                folder = _started(config, began, stack)
                outbox = stack.enter_context(Outbox(folder))
            outbox.metrics(now.sources, now.numbers(time.time() - began))

        summary = preprocess.run(config, watch=watch)
        if folder is None or outbox is None:
            return {**summary, "run_id": ""}
        totals = {key: float(summary[key]) for key in ("clips", "frames", "hours", "identities", "bytes")}
        outbox.metrics(summary["clips"], {f"dataset/{key}": value for key, value in totals.items()})
        told = {"summary": summary, "histograms": histograms(config.output)}
        (folder / ARTIFACTS / "summary.json").write_text(json.dumps(told, indent=1))
        if summary["clips"]:
            preview.write_sheet(config.output, folder / ARTIFACTS / "preview.png")
    return {**summary, "run_id": run_id(folder) or ""}


def _started(config: IngestConfig, began: float, stack: contextlib.ExitStack) -> Path:
    """The folder of a new run, whose records go to MLflow until `stack` ends."""
    places = settings()
    name = f"{config.dataset or config.reader}-{hashlib.sha256(f'{config.output} {began}'.encode()).hexdigest()[:8]}"
    folder = places.home / "ingestions" / name
    (folder / ARTIFACTS).mkdir(parents=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / ARTIFACTS / "config.yaml").write_text(text)
    tracker = Tracker(uri=places.tracking_uri, experiment=EXPERIMENT, artifact_root=places.artifact_root)
    tags = {"kind": "ingestion", "source": config.source, "dataset": config.output}
    stack.enter_context(Drain(folder, name, tracker, flatten(config), tags))
    return folder
