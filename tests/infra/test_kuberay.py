"""The Kubernetes manifests: every field is one that exists, every name leads somewhere, nothing is open or secret."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from kuberay import validate

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/kuberay"
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")


def things(path: Path) -> list[dict]:
    return [thing for thing in yaml.safe_load_all(path.read_text()) if thing]


ALL = [thing for path in FILES for thing in things(path)]
PODS = []  # (whose, pod spec)


def _pods(whose: str, value) -> None:
    if isinstance(value, dict):
        if "containers" in value:
            PODS.append((whose, value))
        for below in value.values():
            _pods(whose, below)
    elif isinstance(value, list):
        for below in value:
            _pods(whose, below)


for _thing in ALL:
    _pods(f"{_thing['kind']}/{_thing['metadata']['name']}", _thing)
CONTAINERS = [
    (whose, container) for whose, pod in PODS for container in pod["containers"] + pod.get("initContainers", [])
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_field_is_one_the_api_knows(path):
    for thing in things(path):
        validate(thing)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec.update(workerGroupsSpecs=[]), "workerGroupsSpecs"),
        (lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"].update(toleration=[]), "toleration"),
        (lambda spec: spec["authOptions"].update(mode="tokens"), "tokens"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "not of type 'string'"),
        (lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas"), "maxReplicas"),
    ],
)
def test_a_misspelt_or_missing_field_is_found(change, said):
    (cluster,) = things(FOLDER / "cluster.yaml")
    change(cluster["spec"])
    with pytest.raises(jsonschema.ValidationError, match=said):
        validate(cluster)


def test_a_misspelt_field_of_kubernetes_own_objects_is_found():
    (job,) = things(FOLDER / "nightly.yaml")
    job["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(jsonschema.ValidationError, match="concurencyPolicy"):
        validate(job)


def test_every_file_is_built_or_applied_by_the_runbook():
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    apart = {"service.yaml", *(f"jobs/{path.name}" for path in (FOLDER / "jobs").glob("*.yaml"))}
    assert set(listed) | apart == {str(path.relative_to(FOLDER)) for path in FILES}
    assert "kubectl apply -k infra/kuberay" in RUNBOOK
    assert "infra/kuberay/service.yaml" in RUNBOOK


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here")
def test_kustomize_builds_the_platform_with_pinned_images():
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    made = [thing for thing in yaml.safe_load_all(built) if thing]
    for thing in made:
        validate(thing)
    assert {thing["metadata"].get("namespace", "xnemo") for thing in made} == {"xnemo"}
    for image in re.findall(r"image: (\S+)", built):
        assert re.fullmatch(r"\S+:[\w.-]*\d[\w.-]*", image), f"{image} is not pinned"
        assert not image.endswith(":latest")


def test_every_secret_is_one_the_runbook_makes_and_none_is_in_here():
    assert not [thing for thing in ALL if thing["kind"] == "Secret"]
    named = set(re.findall(r"secretKeyRef: \{name: ([\w-]+)|secretRef: \{name: ([\w-]+)", str_of_all()))
    for name in {a or b for a, b in named}:
        assert f"create secret generic {name}" in RUNBOOK, name


def str_of_all() -> str:
    return "\n".join(path.read_text() for path in FILES)


def test_config_maps_claims_and_accounts_that_are_named_exist():
    have = {(thing["kind"], thing["metadata"]["name"]) for thing in ALL}
    for whose, container in CONTAINERS:
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert ("ConfigMap", source["configMapRef"]["name"]) in have, whose
    for whose, pod in PODS:
        for volume in pod.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in have, whose
        if "serviceAccountName" in pod:
            assert ("ServiceAccount", pod["serviceAccountName"]) in have, whose


@pytest.mark.parametrize(("whose", "container"), CONTAINERS, ids=[f"{who}-{c['name']}" for who, c in CONTAINERS])
def test_no_container_can_gain_rights_and_every_mount_has_its_volume(whose, container):
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"].keys() == {"requests", "limits"}
    (pod,) = [
        pod for _, pod in PODS if any(container is each for each in pod["containers"] + pod.get("initContainers", []))
    ]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    if whose.startswith("StatefulSet"):
        volumes.add("data")
    assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


@pytest.mark.parametrize("name", ["RayCluster", "RayService"])
def test_ray_asks_for_a_token_remembers_and_keeps_work_off_the_head(name):
    (thing,) = [thing for thing in ALL if thing["kind"] == name]
    spec = thing["spec"] if name == "RayCluster" else thing["spec"]["rayClusterConfig"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    from importlib.metadata import version

    assert spec["rayVersion"] == version("ray")
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    requests = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert int(requests["nvidia.com/gpu"]) > 0
    assert groups["gpu"]["minReplicas"] <= groups["gpu"]["maxReplicas"]


def test_the_namespace_is_closed_but_for_what_a_policy_opens():
    policies = {thing["metadata"]["name"]: thing["spec"] for thing in ALL if thing["kind"] == "NetworkPolicy"}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    doors = [rule for rule in policies["ray"]["ingress"] if any(each["port"] == 8265 for each in rule.get("ports", []))]
    (job_server,) = doors
    assert job_server["from"], "an empty list would be everybody"
    assert policies["postgres"]["podSelector"]["matchLabels"] == {"app": "postgres"}


JOBS = {path.stem: things(path)[0]["spec"] for path in (FOLDER / "jobs").glob("*.yaml")}


def test_there_is_a_job_for_every_stage():
    assert set(JOBS) == {"ingest", "appearance", "motion", "temporal", "tokenizer", "generator", "evaluate"}


@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_jobs_command_is_one_the_program_takes(name, tmp_path, monkeypatch):
    """The command is run as it stands, with the image's folders put where they are here, up to its plan."""
    from jobs import cli
    from xnemo.config import ModelConfig

    words = JOBS[name]["entrypoint"].replace("/opt/xnemo/configs", str(ROOT / "jobs/configs"))
    words = words.replace("/opt/xnemo/deepspeed", str(ROOT / "infra/deepspeed")).split()
    assert words[0] == "xnemo"
    assert JOBS[name]["clusterSelector"] == {"ray.io/cluster": "xnemo"}
    if name in ("ingest", "evaluate"):  # these ask the source or the model before they plan
        for flag, place in {"s3://xnemo/videos": tmp_path, "/mnt/xnemo/runs/temporal/export": "bundled"}.items():
            words = [str(place) if word == flag else word for word in words]
        (tmp_path / "a.mp4").write_bytes(b"not a video")
        words = [str(tmp_path / "out") if word.startswith(("s3://", "/mnt/")) else word for word in words]
    if "--model" in words and name in ("appearance", "motion", "temporal"):
        # A plan reads the shape of its start: a small one is planned sooner. tests/pipelines/test_train_plan.py has the
        # released one.
        start = words.index("--model") + 1
        words[start] = str(tmp_path / "start")
        (tmp_path / "start").mkdir()
        (tmp_path / "start" / "config.json").write_text(ModelConfig.small().model_dump_json())
    assert cli.main([*words[1:], "--dry-run"]) == 0


def test_the_services_arguments_are_its_configuration():
    from ray.serve.schema import ServeDeploySchema

    from pipelines.serve.config import ServeConfig

    (service,) = things(FOLDER / "service.yaml")
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = deploy.applications
    assert ServeConfig(**application.args).model == "models:/xnemo@champion"
    module, _, function = application.import_path.partition(":")
    import importlib

    assert callable(getattr(importlib.import_module(module), function))
    assert deploy.http_options.host == "0.0.0.0"
