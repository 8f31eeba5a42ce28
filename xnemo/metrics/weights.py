"""The networks that metrics need and we do not ship: which file, under what licence, and where it has to lie.

A file is taken from what the user names (a path, or owner/repository/file of Hugging Face, each with `#` and a sha256
or its beginning, if it shall be that file and no other), else from the folder `XNEMO_METRIC_WEIGHTS`, else from
`<venv>/share/xnemo/metric-weights`. Where it is absent the metric is not computed and says so; nothing stands in.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xnemo.errors import XNeMoError


@dataclass(frozen=True)
class WeightFile:
    """file: the published name. sha256: its beginning, where the publisher states one (in the name)."""

    file: str
    holds: str
    licence: str
    sha256: str = ""


FILES = {
    "alexnet": WeightFile("alexnet-owt-7be5be79.pth", "AlexNet of torchvision (ImageNet)", "BSD-3-Clause", "7be5be79"),
    "vgg16": WeightFile("vgg16-397923af.pth", "VGG-16 of torchvision (ImageNet)", "BSD-3-Clause", "397923af"),
    "lpips_alexnet": WeightFile("alex.pth", "LPIPS 0.1 linear heads for AlexNet", "BSD-2-Clause"),
    "lpips_vgg16": WeightFile("vgg.pth", "LPIPS 0.1 linear heads for VGG-16", "BSD-2-Clause"),
    "arcface": WeightFile(
        "arcface_backbone.pth", "IResNet backbone of InsightFace's arcface_torch (R100, Glint360K)", "non-commercial"
    ),
    "emonet": WeightFile("emonet_8.pth", "EmoNet with 8 expressions", "CC BY-NC-ND 4.0, non-commercial"),
    "blendshapes": WeightFile(
        "face_blendshapes.pth", "MediaPipe Blendshape V2 as PyTorch tensors", "Apache-2.0 (Google's model)"
    ),
    "iris": WeightFile("iris_landmark.tflite", "iris landmarks of mediapipe 0.10.21", "Apache-2.0", "d1744d2a09c25f50"),
}
NEEDS = {
    "lpips": ("alexnet", "lpips_alexnet"), "lpips_vgg": ("vgg16", "lpips_vgg16"), "id_sim": ("arcface",),
    "id_leak": ("arcface",), "id_between": ("arcface",), "aed": ("blendshapes", "iris"), "emo_sim": ("emonet",),
}  # fmt: skip
"""Metric to its files; a metric that is not named needs none of these."""


class NotComputed(XNeMoError):
    """A metric whose weights are absent; the text begins with "not computed:" and says what to place where."""


def folder() -> Path:
    """Where weight files are looked for."""
    return Path(os.environ.get("XNEMO_METRIC_WEIGHTS") or Path(sys.prefix, "share", "xnemo", "metric-weights"))


def find(name: str, given: Mapping[str, str] | None = None) -> Path:
    """The file of FILES[name]. Raises NotComputed where it is absent, XNeMoError where a named one cannot be had."""
    weight, given = FILES[name], given or {}
    if named := given.get(name):
        from xnemo.pretrained import locate_file

        return locate_file(named.partition("#")[0])
    path = folder() / weight.file
    if not path.is_file():
        raise NotComputed(f"not computed: place {weight.file} ({weight.holds}; {weight.licence}) at {path}")
    return path


def checked(name: str, given: Mapping[str, str] | None = None) -> Path:
    """`find`, and the file is the one that its publisher or the user says it is. Raises XNeMoError where it is not."""
    path, (_, _, pinned) = find(name, given), (given or {}).get(name, "").partition("#")
    found = digest(path)
    for wanted, whose in ((FILES[name].sha256, "published"), (pinned.lower(), "named")):
        if not found.startswith(wanted):
            raise XNeMoError(f"{path}: sha256 {found[:16]}… is not the {whose} {wanted[:16]}…: download it again")
    return path


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def absent(metrics: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of these metrics, those whose files are not there, each with the sentence that says what to place where."""
    found: dict[str, str] = {}
    for metric in metrics:
        for name in NEEDS.get(metric, ()):
            try:
                find(name, given)
            except NotComputed as missing:
                found.setdefault(metric, str(missing))
    return found


def used(metrics: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
    """The files that these metrics are computed with, by name: where each lies, its licence and its sha256."""
    metrics = list(metrics)
    missing = absent(metrics, given)
    names = dict.fromkeys(n for metric in metrics if metric not in missing for n in NEEDS.get(metric, ()))
    return {
        name: {"file": str(path := find(name, given)), "licence": FILES[name].licence, "sha256": digest(path)}
        for name in names
    }


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pth` file, without a `module.` that training in parallel left in front.

    Raises XNeMoError if it holds anything but tensors (such a file could run code).
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: dict[str, Any] = load_file(path)
        except SafetensorError as error:
            raise XNeMoError(f"{path} is cut short or damaged ({error}): download it again") from None
    else:
        from xnemo.official import open_pth

        opened = open_pth(path)
        found = opened.get("state_dict", opened) if isinstance(opened, dict) else {}
    if not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise XNeMoError(f"{path} is not a file of tensors by name")
    return {name.removeprefix("module."): t for name, t in found.items() if isinstance(t, Tensor)}


def fill(network: nn.Module, found: Mapping[str, Tensor], source: str) -> nn.Module:
    """Put tensors into the network, in evaluation mode; XNeMoError names what does not fit. Counters may lack."""
    from xnemo.weights import compare

    own = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: t.float() for name, t in found.items() if not name.endswith("num_batches_tracked")}
    report = compare(own, given, source)
    if report:
        raise XNeMoError(f"these weights are of another architecture: {report}")
    network.load_state_dict(given, strict=False)
    return network.eval().requires_grad_(False)
