"""Two Ray nodes with a token, MLflow on Postgres, data in a bucket: the line as an operator runs it, and its faults.

The tests of this file are one story on one cluster, in order: each goes on where the one before ended.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import parts

ROOT = Path(__file__).resolve().parents[2]
TOKEN, PASSWORD, SECRET, REDIS = "ray-c0ffee5511d2", "pg-7be2d0aa91f4", "s3-50f2b7c6e911", "redis-31b8e4d7"
pytestmark = [pytest.mark.slow, pytest.mark.fault]
TRAIN = ["loop.steps=30", "loop.workers=2", "loop.cpus=1", "loop.save_every=5", "loop.log_every=5", "frame_size=64"]


@dataclass
class World:
    """The cluster, and the environment of the person in front of it (who has the token and no other secret)."""

    nodes: parts.RayNodes
    person: dict[str, str]
    folder: Path

    def xnemo(self, *words: str, ok: bool | None = True, within_s: float = 300, **env: str) -> str:
        """What the command printed, both streams."""
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *words], cwd=self.folder, env=self.person | env, capture_output=True,
            text=True, timeout=within_s,
        )  # fmt: skip
        assert ok is None or (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with contextlib.ExitStack() as stack:
        secrets = stack.enter_context(parts.postgres(PASSWORD)) | stack.enter_context(parts.s3(folder, "me", SECRET))
        uri = stack.enter_context(parts.mlflow(folder, secrets))
        remembers = stack.enter_context(parts.redis(folder, REDIS))
        places = {
            "XNEMO_TRACKING_URI": uri,
            "XNEMO_STORAGE": f"s3://{parts.BUCKET}",
            "XNEMO_HOME": str(folder / "home"),
        }
        (folder / "home").mkdir()
        there = secrets | places | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_REDIS_ADDRESS": remembers,
            "RAY_external_storage_namespace": "xnemo", "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
        }  # fmt: skip
        nodes = parts.RayNodes(folder, there, redis_password=REDIS)
        stack.callback(nodes.close)
        person = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "PG"))}
        person |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "RAY_AUTH_TOKEN": TOKEN, "HOME": str(folder), **places}
        person["XNEMO_RAY_ADDRESS"] = nodes.address
        nodes.start("head", "--num-cpus=2")
        nodes.start("second", "--num-cpus=2")
        made = World(nodes, person, folder)
        parts.until(lambda: "error" not in made.xnemo("jobs", "list", ok=None), "the cluster", folder / "head.log")
        yield made


def test_the_runbooks_commands_run_as_they_stand(world):
    """Size, ask every node, ingest from a folder into the bucket, look at jobs, stop one, clean up."""
    videos = world.folder / "videos"
    for seed in range(3):
        world.xnemo("synthetic", "clip", "--seed", str(seed), "-o", str(videos / f"person{seed}" / "a.mp4"))
    small = "clips.min_face_px=32 clips.size=128 val_share=0"
    env = world.person | {"VIDEOS": str(videos), "INGEST": small, "PATH": f"{parts.BIN}:{os.environ['PATH']}"}
    said = ""
    for block in re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/runbook.md").read_text(), re.DOTALL | re.MULTILINE):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=world.folder, env=env, capture_output=True, text=True,
            timeout=400,
        )  # fmt: skip
        said += done.stdout + done.stderr
        assert done.returncode == 0, f"{block}\n{said}"
    assert "9,000,000" in said
    assert len(re.findall(r"ok .*versions agree; storage, home and MLflow reached", said)) == 2, said
    assert "2 nodes, 0 GPUs" in said
    assert "job ingest-1: SUCCEEDED" in said
    assert re.search(r"clips +3", said), said
    assert "0 leftovers" in said


def test_a_used_id_attaches_to_its_job(world):
    said = world.xnemo("submit", "--id", "ingest-1", "data", "ingest", "--dataset", "folder", "--source", "x")
    assert "SUCCEEDED" in said
    assert re.search(r"clips +3", said), "the log of the first time"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_TOKEN": "stale-token-of-last-year"}, r"refused the token in RAY_AUTH_TOKEN.*Rotate keys"),
        ({"RAY_AUTH_TOKEN": ""}, r"wants a token; put it in RAY_AUTH_TOKEN"),
        ({"XNEMO_RAY_ADDRESS": "http://127.0.0.1:9"}, r"no Ray job server answers there; check the address"),
    ],
)
def test_who_may_not_come_in_is_told_why(world, env, said):
    told = world.xnemo("jobs", "list", ok=False, **env)
    assert re.search(said, told), told
    assert len(told.strip().splitlines()) == 1
    assert "stale-token" not in told


def test_the_doctor_names_what_the_nodes_cannot_reach(world):
    away = {"XNEMO_STORAGE": "s3://nobodys", "XNEMO_TRACKING_URI": "http://127.0.0.1:9"}
    said = world.xnemo("doctor", "--address", world.nodes.address, "--gpu", ok=False, **away)
    assert len(re.findall(r"^fail .*storage: s3://nobodys.* bucket does not exist$", said, re.MULTILINE)) == 2, said
    assert len(re.findall(r"^fail .*mlflow: http://127.0.0.1:9: no server listens there$", said, re.MULTILINE)) == 2, (
        said
    )
    assert re.search(r"^fail .*2 nodes, no GPU", said, re.MULTILINE)
    assert "5 of 5 checks failed" in said


def test_a_training_outlives_the_node_it_ran_on_and_goes_on_when_another_joins(world):
    run = world.folder / "home" / "runs" / "appearance"
    words = ["train", "appearance", "--config", str(ROOT / "jobs/configs/train-small-appearance.yaml")]
    words += ["--dataset", f"s3://{parts.BUCKET}/shards", "--output", str(run), *TRAIN]
    world.xnemo("submit", "--no-follow", "--id", "train-1", *words)
    parts.until(lambda: list(run.glob("checkpoints/*/COMMIT.json")), "the first commit", within_s=240)
    world.nodes.kill("second")
    world.nodes.start("third", "--num-cpus=2")
    said = world.xnemo("jobs", "logs", "train-1")
    assert "train-1: SUCCEEDED" in said, said
    assert (run / "export").is_dir()
    link = re.search(r"^MLflow: (\S+)$", world.xnemo("jobs", "status", "train-1"), re.MULTILINE)
    assert link
    steps = [json.loads(line)["step"] for line in (run / "outbox.jsonl").read_text().splitlines() if line]
    assert set(steps) == {5, 10, 15, 20, 25, 30}
    alone = run.with_name("left-alone")  # the same training, and no node went
    world.xnemo("submit", "--id", "train-2", *(str(alone) if word == str(run) else word for word in words))
    weights = [(each / "export" / "model.safetensors").read_bytes() for each in (run, alone)]
    assert weights[0] == weights[1]


def test_the_trained_model_is_served_from_the_cluster(world):
    port = parts.free_port()
    model = str(world.folder / "home" / "runs" / "appearance" / "export")
    said = world.xnemo("submit", "--id", "serve-1", "serve", "--model", model, "--port", str(port), "cpus=0.5")
    assert "serve-1: SUCCEEDED" in said, said
    assert parts.answers(f"http://127.0.0.1:{port}/readyz")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=10) as answer:
        assert json.loads(answer.read())


def test_a_head_that_is_restarted_costs_a_job_nothing_it_committed(world):
    """The driver dies with the head. Whoever follows, lists or asks is told so, and the command told goes on."""
    run = world.folder / "home" / "runs" / "again"
    words = ["train", "appearance", "--config", str(ROOT / "jobs/configs/train-small-appearance.yaml")]
    words += ["--dataset", f"s3://{parts.BUCKET}/shards", "--output", str(run), *TRAIN, "loop.workers=1"]
    log, submit = world.folder / "follower.log", ["-m", "jobs.cli", "submit", "--id", "train-3"]
    with parts.process(sys.executable, *submit, *words, env=world.person, log=log) as follower:
        parts.until(lambda: list(run.glob("checkpoints/*/COMMIT.json")), "the first commit", log)
        world.nodes.kill("head")
        world.nodes.start("head", "--num-cpus=2")
        follower.wait(timeout=240)
    told = log.read_text()
    assert follower.returncode == 1, told
    assert "does not answer; waiting for it" in told
    command = re.search(r"^job train-3: LOST .* goes on from its last commit with: xnemo (.*)$", told, re.MULTILINE)
    assert command, told
    listed = world.xnemo("jobs", "list")
    assert re.search(r"^ingest-1 +SUCCEEDED", listed, re.MULTILINE), "Redis remembers the jobs of before"
    assert re.search(r"^train-3 +LOST", listed, re.MULTILINE), listed
    assert "LOST" in world.xnemo("jobs", "status", "train-3", ok=False)
    said = world.xnemo(*shlex.split(command[1]))
    assert "train-3: SUCCEEDED" in said, said
    records = [json.loads(line) for line in (run / "outbox.jsonl").read_text().splitlines() if line]
    steps = [record["step"] for record in records if "time/step_ms" in record["metrics"]]
    assert set(steps) == {5, 10, 15, 20, 25, 30}
    assert steps.count(5) == 1, "what was committed is not done again"


def test_no_secret_was_written_anywhere_on_the_way(world):
    request = urllib.request.Request(f"{world.nodes.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        texts = {"the job list": answer.read().decode()}
    assert "train-1" in texts["the job list"]
    from xnemo_platform import tracking

    client = tracking.mlflow_client(world.person["XNEMO_TRACKING_URI"])
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert runs
    texts["MLflow"] = "\n".join(str(run.to_dictionary()) for run in runs)
    for path in [*Path(world.nodes.temporary).rglob("logs/**/*"), *(world.folder / "home").rglob("*")]:
        if path.is_file() and path.suffix in {".log", ".out", ".err", ".json", ".jsonl", ".yaml", ".txt", ""}:
            texts[str(path)] = path.read_text(errors="replace")
    for place, text in texts.items():
        for secret in (TOKEN, PASSWORD, SECRET):
            assert secret not in text, f"{place} holds {secret}"
