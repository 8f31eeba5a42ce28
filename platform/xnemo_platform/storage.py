"""Files by URI: a local path, or anything fsspec speaks (`s3://`, `gs://`, `memory://`, ...).

What is published is there whole or not at all: locally by write, fsync, rename; elsewhere by one put. Other
stores are asked again a few times, since they fail now and then; errors are told with the URI.
"""

import contextlib
import fcntl
import os
import random
import re
import shutil
import stat
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from xnemo_platform.errors import PlatformError

T = TypeVar("T")
_ATTEMPTS = 4
LINKED_FOLDER = "@link"  # how `walk` marks a link to a folder
_LEASE_S = 120.0  # a lock object older than this belongs to nobody


def filesystem(uri: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind a URI and the path in it. Raises PlatformError for an unknown scheme."""
    try:
        fs, path = fsspec.url_to_fs(str(uri))
    except (ValueError, ImportError) as error:
        raise PlatformError(
            f"{uri}: no such kind of storage ({error}); install its fsspec package or mend the address"
        ) from error
    return fs, path


def is_local(uri: str | Path) -> bool:
    """Whether the URI names a file of this machine."""
    return "://" not in str(uri) or str(uri).startswith(("file://", "local://"))


def join(uri: str | Path, *names: str) -> str:
    """The URI of something below `uri`; `names` are ours (see `safe_join` for names from outside)."""
    return "/".join([str(uri).rstrip("/") or "/", *names])


def read_bytes(uri: str | Path, limit: int | None = None) -> bytes:
    """The whole file. Raises PlatformError if it is missing, unreachable or longer than `limit` bytes."""
    fs, path = filesystem(uri)

    def read() -> bytes:
        with fs.open(path, "rb") as file:
            return file.read() if limit is None else file.read(limit + 1)

    data = _try(read, uri)
    if limit is not None and len(data) > limit:
        raise PlatformError(f"{uri} is longer than {limit} bytes: it is not what it should be")
    return data


def read_many(folder: str | Path, names: Sequence[str], at_once: int = 32) -> Iterator[bytes]:
    """The small files of these names below a folder, in this order. A bucket answers one question in tens of
    milliseconds and many in the same time, so `at_once` are asked."""
    with ThreadPoolExecutor(at_once, thread_name_prefix="read") as pool:
        for start in range(0, len(names), 1000):  # what waits to be taken stays bounded
            yield from pool.map(lambda name: read_bytes(join(folder, name)), names[start : start + 1000])


def exists(uri: str | Path) -> bool:
    """Whether there is a file or folder."""
    fs, path = filesystem(uri)
    return bool(_try(lambda: fs.exists(path), uri))


def list_files(uri: str | Path) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; [] if there is no such folder. Names that
    begin with a dot (half-written files, locks) are left out."""
    fs, path = filesystem(uri)
    root = path.rstrip("/") + "/"
    fs.invalidate_cache()
    found = _try(lambda: fs.find(path) if fs.exists(path) else [], uri)
    names = (name[len(root) :] for name in found if name.startswith(root))
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def walk(uri: str | Path, whole: Callable[[str], bool] = lambda name: False) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, in no order and one by one, so that memory does not grow
    with their number. Names that begin with a dot are left out.

    whole: a folder whose name it accepts is one entry, ending in "/", and is not looked into. A linked folder is
    never followed: it is an entry that ends in LINKED_FOLDER. Raises PlatformError if a folder cannot be listed.
    """
    fs, root = filesystem(uri)
    fs.invalidate_cache()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        listed = _scan(root, folder) if is_local(uri) else _ls(fs, root, folder, uri)
        for name, kind in listed:
            if name.startswith("."):
                continue
            path = f"{folder}{name}"
            if kind == "folder" and not whole(name):
                waiting.append(f"{path}/")
            else:
                yield path + {"folder": "/", "link": LINKED_FOLDER}.get(kind, "")


def _scan(root: str, folder: str) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, "folder"
                else:
                    yield entry.name, "link" if entry.is_symlink() and os.path.isdir(entry.path) else "file"
    except FileNotFoundError:
        return
    except OSError as error:
        raise PlatformError(f"{os.path.join(root, folder)} cannot be listed: {error.strerror}") from error


def _ls(fs: Any, root: str, folder: str, uri: str | Path) -> Iterator[tuple[str, str]]:
    place = f"{root.rstrip('/')}/{folder}".rstrip("/")
    for entry in _try(lambda: fs.ls(place, detail=True) if fs.exists(place) else [], uri):
        name = entry["name"].rstrip("/")
        if name != place:  # some stores list a folder in itself
            yield name.rpartition("/")[2], "folder" if entry["type"] == "directory" else "file"


def sizes(uri: str | Path) -> dict[str, int]:
    """Bytes of each file below a folder, by relative path."""
    fs, path = filesystem(uri)
    root = path.rstrip("/") + "/"
    found = _try(lambda: fs.find(path, detail=True), uri)
    return {name[len(root) :]: int(entry["size"] or 0) for name, entry in found.items() if name.startswith(root)}


def leads_out(uri: str, root: str) -> bool:
    """Whether a local path, its links resolved, lies outside `root`."""
    if not is_local(uri):
        return False
    inside = os.path.realpath(filesystem(root)[1])
    return os.path.commonpath([inside, os.path.realpath(filesystem(uri)[1])]) != inside


def is_special(uri: str) -> bool:
    """Whether a local path is neither file nor folder: a pipe, a socket or a device, which may block or never end."""
    if not is_local(uri):
        return False
    with contextlib.suppress(OSError):  # what is not there is told where it is read
        mode = os.stat(filesystem(uri)[1]).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def publish_bytes(uri: str | Path, data: bytes) -> None:
    """Put `data` under `uri`, replacing what is there, whole or not at all. Raises PlatformError (disk full,
    no access); nothing torn is left behind."""
    fs, path = filesystem(uri)
    if not is_local(uri):
        _try(lambda: fs.pipe_file(path, data), uri)
        return
    with _partial(Path(path)) as (partial, file):
        file.write(data)
        _settle(partial, file, Path(path))


def publish_file(uri: str | Path, source: str | Path) -> None:
    """Put a copy of a local file under `uri`; as `publish_bytes`, without holding it in memory."""
    fs, path = filesystem(uri)
    if not is_local(uri):
        _try(lambda: fs.put_file(str(source), path), uri)
        return
    with _partial(Path(path)) as (partial, file):
        with Path(source).open("rb") as data:
            shutil.copyfileobj(data, file, 1 << 20)
        _settle(partial, file, Path(path))


def written(uri: str | Path) -> tuple[float, int]:
    """When a file was last written (seconds since 1970; now, where the store does not say) and its bytes."""
    fs, path = filesystem(uri)
    facts = _try(lambda: fs.info(path), uri)
    when = facts.get("mtime") or facts.get("LastModified") or facts.get("created") or time.time()
    return float(when.timestamp() if hasattr(when, "timestamp") else when), int(facts.get("size") or 0)


def fetch_file(uri: str | Path, path: Path) -> Path:
    """A copy of the file at `uri` under a local path; raises PlatformError."""
    fs, source = filesystem(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    _try(lambda: fs.get_file(source, str(path)), uri)
    return path


def size(uri: str | Path) -> int:
    """Bytes of a file. Raises PlatformError if it is not there."""
    fs, path = filesystem(uri)
    return int(_try(lambda: fs.size(path), uri) or 0)


def read_part(uri: str | Path, start: int, end: int) -> bytes:
    """Bytes start … end - 1 of a file."""
    fs, path = filesystem(uri)
    return bytes(_try(lambda: fs.cat_file(path, start=start, end=end), uri))


def remove(uri: str | Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing there is no error."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()

    def drop() -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)

    _try(drop, uri)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[Path, Any]]:
    """A file beside `path` under a name no reader takes, removed whatever happens."""
    partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield partial, file
    except OSError as error:
        free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
        raise PlatformError(
            f"{path} cannot be written ({error.strerror or error}; {free >> 20} MiB free): make "
            "room or choose another place, then run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _settle(partial: Path, file: Any, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut may forget the name
    finally:
        os.close(folder)


@contextlib.contextmanager
def lock(uri: str | Path, *, wait_s: float = 30.0, busy: str = "it is in use by another process") -> Iterator[None]:
    """Hold an exclusive lock named by a file. Locally the kernel frees it when its holder dies; elsewhere it
    is a lease object that others take over after two minutes. Raises PlatformError with the sentence `busy`
    if it is not free within `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    release = _acquire(uri)
    while release is None:
        if time.monotonic() >= deadline:
            raise PlatformError(f"{uri}: {busy}")
        time.sleep(0.05 + 0.1 * random.random())
        release = _acquire(uri)
    try:
        yield
    finally:
        release()


def _acquire(uri: str | Path) -> Callable[[], None] | None:
    fs, path = filesystem(uri)
    if is_local(uri):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return lambda: os.close(handle)
    lease = f"{time.time()} {uuid.uuid4()}".encode()
    try:
        fs.pipe_file(path, lease, mode="create")
    except FileExistsError:
        with contextlib.suppress(OSError, ValueError):
            if time.time() - float(fs.cat_file(path).split()[0]) > _LEASE_S:
                fs.rm_file(path)
        return None

    def release() -> None:
        with contextlib.suppress(OSError):
            if fs.cat_file(path) == lease:  # else it lapsed, and is another's now
                fs.rm_file(path)

    return release


def safe_join(root: str | Path, name: str) -> str:
    """`root`/`name` for a name that came from outside (a manifest, a request).

    Raises PlatformError unless it names something below root: no absolute path, no `..`, no scheme, no
    backslash, no control character, composed Unicode, at most 255 bytes a part, and no symbolic link that
    leads out.
    """
    parts = name.split("/")
    bad = (
        not name
        or len(name.encode("utf-8", "surrogatepass")) > 1024
        or any(part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
        or re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff:*?\"<>|]", name) is not None
        or name.startswith("~")
        or unicodedata.normalize("NFC", name) != name
    )
    if bad:
        raise PlatformError(f"the name {name[:80]!r} is not allowed below {root}: give a plain relative path")
    if is_local(root):
        base = Path(filesystem(root)[1]).resolve()
        if not (base / name).resolve().is_relative_to(base):
            raise PlatformError(f"the name {name[:80]!r} leads out of {root} through a symbolic link")
    return join(root, name)


def _try(call: Callable[[], T], uri: str | Path) -> T:
    """Call; where the store is remote, again after 0.2, 0.4, 0.8 s (with jitter) on errors that may pass."""
    attempts = 1 if is_local(uri) else _ATTEMPTS
    for attempt in range(attempts):
        try:
            return call()
        except PermissionError as error:
            raise PlatformError(
                f"{uri}: no right to it ({error.strerror or error}); give this user or the nodes' role read, write "
                "and list there"
            ) from error
        except (FileNotFoundError, IsADirectoryError) as error:
            raise PlatformError(f"{uri} cannot be reached: {error.strerror or error or 'it is not there'}") from error
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith("botocore"):
                raise
            if type(error).__name__ == "NoCredentialsError":
                raise PlatformError(f"{uri}: this machine has no credentials for it (AWS_… or a role)") from error
            if attempt == attempts - 1:
                raise PlatformError(f"{uri} failed {attempts} time(s): {error}; try again later") from error
            time.sleep(0.2 * 2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")
