"""From what a user writes after `--model` to a folder on this machine, and from `--device` to a device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import xnemo
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from xnemo.model import XNeMo

BUNDLED = Path(xnemo.__file__).parent / "bundled"
"""The model that comes with the code: 64 px, trained on drawn heads (docs/bundled.md)."""
ALIAS = re.compile(r"^models:/(?P<name>[^@/]+)@(?P<alias>[^@/]+)$")


def locate(model: str, part: Literal["", "tokenizer", "generator"] = "") -> Path:
    """The folder of a model named by path, by `models:/<name>@<alias>` (MLflow registry, digests checked), or
    `bundled`: then `part` says which of the bundled ones."""
    if model == "bundled":
        return BUNDLED / part
    match = ALIAS.match(model)
    if match:
        from xnemo_platform.registry import resolve

        return resolve(match["name"], match["alias"]).folder
    if model.startswith("models:"):
        raise PlatformError(
            f"{model}: a registered model is written models:/<name>@<alias>, such as models:/xnemo@demo."
        )
    folder = Path(model).expanduser()
    if not (folder / "config.json").exists():
        raise PlatformError(f"{model}: no model folder here (config.json is missing); `xnemo train` and "
                            "`xnemo model import` make one.")  # fmt: skip
    return folder.resolve()


def device(name: str) -> str:
    """ "cpu" or "cuda" for "auto"; a GPU that is asked for must be there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise PlatformError(f"--device {name}: this machine has no GPU that torch can use; write --device cpu.")
    try:
        found = torch.device(name)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise PlatformError(f"--device {name}: no such device; write cpu, cuda or auto.")
    return str(found)


def load(folder: str | Path, where: str = "cpu", precision: str = "auto") -> XNeMo:
    """The model for computing on that device. precision: "fp32", "bf16", "fp16", or "auto", which `xnemo.load`
    chooses."""
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return xnemo.load(folder, device=where, dtype=dtypes.get(precision))
