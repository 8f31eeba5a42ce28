"""The networks an engine holds, and what the outside is told of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.models import device, locate
from pipelines.serve.config import ServeConfig
from xnemo.model import XNeMo
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.vqvae import MotionTokenizer


@dataclass(frozen=True)
class Loaded:
    """name: as configured (`models:/xnemo@demo`, or the folder's name). digest: sha256 of the weights."""

    name: str
    digest: str
    model: XNeMo
    tokenizer: MotionTokenizer | None
    generator: MotionGenerator | None

    def card(self) -> dict[str, Any]:
        """What `/v1/models` shows."""
        return {"model": self.name, "digest": self.digest, "image_size": self.model.config.image_size,
                "outpainting": self.tokenizer is not None and self.generator is not None}  # fmt: skip


def load(config: ServeConfig) -> Loaded:
    """Find and load what `config` names. Raises PlatformError or XNeMoError with the mend."""
    import torch

    from xnemo import weights
    from xnemo.tokens.weights import load_generator, load_tokenizer

    folder, where = locate(config.model), device(config.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    return Loaded(
        name=config.model if config.model.startswith("models:") else folder.name,
        digest=weights.sha256(Path(folder, weights.MODEL)),
        model=weights.load(folder, where, dtype),
        tokenizer=load_tokenizer(locate(config.tokenizer), where) if config.tokenizer else None,
        generator=load_generator(locate(config.generator), where) if config.generator else None,
    )
