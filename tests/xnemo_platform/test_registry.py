"""Published folders come back whole, by alias, with or without MLflow."""

import json

import pytest

from xnemo_platform import registry
from xnemo_platform.errors import PlatformError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One MLflow store for all: making it costs seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(autouse=True)
def places(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XNEMO_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.setenv("XNEMO_ARTIFACT_ROOT", str(store / "artifacts"))


@pytest.fixture
def model(tmp_path, request):
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(request.node.name.encode())
    (folder / "inner" / "config.json").write_text("{}")
    return folder


def test_an_alias_leads_to_the_published_files(model):
    version = registry.publish(model, "a", "champion", tags={"stage": "motion"})
    found = registry.resolve("a", "champion")
    assert (found.version, found.folder.name) == (version, version)
    assert (found.folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (found.folder / "inner" / "config.json").exists()
    assert {"name": "a", "alias": "champion", "version": version} in registry.aliases()


def test_publishing_the_same_files_again_changes_nothing(model):
    assert registry.publish(model, "b", "x") == registry.publish(model, "b", "x")


def test_an_alias_moves_to_the_new_version(model):
    first = registry.publish(model, "c", "x")
    (model / "model.safetensors").write_bytes(b"better")
    second = registry.publish(model, "c", "x")
    assert first != second
    assert (registry.resolve("c", "x").folder / "model.safetensors").read_bytes() == b"better"


def test_a_damaged_copy_is_fetched_again(model):
    registry.publish(model, "d", "x")
    file = registry.resolve("d", "x").folder / "model.safetensors"
    good = file.read_bytes()
    file.write_bytes(b"flipped")
    assert (registry.resolve("d", "x").folder / "model.safetensors").read_bytes() == good


def test_a_damaged_original_is_refused(model, store):
    registry.publish(model, "e", "x")
    (original,) = (p for p in store.rglob("model.safetensors") if p.read_bytes() == (model / p.name).read_bytes())
    original.write_bytes(b"flipped")
    with pytest.raises(PlatformError, match="does not match the digest"):
        registry.resolve("e", "x")


def test_while_mlflow_is_away_the_last_version_serves(model, monkeypatch):
    registry.publish(model, "f", "x")
    before = registry.resolve("f", "x")
    monkeypatch.setenv("XNEMO_TRACKING_URI", "http://127.0.0.1:9")
    assert registry.resolve("f", "x") == before
    with pytest.raises(PlatformError, match="never used on this machine"):
        registry.resolve("f", "y")


def test_an_unknown_alias_is_named(model):
    with pytest.raises(PlatformError, match="models:/nobody@x"):
        registry.resolve("nobody", "x")


def test_the_memory_of_an_alias_is_plain_json(model, tmp_path):
    registry.publish(model, "g", "x")
    registry.resolve("g", "x")
    assert json.loads((tmp_path / "home/model-cache/g/x.json").read_text())["version"] == "1"


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\0", "x" * 101])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(PlatformError, match="names are"):
        registry.resolve(name, "x")
