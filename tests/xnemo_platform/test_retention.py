"""Retention removes what nobody needs, tells it first, and touches nothing that is still named."""

import os
import time
from pathlib import Path

import pytest

from jobs import cli
from xnemo_platform import manifest, retention, storage
from xnemo_platform.errors import PlatformError

OLD = time.time() - 60 * 86400


def put(path: Path, when: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 100)
    os.utime(path, (when, when))
    return path


def run(home: Path, name: str, ended: float | None, exported: bool = True) -> Path:
    folder = home / "runs" / name
    put(folder / "checkpoints/step-00000001/COMMIT.json")
    if exported:
        put(folder / "export/weights.safetensors")
    if ended is not None:
        put(folder / "result.json", ended)
    return folder


def places(found: list[retention.Leftover]) -> set[str]:
    return {each.place for each in found}


def test_checkpoints_go_only_from_runs_that_ended_long_ago_and_left_a_model(tmp_path):
    old = run(tmp_path, "old", ended=OLD)
    run(tmp_path, "fresh", ended=time.time())
    run(tmp_path, "running", ended=None)
    run(tmp_path, "without-model", ended=OLD, exported=False)
    found = retention.leftovers(tmp_path, days=30)
    assert places(found) == {str(old / "checkpoints")}
    assert found[0].size == 100
    for each in found:
        storage.remove(each.place)
    assert (old / "export/weights.safetensors").exists()
    assert not retention.leftovers(tmp_path, days=30)


def test_half_written_files_go_after_a_day(tmp_path):
    old = put(tmp_path / "shards/.a.parquet.1234.part")
    put(tmp_path / "shards/.b.parquet.5678.part", time.time())
    put(tmp_path / "shards/a.parquet")
    assert places(retention.leftovers(tmp_path, days=30)) == {str(old)}


def test_a_cached_model_goes_when_no_alias_means_it_and_stays_when_the_registry_is_away(tmp_path):
    for version in "12":
        put(tmp_path / "model-cache/xnemo" / version / "weights.safetensors")
    put(tmp_path / "model-cache/xnemo/champion.json")
    found = retention.leftovers(tmp_path, 30, kept=frozenset({"xnemo/2"}))
    assert places(found) == {str(tmp_path / "model-cache/xnemo/1")}
    assert not retention.leftovers(tmp_path, 30, kept=None)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_shards_that_no_manifest_names_go_when_they_are_old(tmp_path, kind):
    uri = str(tmp_path / "data") if kind == "local" else f"memory://{tmp_path.name}"
    row = {"split": "train", "rows": 1, "bytes": 1, "sha256": "0", "unit": "u", "sources": [], "notes": None}
    manifest.append(uri, [{**row, "shard": "shards/kept.parquet"}])
    for name in ("kept", "orphan"):
        storage.publish_bytes(storage.join(uri, f"shards/{name}.parquet"), b"x")
    assert not retention.leftovers(tmp_path / "home", 30, [uri]), "it is young: a writer may be at work"
    found = list(retention._orphans(uri, time.time() + 60))
    assert [each.place for each in found] == [storage.join(uri, "shards/orphan.parquet")]
    storage.remove(found[0].place)
    assert storage.list_files(storage.join(uri, "shards")) == ["kept.parquet"]


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(PlatformError, match="no data set; check --dataset"):
        retention.leftovers(tmp_path, 30, [str(tmp_path)])


def test_the_command_tells_first_and_removes_then(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path))
    monkeypatch.setenv("XNEMO_TRACKING_URI", "http://127.0.0.1:9")
    old = run(tmp_path, "old", ended=OLD)
    assert cli.main(["retain", "--dry-run"]) == 0
    assert (old / "checkpoints").exists()
    told = capsys.readouterr().out
    assert "1 leftovers, 0.00 GB would be freed" in told
    assert "cached models are left alone: MLflow" in told
    assert cli.main(["retain", "--days", "0.5"]) == 1
    assert cli.main(["retain"]) == 0
    assert not (old / "checkpoints").exists()


def test_what_cannot_be_removed_is_told_and_the_rest_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path))
    monkeypatch.setenv("XNEMO_TRACKING_URI", "http://127.0.0.1:9")
    stuck, old = run(tmp_path, "a", ended=OLD), run(tmp_path, "b", ended=OLD)
    remove = storage.remove

    def removed(place: str) -> None:
        if "/a/" in place:
            raise PermissionError(1, "Operation not permitted", place)
        remove(place)

    monkeypatch.setattr(storage, "remove", removed)
    assert cli.main(["retain"]) == 1
    told = capsys.readouterr().out
    assert "stays: [Errno 1] Operation not permitted" in told
    assert "1 leftovers, 0.00 GB freed" in told
    assert (stuck / "checkpoints").exists()
    assert not (old / "checkpoints").exists()
