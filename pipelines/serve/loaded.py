"""The networks an engine holds, and what the outside is told of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.models import ALIAS, device, locate
from pipelines.serve.config import ServeConfig
from xnemo.model import XNeMo
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.vqvae import MotionTokenizer


@dataclass(frozen=True)
class Loaded:
    """name: as configured (`models:/xnemo@demo`, or the folder's name). version: the registry's, None for a folder.
    digest: sha256 of the weights."""

    name: str
    version: str | None
    digest: str
    model: XNeMo
    tokenizer: MotionTokenizer | None
    generator: MotionGenerator | None

    @property
    def exact_name(self) -> str:
        """What the note in a result says: a name that never means another model."""
        return f"{self.name} {f'version {self.version} ' if self.version else ''}sha256:{self.digest[:16]}"

    def card(self) -> dict[str, Any]:
        """What `/v1/models` shows."""
        return {
            "model": self.name,
            "version": self.version,
            "digest": self.digest,
            "image_size": self.model.config.image_size,
            "outpainting": self.tokenizer is not None and self.generator is not None,
        }


def load(config: ServeConfig) -> Loaded:
    """Find and load what `config` names. Raises PlatformError or XNeMoError with the mend."""
    import torch

    from xnemo import weights
    from xnemo.tokens.weights import load_generator, load_tokenizer

    alias, where = ALIAS.match(config.model), device(config.device)
    if alias:
        from xnemo_platform.registry import resolve

        found = resolve(alias["name"], alias["alias"])
        folder, version = found.folder, found.version
    else:
        folder, version = locate(config.model), None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    return Loaded(
        name=config.model if alias else folder.name,
        version=version,
        digest=weights.sha256(Path(folder, weights.MODEL)),
        model=weights.load(folder, where, dtype),
        tokenizer=load_tokenizer(locate(config.tokenizer), where) if config.tokenizer else None,
        generator=load_generator(locate(config.generator), where) if config.generator else None,
    )
