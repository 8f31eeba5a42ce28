"""Tokenizer and generator on disk: a folder of config.json, model.safetensors and digests.json.

config.json also names what the weights belong to: a tokenizer its motion encoder's model, a generator its
tokenizer, both by digest. Codes of another tokenizer, or features of another encoder, are noise.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.tokens.generator import GeneratorConfig, MotionGenerator
from xnemo.tokens.vqvae import MotionTokenizer, TokenizerConfig

Net = TypeVar("Net", MotionTokenizer, MotionGenerator)

FILES = ("config.json", "model.safetensors")
TIED = "gpt.lm_head.weight"  # the same storage as gpt.transformer.wte.weight: not written twice


def save_tokenizer(tokenizer: MotionTokenizer, folder: str | Path) -> str:
    """Write the folder, whole or not at all (an old one is replaced); returns the weights' digest."""
    return _save(tokenizer, "tokenizer", Path(folder))


def save_generator(generator: MotionGenerator, folder: str | Path) -> str:
    """As `save_tokenizer`."""
    return _save(generator, "generator", Path(folder))


def load_tokenizer(folder: str | Path, device: str = "cpu") -> MotionTokenizer:
    """In eval mode. XNeMoError if a file is missing, damaged or of another kind."""
    about = _read_config(Path(folder), "tokenizer")
    return _fill(MotionTokenizer(_config(TokenizerConfig, about, Path(folder))), about, Path(folder), device)


def load_generator(folder: str | Path, device: str = "cpu") -> MotionGenerator:
    """As `load_tokenizer`."""
    about = _read_config(Path(folder), "generator")
    return _fill(MotionGenerator(_config(GeneratorConfig, about, Path(folder))), about, Path(folder), device)


def _save(net: MotionTokenizer | MotionGenerator, kind: str, folder: Path) -> str:
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items() if name != TIED}
    about = {"kind": kind, "belongs_to": net.belongs_to, "config": net.config.model_dump(mode="json")}
    content = {"config.json": json.dumps(about, indent=1, sort_keys=True).encode(), "model.safetensors": save(tensors)}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    content["digests.json"] = json.dumps(digests, indent=1).encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in content.items():
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    net.digest = digests["model.safetensors"]
    return net.digest


def _read_config(folder: Path, kind: str) -> dict[str, Any]:
    """config.json as `_save` wrote it, after every file's digest was checked; gains "digest" of the weights."""
    try:
        digests = json.loads((folder / "digests.json").read_bytes())
        for name in FILES:
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if digests[name] != found:
                raise XNeMoError(f"{folder / name} does not match its digest: copy the folder again")
        about = json.loads((folder / "config.json").read_bytes())
        if about["kind"] != kind:
            raise XNeMoError(f"{folder} holds a {about['kind']}, not a {kind}: give the right folder")
        return {"belongs_to": str(about["belongs_to"]), "config": about["config"], "digest": digests[FILES[1]]}
    except OSError as error:
        raise XNeMoError(f"{folder} is no {kind} folder ({error.strerror}): it needs {', '.join(FILES)} and "
                         "digests.json") from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise XNeMoError(f"{folder} is no {kind} folder ({type(error).__name__} in its JSON)") from None


ConfigT = TypeVar("ConfigT", TokenizerConfig, GeneratorConfig)


def _config(cls: type[ConfigT], about: dict[str, Any], folder: Path) -> ConfigT:
    try:
        return cls.model_validate(about["config"])
    except ValidationError as error:
        first = error.errors()[0]
        raise XNeMoError(f"{folder / 'config.json'}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _fill(net: Net, about: dict[str, Any], folder: Path, device: str) -> Net:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise XNeMoError(f"{folder / 'model.safetensors'} is unreadable ({error})") from None
    expected = {name: t.shape for name, t in net.state_dict().items() if name != TIED}
    wrong = [name for name, shape in expected.items() if name not in tensors or tensors[name].shape != shape]
    if wrong or len(tensors) != len(expected):
        name = (wrong or sorted(set(tensors) - set(expected)))[0]
        raise XNeMoError(f"{folder / 'model.safetensors'}: tensor {name} does not fit config.json")
    with torch.no_grad():
        net.load_state_dict(tensors, strict=False)  # TIED shares its storage with a tensor that is there
    net.belongs_to, net.digest = about["belongs_to"], about["digest"]
    return net.to(device).eval()
