"""Every command of the runbook and of the README's cluster section is run, or what it names is shown to exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
BLOCKS = re.findall(r"^```(sh[^\n]*)\n(.*?)^```", RUNBOOK, re.DOTALL | re.MULTILINE)
ELSEWHERE = {"sh docker", "sh kubernetes", "sh cloud"}
LINES = [(kind, line) for kind, block in BLOCKS for line in block.strip().splitlines() if kind in ELSEWHERE]


def test_every_block_is_run_by_a_test_or_checked_here():
    assert {kind for kind, _ in BLOCKS} == ELSEWHERE | {"sh", "sh backup"}
    assert not re.findall(r"^```(?!sh)\w+", RUNBOOK, re.MULTILINE)
    story = (ROOT / "tests/infra/test_cluster.py").read_text() + (ROOT / "tests/infra/test_mlflow.py").read_text()
    assert "runbook.md" in story


@pytest.mark.parametrize(("kind", "line"), LINES, ids=[line[:60] for _, line in LINES])
def test_what_a_command_names_is_there(kind, line):
    words = shlex.split(line.split(" | ")[0])
    for word in words:
        if word.startswith("infra/"):
            assert (ROOT / word).exists(), word
    if words[0] == "infra/secrets.sh":
        assert (ROOT / words[0]).stat().st_mode & 0o111
    if words[0] == "kubectl":
        plain = [word for word in words[1:] if word not in ("-n", "xnemo")]
        assert plain[0] in {"create", "apply", "wait", "get", "port-forward"}, line
        for kind_of, name in re.findall(r"(raycluster|rayjob|service)[/ ]([\w-]+)", line):
            assert (kind_of, name.removesuffix("-head-svc")) in objects(), line
    if words[0] == "ray":
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


def test_links_lead_somewhere():
    for page in (RUNBOOK, (ROOT / "docs/scale.md").read_text()):
        for link in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (ROOT / "docs" / link).exists(), link


def test_messages_that_send_to_the_runbook_name_a_heading():
    for path in [*(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        for heading in re.findall(r"docs/runbook\.md, ([A-Z][\w ]+?)[\").]", path.read_text()):
            assert re.search(rf"^##+ {heading}$", RUNBOOK, re.MULTILINE), f"{path}: {heading}"
