"""What travels to a cluster with a job: the code, and the config files its arguments name. Never data, never secrets.

The folder of a job is built, not filtered: a file that is not named here stays at home, whatever `.gitignore` says.
"""

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xnemo_platform.confidential import names_secret, secret_in
from xnemo_platform.errors import PlatformError

_HERE = Path(__file__).resolve().parent
CHECKOUT = _HERE.parent.name == "platform"  # else this is an installed package, as in the image
ROOT = _HERE.parents[1] if CHECKOUT else _HERE.parent
CODE = ("xnemo", "platform" if CHECKOUT else "xnemo_platform", "pipelines", "jobs")
CONFIG_SUFFIXES = (".yaml", ".yml", ".toml", ".json")
LARGEST_CONFIG = 1 << 20
LARGEST = 100 << 20  # Ray warns at 256 MiB and refuses 512


def refuse_secrets(arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Raise PlatformError if an argument or a variable is a secret: both can be read by everyone."""
    for name, value in env.items():
        if names_secret(name) or secret_in(value):
            raise PlatformError(f"{name}: a job's environment can be read by everyone; mount secrets on the nodes.")
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        kind = "a secret" if equals and value and names_secret(name) else secret_in(argument)
        if kind:
            raise PlatformError(
                f"argument {name.split('://')[0]!r} holds {kind}, and a job's command can be read by everyone; "
                "mount secrets on the nodes."
            )


@contextlib.contextmanager
def packed(arguments: Sequence[str], local: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entry point and runtime environment of `python -m <arguments>`.

    On this machine the job runs this very checkout. For another one there is a folder with the code and the
    named configs for the length of the block.
    """
    if local:
        paths = [str(ROOT), str(ROOT / "platform")]
        yield shlex.join([sys.executable, "-m", *arguments]), {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        return
    with tempfile.TemporaryDirectory(prefix="xnemo-job-") as folder:
        for part in CODE:
            shutil.copytree(ROOT / part, Path(folder, part), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        carried = [_carried(argument, Path(folder)) for argument in arguments]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        if size > LARGEST:
            raise PlatformError(
                f"{size >> 20} MiB of code would travel with the job, more than {LARGEST >> 20}: something large "
                f"lies under {', '.join(CODE)} in {ROOT}; move data out of there."
            )
        yield shlex.join(["python", "-m", *carried]), {"working_dir": folder, "env_vars": {"PYTHONPATH": "platform"}}


def _carried(argument: str, folder: Path) -> str:
    """A config file of this machine goes along, and the argument (or the value of `key=file`) names the copy."""
    key, equals, value = argument.rpartition("=")
    path = Path(value)
    if path.suffix not in CONFIG_SUFFIXES or not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
        return argument
    if kind := secret_in(path.read_text(errors="replace")):
        raise PlatformError(f"{path} holds {kind} and would travel with the job; mount secrets on the nodes.")
    target = folder / "submitted" / path.name
    if target.exists() and target.read_bytes() != path.read_bytes():
        raise PlatformError(f"{value}: another config file of that name is submitted too; rename one.")
    target.parent.mkdir(exist_ok=True)
    shutil.copy(path, target)
    return f"{key}{equals}{target.relative_to(folder)}"
