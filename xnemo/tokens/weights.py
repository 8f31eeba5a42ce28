"""Tokenizer and generator on disk: folders like a model's (see xnemo.weights), with what they belong to.

A tokenizer names its motion encoder's model, a generator its tokenizer, both by digest of the weights: codes of
another tokenizer, or features of another encoder, are noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.tokens.generator import GeneratorConfig, MotionGenerator
from xnemo.tokens.vqvae import MotionTokenizer, TokenizerConfig
from xnemo.weights import CONFIG, DIGESTS, MODEL, check_digests, compare, read_safetensors, replaced, sha256

Net = TypeVar("Net", MotionTokenizer, MotionGenerator)
ConfigT = TypeVar("ConfigT", TokenizerConfig, GeneratorConfig)

TIED = "gpt.lm_head.weight"  # the same storage as gpt.transformer.wte.weight: not written twice


def save_tokenizer(tokenizer: MotionTokenizer, folder: str | Path) -> str:
    """Write the folder; returns the digest of the weights, which is also `tokenizer.digest` from now on."""
    return _save(tokenizer, "tokenizer", Path(folder))


def save_generator(generator: MotionGenerator, folder: str | Path) -> str:
    """As `save_tokenizer`."""
    return _save(generator, "generator", Path(folder))


def load_tokenizer(folder: str | Path, device: str = "cpu") -> MotionTokenizer:
    """In eval mode. XNeMoError if a file is missing, damaged or of another kind."""
    about, folder = _about(Path(folder), "tokenizer"), Path(folder)
    return _fill(MotionTokenizer(_config(TokenizerConfig, about, folder)), about, folder, device)


def load_generator(folder: str | Path, device: str = "cpu") -> MotionGenerator:
    """As `load_tokenizer`."""
    about, folder = _about(Path(folder), "generator"), Path(folder)
    return _fill(MotionGenerator(_config(GeneratorConfig, about, folder)), about, folder, device)


def _save(net: MotionTokenizer | MotionGenerator, kind: str, folder: Path) -> str:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    about = {"kind": kind, "belongs_to": net.belongs_to, "config": net.config.model_dump(mode="json")}
    with replaced(folder / MODEL) as model, replaced(folder / CONFIG) as config:
        save_file(_tensors(net), model, metadata={"format": "pt"})
        config.write_text(json.dumps(about, indent=2))
        net.digest = sha256(model)
        with replaced(folder / DIGESTS) as digests:
            digests.write_text(json.dumps({MODEL: net.digest, CONFIG: sha256(config)}, indent=2))
    return net.digest


def _tensors(net: MotionTokenizer | MotionGenerator) -> dict[str, Tensor]:
    return {name: t.detach().contiguous() for name, t in net.state_dict().items() if name != TIED}


def _about(folder: Path, kind: str) -> dict[str, Any]:
    """config.json, with the digest of the weights, which was checked."""
    if not folder.is_dir():
        raise XNeMoError(f"there is no {kind} folder {folder}: train one with `xnemo train {kind}`")
    check_digests(folder)
    try:
        about = json.loads((folder / CONFIG).read_text())
        found = {"kind": str(about["kind"]), "belongs_to": str(about["belongs_to"]), "config": about["config"]}
    except (KeyError, TypeError, ValueError):
        raise XNeMoError(f"{folder / CONFIG} is not of a {kind}: give the folder of one") from None
    if found["kind"] != kind:
        raise XNeMoError(f"{folder} holds a {found['kind']}, not a {kind}: give the folder of one")
    return found | {"digest": sha256(folder / MODEL)}


def _config(cls: type[ConfigT], about: dict[str, Any], folder: Path) -> ConfigT:
    try:
        return cls.model_validate(about["config"])
    except ValidationError as error:
        raise XNeMoError(f"{folder / CONFIG}: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}") from None


def _fill(net: Net, about: dict[str, Any], folder: Path, device: str) -> Net:
    tensors = read_safetensors(folder / MODEL)
    if report := compare(_tensors(net), tensors, str(folder / MODEL)):
        raise XNeMoError(f"{report}: copy the whole folder again")
    net.load_state_dict(tensors, strict=False)  # TIED shares its storage with a tensor that is there
    net.belongs_to, net.digest = about["belongs_to"], about["digest"]
    return net.to(device).eval()
