"""Keys open what they should and nothing else; rates bound; the log tells who did what."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xnemo_platform.conftest import Clock
from xnemo_platform.access import Access
from xnemo_platform.errors import PlatformError


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    return Access(f"sqlite:///{tmp_path / 'a.db'}", clock=clock)


def test_a_key_is_known_by_its_token_and_kept_as_a_hash_only(access: Access, tmp_path: Path) -> None:
    token = access.make("ada", per_minute=3)
    key = access.whose(token)
    assert key
    assert (key.name, key.per_minute) == ("ada", 3)
    secret = token.split("_", 2)[2]
    dump = "\n".join(sqlite3.connect(tmp_path / "a.db").iterdump())
    assert "ada" in dump
    assert secret not in dump


def test_a_revoked_key_opens_nothing_and_its_name_is_free_again(access: Access) -> None:
    old = access.make("ada")
    access.revoke("ada")
    assert access.whose(old) is None
    assert access.whose(access.make("ada"))
    with pytest.raises(PlatformError, match="no key called"):
        access.revoke("bob")


def test_a_name_is_taken_once(access: Access) -> None:
    access.make("ada")
    with pytest.raises(PlatformError, match="already"):
        access.make("ada")
    with pytest.raises(PlatformError, match="printable"):
        access.make("a\nb")


def test_nothing_but_the_token_itself_opens(tmp_path_factory: pytest.TempPathFactory) -> None:
    access = Access(f"sqlite:///{tmp_path_factory.mktemp('k') / 'a.db'}")
    token = access.make("ada")

    endings, beginnings = st.text().map(lambda end: token[:19] + end), st.integers(0, 60).map(lambda n: token[:n])

    @given(st.one_of(st.text(), endings, beginnings))
    def refused(wrong: str) -> None:
        assert wrong == token or access.whose(wrong) is None

    refused()


def ask(access: Access, owner: str = "a", status: int = 202) -> float:
    line, wait = access.admit(owner, "10.0.0.1", "POST /v1/animations", per_minute=2, per_day=3)
    access.settle(line, 429 if wait else status)
    return wait


def test_the_rate_counts_a_minute_and_a_day_and_refusals_do_not_lengthen_it(access: Access, clock: Clock) -> None:
    for _ in range(2):
        assert ask(access) == 0
        clock.now += 10
    assert ask(access) == pytest.approx(40)
    assert ask(access) == pytest.approx(40)
    assert ask(access, "b") == 0
    clock.now += 60
    assert ask(access) == 0
    assert ask(access) == pytest.approx(86400 - 80)


def test_a_burst_does_not_slip_through_the_rate(access: Access) -> None:
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: ask(access), range(20)))
    assert waits.count(0) == 2


def test_the_log_tells_who_did_what_until_it_is_forgotten(access: Access, clock: Clock) -> None:
    line, _ = access.admit("a", "10.0.0.1", "POST /v1/animations")
    access.settle(line, 202, "j" * 32, {"portrait": "abc"})
    clock.now += 10
    access.admit("b", "10.0.0.2", "DELETE /v1/animations/{id}")
    assert [(line["owner"], line["status"], line["facts"]) for line in access.audit()] == [
        ("a", 202, {"portrait": "abc"}),
        ("b", 0, {}),
    ]
    access.forget_before(1005)
    assert [line["owner"] for line in access.audit()] == ["b"]
