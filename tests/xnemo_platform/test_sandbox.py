"""Functions run in a limited child: whatever they do, the caller gets a typed outcome and lives on."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.xnemo_platform.deeds import (
    allocate,
    answer_with_code,
    echo,
    fail,
    fail_with_code,
    leave,
    loop,
    print_much,
    segfault,
    stop_itself,
    whoami,
    write_much,
)
from xnemo_platform.errors import PlatformError
from xnemo_platform.sandbox import Limits, Sandbox

QUICK = Limits(seconds=20.0, memory=1 << 30)


@pytest.fixture(scope="module")
def box():  # type: ignore[no-untyped-def]
    with Sandbox(QUICK) as sandbox:
        yield sandbox


def test_a_child_is_used_again(box: Sandbox) -> None:
    assert box.call(whoami).value == box.call(whoami).value != os.getpid()


def test_arrays_and_nested_data_come_back_unchanged(box: Sandbox) -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    answer = box.call(echo, {"frames": frames, "rows": [(1, 2.5, "a", b"b", None)]}).value
    np.testing.assert_array_equal(answer["frames"], frames)
    assert answer["rows"] == [(1, 2.5, "a", b"b", None)]


def test_an_exception_comes_back_by_name(box: Sandbox) -> None:
    outcome = box.call(fail)
    assert (outcome.kind, outcome.error, outcome.message) == ("error", "KeyError", "'what was asked for'")


def test_an_exception_keeps_its_code(box: Sandbox) -> None:
    assert box.call(fail_with_code).code == "too_large"


@pytest.mark.parametrize(
    ("function", "kind", "seconds"),
    [
        (segfault, "killed", 20.0),
        (leave, "killed", 20.0),
        (allocate, "memory", 20.0),
        (stop_itself, "timeout", 1.0),
        (loop, "timeout", 1.0),
    ],
)
def test_a_deadly_function_ends_typed_and_the_next_call_works(
    function: Callable[[], None], kind: str, seconds: float
) -> None:
    with Sandbox(Limits(seconds=seconds, memory=1 << 30)) as box:
        outcome = box.call(function)
        assert outcome.kind == kind, outcome
        assert outcome.seconds < seconds + 1
        box.limits = Limits(seconds=20.0)
        assert box.call(echo, 1).value == 1


def test_files_are_limited_in_size(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with Sandbox(Limits(seconds=5, file=1 << 20)) as box:
        assert box.call(write_much, str(tmp_path / "big")).kind != "ok"
        assert (tmp_path / "big").stat().st_size <= 1 << 20


def test_an_answer_that_carries_code_is_refused(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with Sandbox(QUICK) as box:
        assert box.call(answer_with_code).kind == "killed"
    assert not (tmp_path / "canary").exists()


def test_what_the_function_prints_does_not_disturb_the_answer(box: Sandbox) -> None:
    assert box.call(print_much).value == "done"


def test_a_function_without_a_name_is_refused(box: Sandbox) -> None:
    with pytest.raises(PlatformError, match="top of a module"):
        box.call(lambda: 1)


def test_closing_leaves_no_child() -> None:
    box = Sandbox(QUICK)
    box.call(echo, 1)
    pid = box.pid
    assert pid is not None
    box.close()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_child_ends_when_its_parent_is_killed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    parent = os.fork()
    if parent == 0:
        box = Sandbox(QUICK)
        box.call(echo, 1)
        (tmp_path / "pid").write_text(str(box.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{child}") or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
