"""An ingestion that is seen while it runs and found again: the MLflow run of `xnemo data ingest`.

Counts, drops by reason, throughput and the workers' seconds by stage go there as they come; the configuration, the
summary and the preview sheet when it is done. MLflow being away costs nothing: see `xnemo_platform.tracking`.
"""

import hashlib
import json
import time
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
    """As `preprocess.run`, recorded. The summary gets "run_id" (empty while MLflow is away); a run that finds
    nothing to do records nothing. Raises PlatformError as `preprocess.run`."""
    places = settings()
    work = preprocess.planned(config, preprocess.check_output(config, preprocess.describe(config)))
    if not work.units and not work.records:
        return {**preprocess.run(config), "run_id": ""}
    began = time.time()
    name = f"{config.dataset or config.reader}-{hashlib.sha256(f'{config.output} {began}'.encode()).hexdigest()[:8]}"
    folder = places.home / "ingestions" / name
    artifacts = folder / ARTIFACTS
    artifacts.mkdir(parents=True)
    (artifacts / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    tracker = Tracker(uri=places.tracking_uri, experiment=EXPERIMENT, artifact_root=places.artifact_root)
    tags = {"kind": "ingestion", "source": config.source, "dataset": config.output}
    with Drain(folder, name, tracker, flatten(config), tags), Outbox(folder) as outbox:

        def watch(now: Tally) -> None:
            outbox.metrics(now.sources, now.numbers(time.time() - began))

        summary = preprocess.run(config, watch=watch)
        totals = {key: float(summary[key]) for key in ("clips", "frames", "hours", "identities", "bytes")}
        outbox.metrics(summary["clips"], {f"dataset/{key}": value for key, value in totals.items()})
        told = {"summary": summary, "histograms": histograms(config.output)}
        (artifacts / "summary.json").write_text(json.dumps(told, indent=1))
        if summary["clips"]:
            preview.write_sheet(config.output, artifacts / "preview.png")
    return {**summary, "run_id": run_id(folder) or ""}
