"""What the doctor makes of a node's answers: every fault has its sentence and its mend."""

from dataclasses import replace

import pytest

from jobs import doctor_cluster
from xnemo_platform import nodes
from xnemo_platform.settings import settings

OURS = {"python": "3.11", "ray": "2.60.0", "torch": "2.13.0"}
WELL = nodes.Node("one (10.0.0.1)", True, OURS, {"storage": "", "home": "", "mlflow": ""}, [], 0, 100.0, 0.02, 0.01)


def states(node: nodes.Node) -> list[str]:
    return [finding.state for finding in doctor_cluster.judge(node, OURS)]


def test_a_node_that_is_well_is_one_line():
    (finding,) = doctor_cluster.judge(WELL, OURS)
    assert finding.state == "ok"
    assert "clock +0.02 ± 0.01 s" in finding.says


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": OURS | {"ray": "2.58.0"}}, "ray 2.58.0 instead of 2.60.0"),
        ({"problems": WELL.problems | {"storage": "s3://b: no right to it"}}, "storage: s3://b: no right"),
        ({"problems": WELL.problems | {"home": "not the folder"}}, "home: not the folder"),
        ({"problems": WELL.problems | {"mlflow": "it answers 403"}}, "mlflow: it answers 403"),
        ({"skew_s": -3.0, "skew_error_s": 0.1}, "clock off by -3.0 s"),
        ({"gpus": ["A100"], "gpus_promised": 8}, "1 GPUs work of the 8 Ray counts"),
        ({"answered": False, "problems": {"node": "it died"}}, r"no answer (it died)"),
    ],
)
def test_every_fault_of_a_node_fails_with_a_mend(change, said):
    findings = doctor_cluster.judge(replace(WELL, **change), OURS)
    (bad,) = [finding for finding in findings if finding.state == "fail"]
    assert said in bad.says
    assert bad.mend


def test_a_skew_that_may_be_the_networks_is_not_blamed_on_the_clock():
    assert states(replace(WELL, skew_s=3.0, skew_error_s=2.5)) == ["ok"]


def test_little_room_is_a_warning():
    assert states(replace(WELL, free_gib=3.0)) == ["ok", "warn"]


def test_a_node_looks_for_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("XNEMO_HOME", str(tmp_path))
    monkeypatch.setenv("XNEMO_TRACKING_URI", "http://127.0.0.1:9")
    mark = tmp_path / "mark"
    mark.write_bytes(b"x")
    found = nodes.look(settings(), str(mark))
    assert found["problems"]["storage"] == found["problems"]["home"] == ""
    assert found["problems"]["mlflow"] == "http://127.0.0.1:9: no server listens there"
    assert found["versions"] == nodes.versions()
    assert list(tmp_path.iterdir()) == [mark], "nothing is left behind"
    missing = nodes.look(settings(), str(tmp_path / "elsewhere" / "mark"))
    assert "mount the same volume" in missing["problems"]["home"]


def test_the_clock_is_read_from_the_quickest_round_trip(monkeypatch):
    now = iter([0.0, 4.0, 10.0, 10.2, 20.0, 24.0, 30.0, 34.0, 40.0, 44.0])
    monkeypatch.setattr(nodes.time, "time", lambda: next(now))
    theirs = iter([9.0, 15.1, 29.0, 39.0, 49.0])
    skew, error = nodes._skew(lambda: next(theirs))
    assert skew == pytest.approx(5.0)
    assert error == pytest.approx(0.1)
