"""Every command of the runbook and of the README's cluster section is run, or what it names is shown to exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
BLOCKS = re.findall(r"^```(sh[^\n]*)\n(.*?)^```", RUNBOOK, re.DOTALL | re.MULTILINE)
COMPOSE = (ROOT / "infra/compose.yaml").read_text()
ELSEWHERE = {"sh docker", "sh kubernetes", "sh cloud"}
LINES = [(kind, line) for kind, block in BLOCKS for line in block.strip().splitlines() if kind in ELSEWHERE]


def test_every_block_is_run_by_a_test_or_checked_here():
    assert {kind for kind, _ in BLOCKS} == ELSEWHERE | {"sh", "sh backup"}
    assert not re.findall(r"^```(?!sh)\w+", RUNBOOK, re.MULTILINE)
    story = (ROOT / "tests/infra/test_cluster.py").read_text() + (ROOT / "tests/infra/test_mlflow.py").read_text()
    assert "runbook.md" in story


@pytest.mark.parametrize("line", [line for _, line in LINES], ids=[line[:60] for _, line in LINES])
def test_what_a_command_names_is_there(line):
    words = shlex.split(line.split(" | ")[0])
    for word in words:
        if word.startswith("infra/"):
            assert (ROOT / word).exists(), word
    check = {"infra/secrets.sh": script, "docker": docker, "kubectl": kubectl, "ray": ray}[words[0]]
    check(words)


def script(words: list[str]) -> None:
    assert (ROOT / words[0]).stat().st_mode & 0o111


def docker(words: list[str]) -> None:
    assert words[1:3] == ["compose", "-f"]
    assert words[4] in {"up", "ps"}
    assert set(words[5:]) <= {"-d", "--build", "--wait"}


def kubectl(words: list[str]) -> None:
    """Verb, flags, and every object, key, condition and port that is named."""
    plain = [word for word in words[1:] if word not in ("-n", "xnemo")]
    verb, flags = plain[0], [word for word in plain if word.startswith("-")]
    known = {"create": "--from-literal --from-file", "apply": "-k -f", "wait": "--for --timeout", "get": "-o",
             "port-forward": "", "scale": "--replicas"}  # fmt: skip
    assert {flag.split("=")[0] for flag in flags} <= set(known[verb].split()), words
    assert "-n" not in words or words[words.index("-n") + 1] in names("namespace")
    for kind, name in re.findall(r"(raycluster|rayjob|service|deployment|namespace)[/ ]([\w-]+)", " ".join(words)):
        assert (kind, name.removesuffix("-head-svc")) in objects(), words
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "--for":
            assert value == "condition=HeadPodReady"  # one of those KubeRay reports
        if name == "--from-literal":
            assert (plain[3], value.partition("=")[0]) in keys(), words
        if name == "--from-file":
            from botocore.credentials import EnvProvider

            assert value in {EnvProvider.ACCESS_KEY, EnvProvider.SECRET_KEY}
            assert "secretRef: {name: " + plain[3] in (ROOT / "infra/kuberay/cluster.yaml").read_text()
    if plain[:2] == ["get", "secret"]:  # KubeRay names it after the cluster
        assert plain[2] == "-o" or ("raycluster", plain[2]) in objects()
        assert flags == ["-o"]
        assert "jsonpath={.data.auth_token}" in words
    if verb == "port-forward":
        ports = yaml.safe_load((ROOT / "infra/kuberay/cluster.yaml").read_text())["spec"]["headGroupSpec"]["template"]
        assert int(words[-1]) in {port["containerPort"] for port in ports["spec"]["containers"][0]["ports"]}


def ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    known = {option for parameter in cli.commands[words[1]].params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def objects() -> set[tuple[str, str]]:
    found = set()
    for path in (ROOT / "infra/kuberay").rglob("*.yaml"):
        for thing in yaml.safe_load_all(path.read_text()):
            if thing and "metadata" in thing:
                found.add((thing["kind"].lower(), thing["metadata"]["name"]))
    return found | {("service", name) for kind, name in found if kind == "raycluster"}


def names(kind: str) -> set[str]:
    return {name for each, name in objects() if each == kind}


def keys() -> set[tuple[str, str]]:
    """Secrets and their keys that the manifests ask for."""
    text = "\n".join(path.read_text() for path in (ROOT / "infra/kuberay").rglob("*.yaml"))
    return set(re.findall(r"secretKeyRef: \{name: ([\w-]+), key: ([\w-]+)\}", text))


PROSE = re.sub(r"^```.*?^```", "", RUNBOOK, flags=re.DOTALL | re.MULTILINE)
INLINE = sorted(set(re.findall(r"`([^`\n]+)`", PROSE)))
SETTINGS = [word for word in INLINE if re.fullmatch(r"(loop|limits)\.\w+(=\w+)?|[a-z]+_gb|workers", word)]
FILES = [word for word in INLINE if re.fullmatch(r"infra/[\w./-]+|[\w-]+\.(yaml|json)", word)]
VARIABLES = sorted(set(re.findall(r"\b(?:XNEMO|RAY|MLFLOW|AWS|PG)_?[A-Z][A-Z_]+\b", RUNBOOK)))


@pytest.mark.parametrize("word", SETTINGS)
def test_every_key_of_the_configuration_that_is_named_exists(word):
    from pipelines.preprocess import IngestConfig
    from pipelines.serve.config import Limits
    from pipelines.train import TrainConfig
    from xnemo_platform.engine import LoopConfig

    group, _, name = word.split("=")[0].rpartition(".")
    known = {"loop": [LoopConfig], "limits": [Limits], "": [IngestConfig, TrainConfig]}[group]
    assert any(name in model.model_fields for model in known), word


@pytest.mark.parametrize("word", FILES)
def test_every_file_that_is_named_exists(word):
    made = {path.removeprefix("./secrets/") for path in re.findall(r"\./secrets/\w+", COMPOSE)}
    if word.startswith("infra/secrets/"):
        assert word.rpartition("/")[2] in made
    else:
        assert (ROOT / word).exists() or list((ROOT / "infra").rglob(word)), word


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_that_is_named_is_read_by_somebody(name):
    from xnemo_platform.settings import Settings

    ours = {f"XNEMO_{key.upper()}" for key in Settings.model_fields}
    elsewhere = {"PGHOST", "PGUSER", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}  # Postgres' and the bucket's clients
    said = [*(ROOT / "infra").rglob("*.yaml"), *(ROOT / "platform").rglob("*.py")]
    assert name in ours | elsewhere or any(re.search(rf"\b{name}\b", path.read_text()) for path in said), name


@pytest.mark.parametrize(("port", "service"), [(3000, "grafana"), (5000, "mlflow"), (8265, "ray-head")])
def test_the_doors_of_compose_are_where_the_runbook_says(port, service):
    assert f"http://127.0.0.1:{port}" in RUNBOOK
    assert f"127.0.0.1:{port}:{port}" in yaml.safe_load(COMPOSE)["services"][service]["ports"]


@pytest.mark.parametrize("words", [word for word in INLINE if word.startswith(("xnemo ", "kubectl "))])
def test_a_command_in_the_text_is_one_its_program_takes(words, capsys):
    first, *rest = [word for word in words.split() if word not in ("…", "ID")]
    if first == "kubectl":
        kubectl([first, *rest]) if rest[-1] != "pods" else None
        return
    from jobs import cli

    with pytest.raises(SystemExit):
        cli.main([rest[0], "--help"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in rest[1:]), words


def test_links_lead_somewhere():
    for page in (RUNBOOK, (ROOT / "docs/scale.md").read_text()):
        for link in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (ROOT / "docs" / link).exists(), link


def test_messages_that_send_to_the_runbook_name_a_heading():
    for path in [*(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        for heading in re.findall(r"docs/runbook\.md, ([A-Z][\w ]+?)[\").]", path.read_text()):
            assert re.search(rf"^##+ {heading}$", RUNBOOK, re.MULTILINE), f"{path}: {heading}"
