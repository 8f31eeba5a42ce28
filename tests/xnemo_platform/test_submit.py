"""Jobs: what travels with them, what they may carry, and their life on a cluster of our own."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from xnemo_platform import cluster, job_server, packing, submit
from xnemo_platform.errors import PlatformError


def test_a_job_on_this_machine_runs_this_checkout_with_this_interpreter():
    with packing.packed(["jobs.train", "appearance", "a b"], local=True) as (entrypoint, env):
        assert shlex.split(entrypoint) == [sys.executable, "-m", "jobs.train", "appearance", "a b"]
        assert "working_dir" not in env
        assert str(packing.ROOT / "platform") in env["env_vars"]["PYTHONPATH"]


def test_to_another_machine_go_the_code_and_the_named_configs_and_nothing_else(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("steps: 1")
    with packing.packed(["jobs.train", "--config", str(config)], local=False) as (entrypoint, env):
        folder = Path(env["working_dir"])
        assert shlex.split(entrypoint)[-1] == "submitted/mine.yaml"
        assert (folder / "submitted" / "mine.yaml").read_text() == "steps: 1"
        assert sorted(p.name for p in folder.iterdir()) == ["jobs", "pipelines", "platform", "submitted", "xnemo"]
        found = subprocess.run(
            [sys.executable, "-c", "import platform, xnemo_platform.submit as s; print(s.__file__)"],
            cwd=folder,
            env={"PYTHONPATH": "platform"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.startswith(str(folder)) or found.stdout.startswith("platform")


def test_two_configs_of_one_name_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_text(name)
    paths = [str(tmp_path / name / "c.yaml") for name in "ab"]
    with pytest.raises(PlatformError, match="rename one"), packing.packed(["jobs.train", *paths], local=False):
        pass


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "db_password", "API_KEY"])
def test_a_secret_in_the_environment_is_refused(name):
    with pytest.raises(PlatformError, match="mount secrets"):
        submit.submit(["jobs.doctor"], "j", "http://127.0.0.1:9", env={name: "x"})


def test_a_cluster_that_does_not_answer_is_one_sentence():
    with pytest.raises(PlatformError, match=r"127.0.0.1:9: no Ray job server answers.*XNEMO_RAY_ADDRESS") as caught:
        submit.find("j", "http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "ftp://head:1", "http://", ""])
def test_an_address_that_is_none_is_told_how_to_write_it(address):
    with pytest.raises(PlatformError, match=r"is no job server's address: write it as http://head:8265"):
        submit.find("j", address)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("http://head:8265", False),
        ("https://10.0.0.3", False),
        ("head:8265", False),
        ("127.0.0.1:8265", True),
    ],
)
def test_only_the_loopback_is_this_machine(address, local):
    assert job_server.is_local(address) is local


class Client:
    """As much of Ray's client as the version check looks at."""

    def __init__(self, version: str):
        self._server_ray_version = version


@pytest.mark.parametrize("theirs", ["2.59.1", "3.0.0"])
def test_another_ray_on_the_cluster_is_refused_before_anything_travels(theirs):
    with pytest.raises(
        PlatformError, match=rf"head:8265 runs Ray {theirs}, this client Ray .*docs/runbook.md, Upgrade"
    ):
        job_server.require_same_ray(Client(theirs), "http://head:8265")


def test_a_patch_release_of_ray_is_the_same_ray():
    import ray

    job_server.require_same_ray(Client(f"{'.'.join(ray.__version__.split('.')[:2])}.99"), "http://head:8265")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Request failed with status code 401: Unauthorized"), "wants a token"),
        (RuntimeError("Request failed with status code 403: Forbidden"), r"refused the token in RAY_AUTH_TOKEN:"),
        (RuntimeError("500 No available agent to submit job"), "still starting"),
    ],
)
def test_what_the_job_server_answers_is_told_with_its_mend(monkeypatch, error, said):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ps3cr3t-0001")
    assert re.search(said, job_server.reason(error))
    assert "t0ps3cr3t" not in job_server.reason(error)


def test_a_head_that_goes_while_a_job_is_followed_is_waited_for_and_the_job_told(monkeypatch):
    """The head answers, is away twice, and comes back without its memory."""
    job = submit.Job("j", "RUNNING", "", None, {})
    answers = iter([job, submit.AwayError("away"), submit.AwayError("away"), None])

    def find(job_id, address):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    async def tail(job_id, address, on_line):
        on_line(1, "step 5/30")
        raise ConnectionError("gone")

    monkeypatch.setattr(submit, "find", find)
    monkeypatch.setattr(submit, "_tail", tail)
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(submit.time, "monotonic", iter(range(0, 1000, 11)).__next__)
    lines: list[str] = []
    with pytest.raises(PlatformError, match=r"forgotten job j; .* with --id j again and it goes on from there"):
        submit.follow("j", "http://head:8265", lines.append)
    assert lines == ["step 5/30", "-- http://head:8265 does not answer; waiting for it, up to 10 min --"]


class Server:
    """A client of a job server that tells these statuses of the job "j", one a question; `alive`: supervised jobs."""

    def __init__(self, *statuses: str, alive: tuple[str, ...] = (), knows: bool = True):
        self.statuses, self.alive, self.ok = iter(statuses), alive, knows

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        return SimpleNamespace(submission_id=job_id, status=next(self.statuses), message="", driver_exit_code=None,
                               metadata={"command": "train appearance --output '/a b'"}, entrypoint="")  # fmt: skip

    def list_jobs(self) -> list[SimpleNamespace]:
        return [self.get_job_info("j")]

    def _do_request(self, *words: str) -> Self:
        return self

    def json(self) -> dict:
        found = [{"name": job_server.SUPERVISOR + job} for job in self.alive]
        return {"data": {"result": {"total": len(found), "num_after_truncation": len(found), "result": found}}}


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (lambda: Server("RUNNING", "RUNNING"), "LOST"),
        (lambda: Server("RUNNING", alive=("i", "j")), "RUNNING"),
        (lambda: Server("RUNNING", "SUCCEEDED"), "SUCCEEDED"),  # it ended between the questions
        (lambda: Server("RUNNING", knows=False), "RUNNING"),
        (lambda: Server("PENDING"), "PENDING"),
        (lambda: Server("FAILED"), "FAILED"),
    ],
)
@pytest.mark.parametrize("ask", [lambda: submit.find("j", "http://head:1"), lambda: submit.jobs("http://head:1")[0]])
def test_a_job_is_lost_if_it_is_told_as_running_and_nobody_runs_it(monkeypatch, server, status, ask):
    there = server()
    monkeypatch.setattr(job_server, "connect", lambda address: there)
    job = ask()
    assert job.status == status
    if status == "LOST":
        assert job.ended
        assert submit.exit_code(job) == 1
        assert job.message.endswith(
            "with: xnemo submit --address http://head:1 --id j train appearance --output '/a b'"
        )


def test_supervisors_are_named_as_ray_names_them():
    from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE

    assert JOB_ACTOR_NAME_TEMPLATE.format(job_id="j") == f"{job_server.SUPERVISOR}j"


def test_a_forwarded_port_and_a_container_are_other_machines(monkeypatch):
    names = []

    class Answer:
        ok = True

        def json(self):
            return {"data": {"hostNameList": names}}

    client = type("Client", (), {"_do_request": lambda self, *words: Answer()})()
    monkeypatch.setattr(job_server, "connect", lambda address: client)
    for there, same in ([socket.gethostname()], True), (["3f2a91"], False), ([socket.gethostname(), "other"], False):
        names[:] = there
        assert job_server.shares_files("http://127.0.0.1:8265") is same
    assert not job_server.shares_files("http://head:8265")


def test_a_machine_too_busy_for_ray_is_told_in_one_sentence(monkeypatch):
    import ray

    from xnemo_platform import trainer

    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because some of the raylet ...")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        PlatformError, match=r"did not start on this machine \(The current node timed out during startup"
    ):
        trainer.start_ray(cpus=2)


@pytest.mark.slow
def test_the_life_of_jobs_on_a_cluster_of_our_own(tmp_path):
    with cluster.local_cluster(tmp_path, cpus=2) as head:
        address = head.dashboard
        assert cluster.start(tmp_path, cpus=2) == head, "a second start finds the first"
        lines: list[str] = []
        submit.submit(["jobs.cli", "--help"], "good", address, metadata={"run": "r"})
        job = submit.follow("good", address, lines.append)
        assert (job.status, submit.exit_code(job), job.metadata["run"]) == ("SUCCEEDED", 0, "r")
        assert sum("usage: xnemo" in line for line in lines) == 1

        assert submit.submit(["jobs.cli", "--help"], "good", address).status == "SUCCEEDED"  # attached, not run

        for _ in range(2):  # a failed job can be started again under its id
            submit.submit(["jobs.cli", "nonsense"], "bad", address)
            bad = submit.follow("bad", address, lines.append)
            assert (bad.status, submit.exit_code(bad)) == ("FAILED", 2)
            assert bad.message == "Job entrypoint command failed with exit code 2"

        submit.submit(["http.server", "0", "--bind", "127.0.0.1"], "long", address)
        submit.stop("long", address)
        assert submit.exit_code(submit.follow("long", address, lines.append)) == 130
        assert {job.id for job in submit.jobs(address)} == {"good", "bad", "long"}
        assert submit.find("nobody", address) is None
        with pytest.raises(PlatformError, match="knows no job nobody"):
            submit.stop("nobody", address)
    with pytest.raises(PlatformError, match="no Ray job server answers"):
        submit.jobs(address)
    assert cluster.running(tmp_path) is None
    assert not cluster.stop(tmp_path), "there is nothing left to stop"
