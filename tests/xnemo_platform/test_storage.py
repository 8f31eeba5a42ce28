"""Published files are whole or absent, on every store; names from outside stay below their folder."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from xnemo_platform import storage
from xnemo_platform.errors import PlatformError


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "data")
    return f"memory://{tmp_path.name}"


def test_what_is_published_is_read_back(root: str) -> None:
    uri = storage.join(root, "a/b.bin")
    storage.publish_bytes(uri, b"one")
    storage.publish_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.list_files(root) == ["a/b.bin"]


def test_a_file_is_published_like_bytes(root: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    storage.publish_file(storage.join(root, "copy"), tmp_path / "source")
    assert storage.read_bytes(storage.join(root, "copy")) == b"content"


def test_what_is_not_there_is_told_by_its_uri(root: str) -> None:
    assert not storage.exists(storage.join(root, "nothing"))
    assert storage.list_files(storage.join(root, "nothing")) == []
    with pytest.raises(PlatformError, match="nothing"):
        storage.read_bytes(storage.join(root, "nothing"))


def test_many_small_files_are_read_at_once_and_come_in_order(root: str) -> None:
    names = [f"{number}.json" for number in range(40)]
    for name in names:
        storage.publish_bytes(storage.join(root, name), name.encode())
    assert list(storage.read_many(root, names[::-1])) == [name.encode() for name in names[::-1]]
    with pytest.raises(PlatformError, match="nothing"):
        list(storage.read_many(root, ["0.json", "nothing"]))


def test_more_bytes_than_expected_are_not_read(root: str) -> None:
    storage.publish_bytes(storage.join(root, "big"), bytes(101))
    assert len(storage.read_bytes(storage.join(root, "big"), limit=101)) == 101
    with pytest.raises(PlatformError, match="longer than 100"):
        storage.read_bytes(storage.join(root, "big"), limit=100)


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(PlatformError, match="ftq"):
        storage.filesystem("ftq://somewhere/x")


PUBLISH = "import sys; from xnemo_platform import storage; storage.publish_bytes(sys.argv[1], b'new' * 9)"


@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_killed_between_write_and_rename_the_old_file_stands(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    die = f"import os; {moment} = lambda *a: os._exit(9); {PUBLISH}"
    assert subprocess.run([sys.executable, "-c", die, str(target)]).returncode == 9
    assert target.read_bytes() == b"old"
    assert storage.list_files(tmp_path) == ["file"]  # the half-written one is no reader's business


def test_a_full_disk_is_told_with_its_path_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError, match=r"shard.*No space left.*MiB free"):
        storage.publish_bytes(tmp_path / "new" / "shard", b"data")
    assert list((tmp_path / "new").iterdir()) == []


class Flaky(MemoryFileSystem):
    """A store that fails the first two times it is asked."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012  # as its parent has it
    failures = 0

    def pipe_file(self, *args: object, **kwargs: object) -> object:
        if Flaky.failures > 0:
            Flaky.failures -= 1
            raise OSError("503 Slow Down")
        return super().pipe_file(*args, **kwargs)


fsspec.register_implementation("flaky", Flaky, clobber=True)


def test_a_store_that_fails_now_and_then_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    Flaky.failures = 2
    storage.publish_bytes("flaky://bucket/x", b"data")
    assert storage.read_bytes("flaky://bucket/x") == b"data"
    assert len(waits) == 2


def test_a_store_that_stays_down_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    Flaky.failures = 100
    with pytest.raises(PlatformError, match="503 Slow Down"):
        storage.publish_bytes("flaky://bucket/y", b"data")
    Flaky.failures = 0


def test_a_lock_is_held_by_one_at_a_time(root: str) -> None:
    uri, inside, most = storage.join(root, ".lock"), [0], [0]

    def work() -> None:
        for _ in range(5):
            with storage.lock(uri):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_lock_that_is_held_is_refused_with_the_given_sentence(root: str) -> None:
    uri = storage.join(root, ".lock")
    with (
        storage.lock(uri),
        pytest.raises(PlatformError, match="come back later"),
        storage.lock(uri, wait_s=0, busy="come back later"),
    ):
        pass


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    hold = f"import os; from xnemo_platform import storage\nwith storage.lock({str(tmp_path / '.lock')!r}): os._exit(0)"
    subprocess.run([sys.executable, "-c", hold], check=True)
    with storage.lock(tmp_path / ".lock", wait_s=0):
        pass


def test_a_lapsed_lease_is_taken_over_and_not_released_by_its_old_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "memory://leases/.lock"
    with storage.lock(uri):
        monkeypatch.setattr(storage, "_LEASE_S", -1.0)
        with storage.lock(uri, wait_s=5):
            mine = storage.read_bytes(uri)
            storage._acquire(uri)  # a third one finds it lapsed as well; put ours back
            storage.publish_bytes(uri, mine)
    assert not storage.exists(uri)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "a/",
        "s3://other/x",
        "file:///x",
        "C:\\x",
        "a\\b",
        "a\0b",
        "a\nb",
        "~root/x",
        "x" * 300,
        "a/" * 600 + "b",
        "e\u0301.parquet",
        "\ud800",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlatformError, match="not allowed"):
        storage.safe_join(tmp_path, name)


def test_a_symbolic_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    with pytest.raises(PlatformError, match="symbolic link"):
        storage.safe_join(tmp_path / "data", "link/secret")


def test_plain_names_are_joined() -> None:
    assert (
        storage.safe_join("s3://bucket/data", "shards/train-0a.parquet") == "s3://bucket/data/shards/train-0a.parquet"
    )


@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "a", "", "/", "\\", "~", "%2e"])).map("/".join))
def test_whatever_the_name_the_result_lies_below_the_root(name: str) -> None:
    try:
        joined = storage.safe_join("/srv/data", name)
    except PlatformError:
        return
    assert Path(os.path.normpath(joined)).is_relative_to("/srv/data")
    assert os.path.normpath(joined) == joined != "/srv/data"


def test_a_file_is_fetched_read_in_part_and_removed(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "folder", "a.bin")
    storage.publish_bytes(uri, b"0123456789")
    assert storage.size(uri) == 10
    assert storage.read_part(uri, 2, 5) == b"234"
    assert storage.fetch_file(uri, tmp_path / "copies" / "a").read_bytes() == b"0123456789"
    storage.remove(storage.join(root, "folder"))
    assert not storage.exists(uri)
    storage.remove(storage.join(root, "folder"))
