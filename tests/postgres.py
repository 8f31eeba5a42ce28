"""A real Postgres server for tests, in a folder of its own on a port of its own."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OPTIONS = "-c fsync=off -c listen_addresses=127.0.0.1 -c shared_buffers=16MB -c max_connections=60"


class Postgres:
    """`url` names its database; it can be stopped and started again."""

    def __init__(self, folder: Path, tools: Path, user: str | None) -> None:
        self.folder, self.tools, self.user = folder, tools, user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def run(self, tool: str, *words: str) -> None:
        command = [self.tools / tool, "-D", self.folder / "data", *words]
        subprocess.run(command, check=True, user=self.user, cwd=self.folder, timeout=60, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        options = f"{OPTIONS} -p {self.port} -k {self.folder}"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A server with an empty database; the test is skipped where Postgres is not installed."""
    found = shutil.which("postgres")
    if found is None:
        pytest.skip("no Postgres on this machine: install the package postgresql")
    user = None
    if os.geteuid() == 0:  # Postgres refuses to run as root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
    folder.mkdir(parents=True)
    if user:
        shutil.chown(folder, user)
    server = Postgres(folder, Path(found).resolve().parent, user)
    server.run("initdb", "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _exists(name: str) -> bool:
    try:
        return pwd.getpwnam(name).pw_name != getpass.getuser()
    except KeyError:
        return False
