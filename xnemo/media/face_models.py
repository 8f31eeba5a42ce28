"""Fetch the two face model files: `python -m xnemo.media.face_models [folder]`.

They are Apache-2.0 files inside Google's mediapipe 0.10.21 wheel. The wheel is downloaded by pip, two files
are taken out of it and checked, and it is thrown away: mediapipe itself is neither installed nor imported.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from xnemo.errors import XNeMoError
from xnemo.media.faces import BLAZE_FILE, MESH_FILE, models_folder

WHEEL = "mediapipe==0.10.21"
FILES = {
    BLAZE_FILE: (
        "mediapipe/modules/face_detection/",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    MESH_FILE: ("mediapipe/modules/face_landmark/", "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"),
}


def present(folder: Path) -> bool:
    """Whether both files lie in `folder`, whole."""
    return all(
        (folder / name).is_file() and _digest((folder / name).read_bytes()) == digest
        for name, (_, digest) in FILES.items()
    )


def fetch(folder: Path) -> None:
    """Put both files into `folder`. Raises XNeMoError if the wheel cannot be had or is not the expected one."""
    with tempfile.TemporaryDirectory() as temporary:
        # any wheel of the release holds the same model files, so the platform is not this machine's
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--quiet",
            "--disable-pip-version-check",
            "--python-version",
            "3.12",
            "--platform",
            "manylinux_2_28_x86_64",
            "--dest",
            temporary,
            WHEEL,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            raise XNeMoError(
                f"{WHEEL} could not be downloaded ({done.stderr.strip()[-200:] or 'no wheel'}): connect "
                f"to a package index, or place {' and '.join(FILES)} in {folder} by hand"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, (where, digest) in FILES.items():
                _place(folder / name, wheel.read(where + name), digest)


def _place(path: Path, data: bytes, digest: str) -> None:
    if _digest(data) != digest:
        raise XNeMoError(f"{path.name} of {WHEEL} is not the file this project was tested with: nothing was written")
    partial = path.with_suffix(".part")
    partial.write_bytes(data)
    os.replace(partial, path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else models_folder()
    try:
        if not present(target):
            fetch(target)
        print(f"face models are in {target}")
    except XNeMoError as error:
        sys.exit(str(error))
