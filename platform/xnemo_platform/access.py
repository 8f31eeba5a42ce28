"""Who may use a service, how much, and what each did: bearer keys, rates, an audit log, in the job store's database.

A key is shown once, when it is made; only its sha256 is kept. That is enough for 256 random bits: there is nothing
to guess, so a slow hash would only slow every request down.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from xnemo_platform.database import Database
from xnemo_platform.errors import PlatformError

MARK = "xnemo"
ID = re.compile("[0-9a-f]{12}")
MINUTE_S, DAY_S = 60.0, 86400.0
ADMIT = 7302  # the turn that admissions take
_META = sa.MetaData()
_KEYS = sa.Table(
    "keys",
    _META,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, unique=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("per_minute", sa.Integer),
    sa.Column("per_day", sa.Integer),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
)
_AUDIT = sa.Table(
    "audit",
    _META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("owner", sa.String(32), nullable=False, index=True),
    sa.Column("client", sa.String(100), nullable=False),
    sa.Column("action", sa.String(100), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("job", sa.String(32)),
    sa.Column("facts", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class Key:
    """A key without its secret. per_minute, per_day: how many works it may ask for; None: the service's own bound."""

    id: str
    name: str
    per_minute: int | None
    per_day: int | None
    created: float
    revoked: float | None


class Access:
    """Keys and audit behind one URL. Safe to use from many threads and processes at once."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._database = clock, Database(url, _META)

    def make(self, name: str, per_minute: int | None = None, per_day: int | None = None) -> str:
        """A new key for somebody; the answer is the only time that it is seen whole."""
        if not name or len(name) > 100 or not name.isprintable():
            raise PlatformError(f"a key cannot be called {name[:100]!r}: give 1 to 100 printable characters.")
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        row = {"id": key_id, "name": name, "sha256": _digest(secret), "per_minute": per_minute, "per_day": per_day,
               "created": self._clock()}  # fmt: skip
        try:
            with self._database.begin() as connection:
                connection.execute(sa.insert(_KEYS).values(**row))
        except sa.exc.IntegrityError:
            raise PlatformError(f"there is a key called {name!r} already: revoke it, or choose another name.") from None
        return f"{MARK}_{key_id}_{secret}"

    def revoke(self, name: str) -> None:
        """From now on the key opens nothing; what it made stays."""
        renamed = {"revoked": self._clock(), "name": sa.func.substr(_KEYS.c.name, 1, 80) + " (" + _KEYS.c.id + ")"}
        with self._database.begin() as connection:
            live = sa.and_(_KEYS.c.name == name, _KEYS.c.revoked.is_(None))
            if not connection.execute(sa.update(_KEYS).where(live).values(**renamed)).rowcount:
                raise PlatformError(f"there is no key called {name!r}.")

    def all_keys(self) -> list[Key]:
        """Every key, the revoked ones too, oldest first."""
        columns = [_KEYS.c[name] for name in Key.__dataclass_fields__]
        with self._database.begin() as connection:
            return [Key(**row._mapping) for row in connection.execute(sa.select(*columns).order_by(_KEYS.c.created))]

    def whose(self, token: str) -> Key | None:
        """The key that a token is, unless it is unknown or revoked."""
        mark, _, rest = token.partition("_")
        key_id, _, secret = rest.partition("_")
        sought = key_id if ID.fullmatch(key_id) else ""
        with self._database.begin() as connection:
            row = connection.execute(sa.select(_KEYS).where(_KEYS.c.id == sought)).mappings().one_or_none()
        stored = row["sha256"] if row else _digest("")  # compared in any case, in constant time
        same = hmac.compare_digest(stored, _digest(secret))
        if mark != MARK or row is None or not same or row["revoked"] is not None:
            return None
        return Key(**{name: row[name] for name in Key.__dataclass_fields__})

    def admit(
        self, owner: str, client: str, action: str, per_minute: int | None = None, per_day: int | None = None
    ) -> tuple[int, float]:
        """Enter a line into the audit log; its number, and the seconds until the owner may do this (0: now).

        What was refused for coming too early does not count. One at a time, so that no burst slips through.
        """
        now, wait = self._clock(), 0.0
        row = {"at": now, "owner": owner, "client": client[:100], "action": action[:100], "status": 0, "facts": {}}
        with self._database.begin(alone=ADMIT) as connection:
            line = connection.execute(sa.insert(_AUDIT).values(**row).returning(_AUDIT.c.id)).scalar_one()
            for limit, span in ((per_minute, MINUTE_S), (per_day, DAY_S)):
                asked = sa.and_(_AUDIT.c.owner == owner, _AUDIT.c.at > now - span, _AUDIT.c.action.like("POST %"),
                                _AUDIT.c.status != 429, _AUDIT.c.id < line)  # fmt: skip
                in_the_way = sa.select(_AUDIT.c.at).where(asked).order_by(_AUDIT.c.id.desc()).offset((limit or 1) - 1)
                if limit is not None and (at := connection.execute(in_the_way.limit(1)).scalar()) is not None:
                    wait = max(wait, at + span - now)
            if wait:
                connection.execute(sa.update(_AUDIT).where(_AUDIT.c.id == line).values(status=429))
        return line, wait

    def settle(self, line: int, status: int, job: str | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Complete a line: the HTTP status, the job that came of it, and facts such as digests of what was sent."""
        values = {"status": status, "job": job, "facts": dict(facts or {})}
        with self._database.begin() as connection:
            connection.execute(sa.update(_AUDIT).where(_AUDIT.c.id == line).values(**values))

    def audit(self) -> Iterator[dict[str, Any]]:
        """The audit log, oldest first: at (Unix seconds), owner (id of the key), client, action, status, job, facts."""
        with self._database.begin() as connection:
            rows = connection.execute(sa.select(_AUDIT).order_by(_AUDIT.c.id)).mappings().all()
        yield from (dict(row) for row in rows)

    def forget_before(self, moment: float) -> None:
        """Drop the audit lines from before a moment."""
        with self._database.begin() as connection:
            connection.execute(sa.delete(_AUDIT).where(_AUDIT.c.at < moment))

    def close(self) -> None:
        self._database.close()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
