"""The tree keeps the promises that Ray workers and readers depend on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "xnemo": ROOT / "xnemo",
    "xnemo_platform": ROOT / "platform/xnemo_platform",
    "pipelines": ROOT / "pipelines",
}
PACKAGES["jobs"] = ROOT / "jobs"
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
LONGEST_FILE = 400


def test_platform_is_a_source_root_and_never_a_package():
    # With an __init__.py, `import platform` finds this folder: Ray workers hang silently, `import ray` dies.
    assert not (ROOT / "platform/__init__.py").exists()


def test_no_module_shadows_the_standard_library():
    roots = [ROOT, *PACKAGES.values(), ROOT / "tests", ROOT / "platform"]
    modules = {path for root in roots for path in root.glob("*.py") if path.stem != "__init__"}
    folders = {path for root in roots for path in root.iterdir() if path.is_dir() and path != ROOT / "platform"}
    names = {path.stem: path for path in modules | folders}
    # Inside a package a clash bites when a file of it is run as a script, which puts its folder first.
    assert not {name: str(path) for name, path in names.items() if name in sys.stdlib_module_names}


def test_the_standard_library_platform_module_wins_from_the_repository_root():
    code = "import platform; print(platform.system())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert found.stdout.strip() in {"Linux", "Darwin"}, found.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea_of_bounded_length(path):
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines: split it where the ideas part"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"


def test_importing_the_method_pulls_in_no_cluster_and_no_tracker():
    code = "import sys, xnemo; print(sorted({'ray', 'mlflow', 'deepspeed'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
