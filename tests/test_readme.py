"""The README tells the truth: its commands parse, its files exist, its packages are those declared."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make ([\w-]+)$", README, re.MULTILINE))))
def test_every_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_to_a_file(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"^([\w/]+/) {2,}", README, re.MULTILINE))))
def test_the_tree_is_the_tree_on_disk(path):
    assert (ROOT / path).is_dir()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"jobs/configs/[\w.-]+\.yaml", README))))
def test_every_config_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("words", sorted({text for text in re.findall(r"`(xnemo [^`]+)`", README) if "…" not in text}))
def test_every_command_is_one_the_parser_knows(words, capsys):
    command = shlex.split(words)[1:]
    assert command[0] in cli.COMMANDS
    with pytest.raises(SystemExit):
        cli.main([command[0], "--help"])
    shown = capsys.readouterr().out
    for word in command[1:]:
        if word.startswith("--"):
            assert word in shown or _sub_help(command, capsys).find(word) >= 0, word


def test_the_dependency_table_names_what_is_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=]", line)[0] for line in declared}
    table = README.split("## Dependencies")[1].split("##")[0]
    assert not {name for name in names if name not in table}


def _sub_help(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command[0], command[1], "--help"])
    return capsys.readouterr().out
