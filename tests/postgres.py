"""A real Postgres server for tests, out of the package pgserver, in a folder of its own on a port of its own."""

import importlib.util
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
    """`url` names its database, `env` is for clients such as psql; it can be stopped and started again."""

    def __init__(self, folder: Path, tools: Path, user: str | None, role: str, password: str) -> None:
        self.folder, self.tools, self.user = folder, tools, user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://{role}@127.0.0.1:{self.port}/postgres"
        self.env = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": role, "PGPASSWORD": password,
                    "PATH": f"{tools}:{os.environ['PATH']}"}  # fmt: skip

    def run(self, tool: str, *words: str) -> None:
        command = [self.tools / tool, "-D", self.folder / "data", *words]
        done = subprocess.run(
            command, user=self.user, cwd=self.folder, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert done.returncode == 0, f"{tool}: {done.stderr.decode()}"

    def start(self) -> None:
        options = f"{OPTIONS} -p {self.port} -k {self.folder}"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def postgres(folder: Path, role: str = "tester", password: str = "") -> Iterator[Postgres]:
    """A server with an empty database; whoever comes from this machine is let in, unless there is a password. The
    test is skipped where there is no Postgres and the package is not installed."""
    user = _other_user() if os.geteuid() == 0 else None  # Postgres refuses to be root
    folder.mkdir(parents=True)
    server = Postgres(folder, _tools(folder), user, role, password)
    (folder / "password").write_text(password)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    how = ["-A", "scram-sha-256", f"--pwfile={folder / 'password'}"] if password else ["-A", "trust"]
    server.run("initdb", "-U", role, *how, "--no-sync", "-E", "UTF8", "--locale", "C")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _tools(folder: Path) -> Path:
    """The package's programs, where the server's user can reach them; else those of this machine."""
    if found := importlib.util.find_spec("pgserver"):
        package = Path(str(found.origin)).parent
        if os.geteuid() == 0:  # the environment may lie where only root looks
            for part in (package, package.with_name("pgserver.libs")):
                shutil.copytree(part, folder / part.name)
            package = folder / package.name
        return package / "pginstall" / "bin"
    initdb = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if initdb is None:
        pytest.skip("no Postgres here: make setup, which installs the package pgserver")
    return Path(initdb).resolve().parent


def _other_user() -> str:
    known = {each.pw_name for each in pwd.getpwall()}
    if name := next((name for name in ("postgres", "nobody") if name in known), None):
        return name
    pytest.skip("Postgres does not run as root, and there is no user postgres or nobody")
