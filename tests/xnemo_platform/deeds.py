"""What functions do in the sandbox's child. Imports little, since the child imports it within its time limit."""

import ctypes
import os
import signal


def whoami() -> int:
    return os.getpid()


def echo(value: object) -> object:
    return value


def fail() -> None:
    raise KeyError("what was asked for")


class CodedError(ValueError):
    code = "too_large"


def fail_with_code() -> None:
    raise CodedError("far too large")


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def loop() -> None:
    while True:
        pass


def allocate() -> int:
    return len(bytearray(8 << 30))


def allocate_much() -> int:
    return len(bytearray(64 << 30))


def leave_once(path: str) -> str:
    """Die if the file `path` is not there yet, and put it there."""
    if not os.path.exists(path):
        open(path, "x").close()
        os._exit(1)
    return "done"


def write_much(path: str) -> None:
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


def answer_with_code() -> Evil:
    return Evil()


def print_much() -> str:
    os.write(1, b"noise from a decoder\n" * 1000)
    return "done"
