"""The doctor tries things for real and names the mend for what fails."""

import pytest

from jobs import doctor
from xnemo_platform.settings import settings


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XNEMO_TRACKING_URI", raising=False)
    monkeypatch.delenv("XNEMO_RAY_ADDRESS", raising=False)
    return settings()


def test_a_healthy_machine_passes(places):
    failed = [finding for finding in doctor.examine(places) if finding.state == "fail"]
    assert not failed


def test_a_gpu_that_is_asked_for_and_absent_is_a_failure_with_a_mend(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = doctor.gpu(needed=True)
    assert finding.state == "fail"
    assert "driver" in finding.mend
    assert doctor.gpu(needed=False).state == "ok"


def test_a_tracking_server_that_does_not_answer_is_a_failure(places):
    dead = places.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    finding = doctor.tracking(dead)
    assert finding.state == "fail"
    assert "XNEMO_TRACKING_URI" in finding.mend


def test_a_check_that_breaks_is_a_finding_not_a_traceback():
    finding = doctor._guarded("video", lambda: 1 // 0)
    assert finding.state == "fail"
    assert "ZeroDivisionError" in finding.says


def test_a_missing_compiler_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "g++" in doctor.compiler().mend
