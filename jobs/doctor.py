"""`xnemo doctor`: try what a run will need, on this machine or (--address) on a cluster, and say the mend.

Each check does the thing itself (encodes and decodes a video, opens the tracking store, asks the cluster)
rather than looking for a version number.
"""

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.cli import parser, run
from jobs.findings import Finding, show, verdict
from xnemo_platform.settings import Settings, settings

GIB = 2**30
NEEDED_DISK_GIB = 5
NEEDED_MEMORY_GIB = 6


def main(argv: Sequence[str]) -> int:
    examples = "  xnemo doctor\n  xnemo doctor --gpu\n  xnemo doctor --address http://head:8265 --gpu"
    options = parser("doctor", __doc__ or "", examples)
    options.add_argument("--gpu", action="store_true", help="fail, not warn, when no GPU is there")
    options.add_argument("--address", help="ask a cluster instead: every node of it, through its job server")
    options.add_argument("--nodes", action="store_true", help="inside a cluster's job: ask every node")
    arguments = options.parse_args(argv)
    if arguments.address:
        from jobs.doctor_cluster import from_outside

        return from_outside(arguments.address, arguments.gpu)
    if arguments.nodes:
        from jobs.doctor_cluster import from_inside

        findings = from_inside(settings(), arguments.gpu)
    else:
        findings = examine(settings(), gpu_needed=arguments.gpu)
    show(findings)
    return verdict(findings)


def examine(places: Settings, gpu_needed: bool = False) -> list[Finding]:
    """Run every check; one that breaks is a finding, never a traceback."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", python),
        ("compiler", compiler),
        ("layout", layout),
        ("disk", lambda: disk(places)),
        ("memory", memory),
        ("video", video),
        ("face model", faces),
        ("ray", lambda: ray(places)),
        ("mlflow", lambda: tracking(places)),
        ("gpu", lambda: gpu(gpu_needed)),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a doctor reports what it meets, whatever that is
        return Finding(name, "fail", f"{type(error).__name__}: {error}", "run `make setup` again")


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "fail", version, "use Python 3.11 or 3.12: make setup PYTHON=python3.11")
    return Finding("python", "ok", f"{version} at {sys.executable}")


def compiler() -> Finding:
    found = shutil.which(os.environ.get("CXX", "c++"))
    if not found:
        mend = "Debian: apt-get install g++; without it offloaded and fused optimizers cannot be built"
        return Finding("compiler", "warn", "no C++ compiler", mend)
    return Finding("compiler", "ok", found)


def layout() -> Finding:
    import platform

    if not hasattr(platform, "system"):
        return Finding("layout", "fail", f"`import platform` finds {platform.__file__}", "delete platform/__init__.py")
    return Finding("layout", "ok", "the standard library is not shadowed")


def disk(places: Settings) -> Finding:
    folder = next(path for path in [places.home, *places.home.parents] if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    if free < NEEDED_DISK_GIB:
        return Finding(
            "disk",
            "fail",
            f"{free:.1f} GiB free under {places.home}",
            f"free {NEEDED_DISK_GIB} GiB or set XNEMO_HOME",
        )
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fail", f"{folder} cannot be written", "set XNEMO_HOME to a folder of yours")
    return Finding("disk", "ok", f"{free:.0f} GiB free under {places.home}")


def memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / GIB
    if free < NEEDED_MEMORY_GIB:
        return Finding(
            "memory",
            "warn",
            f"{free:.1f} GiB available",
            f"the demo wants {NEEDED_MEMORY_GIB} GiB; close something",
        )
    return Finding("memory", "ok", f"{free:.0f} GiB available")


def video() -> Finding:
    import numpy as np

    from xnemo.media.video import read_frames, write_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        frames = [np.full((64, 64, 3), value, np.uint8) for value in (40, 120, 200)]
        write_video(path, iter(frames), fps=25)
        decoded = read_frames(path)
    if len(decoded) != 3 or abs(int(decoded[2].mean()) - 200) > 8:
        return Finding("video", "fail", f"wrote 3 frames, read {len(decoded)}", "reinstall av and decord: make setup")
    return Finding("video", "ok", "h264 written and read back")


def faces() -> Finding:
    import numpy as np

    from xnemo.media.faces import detector

    found = detector()
    found.detect(np.zeros((128, 128, 3), np.uint8))
    name = type(found).__name__
    if "haar" in name.lower():
        mend = "run `.venv/bin/python -m xnemo.media.face_models`"
        return Finding("face model", "warn", "only OpenCV's Haar cascade", mend)
    return Finding("face model", "ok", name)


def ray(places: Settings) -> Finding:
    if importlib.util.find_spec("ray") is None:
        return Finding("ray", "fail", "not installed", "make setup")
    from importlib.metadata import version

    if places.ray_address is None:
        with socket.socket() as probe:  # a local cluster listens on this machine
            probe.bind(("127.0.0.1", 0))
        return Finding("ray", "ok", f"{version('ray')}; a local cluster is started when a command needs one")
    from xnemo_platform import submit
    from xnemo_platform.errors import PlatformError

    try:
        running = len(submit.jobs(places.ray_address))
    except PlatformError as error:
        return Finding("ray", "fail", str(error), "`xnemo doctor --address` looks further once it answers")
    return Finding("ray", "ok", f"{version('ray')}; {places.ray_address} answers, {running} jobs known")


def tracking(places: Settings) -> Finding:
    uri = places.tracking_uri
    if uri.startswith("sqlite:///"):
        folder = next(path for path in Path(uri.removeprefix("sqlite:///")).parents if path.exists())
        if not os.access(folder, os.W_OK):
            return Finding("mlflow", "fail", f"{folder} cannot be written", "set XNEMO_TRACKING_URI or XNEMO_HOME")
        return Finding("mlflow", "ok", uri)
    from xnemo_platform.nodes import tracking as problem

    if says := problem(places):
        mend = "start the server, or unset XNEMO_TRACKING_URI for the embedded store"
        return Finding("mlflow", "fail", says, mend)
    return Finding("mlflow", "ok", f"{uri} answers")


def gpu(needed: bool) -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("gpu", "ok", names)
    mend = "install the NVIDIA driver and a CUDA build of torch" if needed else ""
    return Finding("gpu", "fail" if needed else "ok", "none; everything runs on the CPU in the small shape", mend)


if __name__ == "__main__":
    sys.exit(run(main))
