"""Small durable tables behind one URL: sqlite in a file, or Postgres for several machines.

What a database says when it cannot be reached becomes `StoreAway`, which callers may wait out; passwords in a URL
are never shown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from xnemo_platform.errors import PlatformError

CONNECT_S = 5


class StoreAway(PlatformError):
    """The database does not answer; it may be back in a moment."""


class Database:
    """Connections to one URL, with `tables` made if they are not there. Safe to use from many threads."""

    def __init__(self, url: str, tables: sa.MetaData) -> None:
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise PlatformError("the job store's URL cannot be read; write sqlite:///<file> or "
                                "postgresql://<user>@<host>/<database>.") from None  # fmt: skip
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.shown = parsed.render_as_string(hide_password=True)
        self.sqlite = parsed.drivername.startswith("sqlite")
        if self.sqlite:
            self._engine = sa.create_engine(parsed, connect_args={"timeout": 30})
            sa.event.listen(self._engine, "connect", _sqlite_pragmas)
        else:
            timeouts = {"connect_timeout": CONNECT_S, "options": "-c statement_timeout=20000"}
            self._engine = sa.create_engine(parsed, connect_args=timeouts, pool_pre_ping=True)
        self._make(tables)

    @contextmanager
    def begin(self, alone: int | None = None) -> Iterator[sa.Connection]:
        """A transaction. `alone`: of those that give the same number, one runs at a time (sqlite has one writer
        anyhow). Raises StoreAway."""
        try:
            with self._engine.begin() as connection:
                if alone is not None and not self.sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(alone)))
                yield connection
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            cause = getattr(error, "orig", None) or type(error).__name__
            raise StoreAway(f"the job store does not answer ({str(cause).splitlines()[0]}).") from None

    def close(self) -> None:
        self._engine.dispose()

    def _make(self, tables: sa.MetaData) -> None:
        for last in (False, True):  # two processes may make them at once, and one of them then fails
            try:
                tables.create_all(self._engine)
                return
            except sa.exc.OperationalError as error:
                cause = str(error.orig).splitlines()[0]
                raise PlatformError(f"job store {self.shown}: cannot be opened ({cause}); check the URL.") from None
            except sa.exc.DBAPIError:
                if last:
                    raise


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
