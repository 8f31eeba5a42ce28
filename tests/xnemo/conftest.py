"""The recorded networks' rules and shape, shared by the tests that compare against them."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden_fill(goldens: Path) -> Callable[[nn.Module], nn.Module]:
    """Gives a module the weights of the recorded networks: each a function of its name."""
    rules = _module(goldens / "golden_rules.py")

    def fill(module: nn.Module) -> nn.Module:
        module.load_state_dict(rules.fill_(module.state_dict()))
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def recorded(goldens: Path) -> Callable[[str], dict[str, Tensor]]:
    """Reads one file of recorded inputs and outputs."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(goldens / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return read


@pytest.fixture(scope="session")
def released_shapes(goldens: Path) -> Callable[[str], dict[str, list[int]]]:
    """Reads the names and shapes of one released network's tensors."""
    folder = goldens.parent / "reference" / "statedict"
    if not folder.is_dir():
        pytest.skip(f"no listings of the released tensors at {folder}")

    def read(name: str) -> dict[str, list[int]]:
        entries = json.loads((folder / f"{name}.json").read_text())["state_dict"]
        return {key: entry["shape"] for key, entry in entries.items()}

    return read


@pytest.fixture(scope="session")
def released_folder(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the released layout: the recorded networks' weights. Do not write to it."""
    folder = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(goldens)
        _module(goldens / "make_checkpoint.py").main(folder)
    return folder
