"""An ingestion leaves an MLflow run with its counts, its configuration and a picture of what came out."""

from pathlib import Path

import pytest

from pipelines import ingest_run
from tests.pipelines.drawn import head_video
from tests.pipelines.test_preprocess import child, config, in_process  # noqa: F401  # fixtures
from xnemo_platform.settings import settings
from xnemo_platform.tracking import mlflow_client


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_an_ingestion_is_found_again_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path / "home"))
    for seed in range(2):
        head_video(tmp_path / "videos" / f"{seed}.mp4", seed, frames=14)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video")
    wanted = config(tmp_path / "videos", tmp_path / "out", max_quarantine=0.5)
    summary = ingest_run.ingest(wanted)
    client = mlflow_client(settings().tracking_uri)
    run = client.get_run(summary["run_id"])
    assert (run.info.status, run.data.params["clips.size"]) == ("FINISHED", "96")
    assert (run.data.metrics["clips"], run.data.metrics["quarantined/format"]) == (2, 1)
    assert run.data.metrics["worker_seconds/decode"] > 0
    assert {file.path for file in client.list_artifacts(summary["run_id"])} == {
        "config.yaml",
        "preview.png",
        "summary.json",
    }
    assert ingest_run.ingest(wanted)["run_id"] == ""  # nothing to do, nothing to tell
