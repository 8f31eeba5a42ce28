"""From what a user writes after `--model` to a folder on this machine, and from `--device` to a device."""

import re
from pathlib import Path

from xnemo_platform.errors import PlatformError

ALIAS = re.compile(r"^models:/(?P<name>[^@/]+)@(?P<alias>[^@/]+)$")


def locate(model: str) -> Path:
    """The folder of a model named by path or by `models:/<name>@<alias>` (MLflow registry, digests checked)."""
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
        return str(torch.device(name))
    except RuntimeError:
        raise PlatformError(f"--device {name}: no such device; write cpu, cuda or auto.") from None
