"""Run a function where it can do no harm: in a child process with limits on time, memory, CPU and file size.

Decoders of hostile files crash, hang and eat memory. The child is started once and used for many calls, since
importing decoders is dear; after a crash, a timeout or a lack of memory the next call starts a new one.
Arguments travel as pickle; answers come back as plain data (numbers, text, bytes, lists, dicts, numpy arrays
of numbers), read by an unpickler that knows nothing else, so a child that was taken over cannot run code here.
"""

import importlib
import io
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal, Self

from xnemo_platform.errors import PlatformError

_ALLOWED = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "scalar"),
}
_STDERR_TAIL = 300
# Frames come and go by the hundred megabytes: keep their pages instead of asking the kernel for zeroed ones, which
# took a quarter of the processor time of decoding.
_KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
_HELLO, _START_S = b"ready", 60.0  # starting Python is not counted against a call


@dataclass(frozen=True)
class Limits:
    """What one call may use. seconds: wall clock; memory: address space of the child; file: size of a file it
    writes. CPU time is bounded by the wall clock times `cores`."""

    seconds: float = 120.0
    memory: int = 6 << 30
    file: int = 4 << 30
    cores: int = 2


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `ok`: `value` is the answer. `error`: the function raised; `error` is the exception's
    class, `code` its `code` attribute if it has one. `timeout`, `memory`, `killed`: it had to be stopped."""

    kind: Literal["ok", "error", "timeout", "memory", "killed"]
    value: Any = None
    error: str = ""
    code: str = ""
    message: str = ""
    seconds: float = 0.0


class Sandbox:
    """One child, one call at a time (calls from several threads wait for each other)."""

    def __init__(self, limits: Limits = Limits()):  # frozen
        self.limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._turn = threading.Lock()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Run `function(*args, **kwargs)`, which must be importable by name. Never raises for what the
        function does; raises PlatformError if it cannot be named or no child can be started."""
        name = f"{function.__module__}:{function.__qualname__}"
        if "<" in name or function.__module__ == "__main__":
            raise PlatformError(f"{name} cannot run in a child process: define it at the top of a module")
        with self._turn:
            child = self._ready()
            started = time.monotonic()
            message = pickle.dumps((name, args, kwargs, self.limits))
            answer = self._exchange(child, message, started + self.limits.seconds)
            seconds = time.monotonic() - started
            if isinstance(answer, str):  # it gave no answer; this says why
                outcome = self._bury(answer, seconds)
            else:
                outcome = Outcome(**answer, seconds=seconds)
                if outcome.kind == "memory":
                    self._end()
            return outcome

    def close(self) -> None:
        """End the child. A later call starts another."""
        with self._turn:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._end()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the child
        # PYTHONPATH as this process sees it: a Ray worker's comes from its runtime environment
        env = os.environ | _KEEP_PAGES | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=env,
                start_new_session=True,
            )
            assert self._child.stdout is not None
            self._read(self._child.stdout, len(_HELLO), time.monotonic() + _START_S)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            words = self._last_words()
            self._end()
            raise PlatformError(f"no child process can be started: {error} {words}") from error
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], message: bytes, deadline: float) -> dict[str, Any] | str:
        """Send, wait, receive. The answer, or "timeout" / "killed" / "forged"."""
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(len(message).to_bytes(8, "little") + message)
            child.stdin.flush()
            length = int.from_bytes(self._read(child.stdout, 8, deadline), "little")
            if length > self.limits.memory:
                return "forged"
            answer = _Plain(io.BytesIO(self._read(child.stdout, length, deadline))).load()
            return answer if isinstance(answer, dict) else "forged"
        except TimeoutError:
            return "timeout"
        except (EOFError, BrokenPipeError):
            return "killed"
        except Exception:  # whatever the unpickler makes of bytes that are no answer
            return "forged"

    @staticmethod
    def _read(stream: IO[bytes], length: int, deadline: float) -> bytearray:
        data = bytearray()
        while len(data) < length:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(stream.fileno(), min(1 << 20, length - len(data)))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def _bury(self, why: str, seconds: float) -> Outcome:
        """Make sure the child is gone and say what happened to it."""
        child = self._child
        assert child is not None
        if why == "timeout":
            self._end()
            return Outcome("timeout", message=f"stopped after {seconds:.0f} s", seconds=seconds)
        if why == "forged":
            self._end()
            return Outcome("killed", message="its answer was not plain data", seconds=seconds)
        code = child.wait(timeout=10)
        tail = self._last_words()
        self._end()
        if code == -signal.SIGXCPU or code == -signal.SIGALRM:
            return Outcome("timeout", message="used up its processor time", seconds=seconds)
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        kind: Literal["memory", "killed"] = "memory" if "bad_alloc" in tail or "MemoryError" in tail else "killed"
        return Outcome(kind, message=f"the process died ({cause}) {tail}".strip(), seconds=seconds)

    def _last_words(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_TAIL))
        return " ".join(self._stderr.read().decode(errors="replace").split())

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def __del__(self) -> None:
        self._end()


class _Plain(pickle.Unpickler):
    """Reads numbers, text, bytes, lists, dicts and numpy arrays of them, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain data")
        return super().find_class(module, name)


def _serve() -> None:
    """The child: read a call, run it under its limits, write the outcome; until the parent closes the pipe."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(2, 1)  # what decoders print must not end up between the answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers.write(_HELLO)
    answers.flush()
    while True:
        head = requests.read(8)
        if len(head) < 8:
            return
        name, args, kwargs, limits = pickle.loads(requests.read(int.from_bytes(head, "little")))
        _restrict(limits)
        answer = _run(name, args, kwargs)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            data = pickle.dumps(answer, protocol=5)
        except Exception as error:
            data = pickle.dumps({"kind": "error", "error": type(error).__name__, "message": str(error)})
        answers.write(len(data).to_bytes(8, "little") + data)
        answers.flush()


def _restrict(limits: Limits) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime + limits.seconds * limits.cores) + 1
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CPU, cpu),
    ):
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    # Should the parent die meanwhile, the kernel still ends a call that hangs in native code.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds + 5)
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)


def _run(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    try:
        module, path = name.split(":")
        function: Any = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
        return {"kind": "ok", "value": function(*args, **kwargs)}
    except MemoryError:
        return {"kind": "memory", "message": "needs more memory than it may use"}
    except Exception as error:
        return {
            "kind": "error",
            "error": type(error).__name__,
            "code": str(getattr(error, "code", "")),
            "message": str(error),
        }


if __name__ == "__main__":
    _serve()
