"""Settings: every place absolute, every mistake named."""

from pathlib import Path

import pytest

from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import explicit, settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in ("HOME", "TRACKING_URI", "ARTIFACT_ROOT", "STORAGE", "RAY_ADDRESS", "CPUS", "CONFIG"):
        monkeypatch.delenv(f"XNEMO_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_lie_under_the_working_folder_and_are_absolute(tmp_path):
    found = settings()
    assert found.home == tmp_path / "data"
    assert found.tracking_uri == f"sqlite:///{tmp_path}/data/mlflow.db"
    assert Path(found.storage).is_absolute()


def test_the_environment_overrides_the_file(tmp_path, monkeypatch):
    (tmp_path / "xnemo.toml").write_text('home = "from_file"\ncpus = 9\n')
    monkeypatch.setenv("XNEMO_HOME", "from_env")
    found = settings()
    assert found.home == tmp_path / "from_env"
    assert found.cpus == 9


def test_settings_survive_the_trip_to_a_worker_with_another_working_folder(tmp_path, monkeypatch):
    here = settings()
    for key, value in here.env().items():
        monkeypatch.setenv(key, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings() == here


def test_a_misspelt_key_is_refused_with_the_nearest_name(tmp_path):
    (tmp_path / "xnemo.toml").write_text('tracking_url = "sqlite:///x.db"\n')
    with pytest.raises(PlatformError, match=r"tracking_url.*did you mean 'tracking_uri'"):
        settings()


def test_a_wrong_type_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("XNEMO_CPUS", "many")
    with pytest.raises(PlatformError, match="XNEMO_CPUS"):
        settings()


def test_a_file_store_is_refused_with_the_mend(monkeypatch):
    monkeypatch.setenv("XNEMO_TRACKING_URI", "file:/somewhere")
    with pytest.raises(PlatformError, match="sqlite"):
        settings()


def test_the_example_for_a_cluster_is_valid(monkeypatch):
    example = Path(__file__).resolve().parents[2] / "infra/cluster.toml"
    monkeypatch.setenv("XNEMO_CONFIG", str(example))
    found = settings()
    assert found.ray_address == "http://head:8265"
    assert found.storage == "s3://bucket/xnemo"


def test_a_job_elsewhere_is_told_what_was_said_and_not_what_was_guessed(tmp_path, monkeypatch):
    (tmp_path / "xnemo.toml").write_text('tracking_uri = "http://mlflow:5000"\nray_address = "http://head:8265"\n')
    monkeypatch.setenv("XNEMO_STORAGE", "s3://bucket")
    assert explicit() == {"XNEMO_TRACKING_URI": "http://mlflow:5000", "XNEMO_STORAGE": "s3://bucket"}


@pytest.mark.parametrize("key", ["tracking_uri", "storage", "ray_address"])
def test_an_address_with_a_password_is_refused_without_repeating_it(tmp_path, key):
    (tmp_path / "xnemo.toml").write_text(f'{key} = "https://me:hunter2222@host/x"\n')
    with pytest.raises(PlatformError, match=f"{key} holds an address with a password") as caught:
        settings()
    assert "hunter2222" not in str(caught.value)
