"""The networks an engine holds, and what the outside is told of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import models
from pipelines.models import ALIAS, device, locate
from pipelines.serve.config import ServeConfig
from pipelines.serve.scheduler import Scheduler
from xnemo.animation import decode, encode_faces, encode_portrait, motion_tokens, noise
from xnemo.model import XNeMo
from xnemo.prepare import Portrait
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.motion_file import still_rts
from xnemo.tokens.vqvae import MotionTokenizer
from xnemo_platform.registry import ResolvedModel


@dataclass(frozen=True, eq=False)
class Loaded:
    """name: as configured (`models:/xnemo@demo`, or the folder's name). version: the registry's, None for a folder.
    digest: sha256 of the weights. scheduler: the requests that these networks denoise."""

    name: str
    version: str | None
    digest: str
    model: XNeMo
    scheduler: Scheduler
    tokenizer: MotionTokenizer | None = field(default=None)
    generator: MotionGenerator | None = field(default=None)

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
    """Find, load and try what `config` names; behind an alias, the version that worked last where the newest does
    not. Raises PlatformError or XNeMoError with the mend."""
    alias = ALIAS.match(config.model)
    if not alias:
        folder = locate(config.model)
        return _tried(config, folder.name, folder, None)
    from xnemo_platform import registry

    try:
        return load_version(config, registry.resolve(alias["name"], alias["alias"]))
    except Exception:
        last = registry.approved(alias["name"], alias["alias"])
        if last is None:
            raise
        return load_version(config, last)


def load_version(config: ServeConfig, found: ResolvedModel) -> Loaded:
    """Load and try one version behind an alias, and remember that it works."""
    from xnemo_platform import registry

    loaded = _tried(config, config.model, found.folder, found.version)
    registry.approve(found)
    return loaded


def _tried(config: ServeConfig, name: str, folder: Path, version: str | None) -> Loaded:
    from xnemo import weights
    from xnemo.tokens.weights import load_generator, load_tokenizer

    where = device(config.device)
    own = "bundled" if config.model == "bundled" else None  # the model that comes with the code brings its own
    tokenizer, generator = config.tokenizer or own, config.generator or own
    model = models.load(folder, where, config.precision)
    loaded = Loaded(
        name=name,
        version=version,
        digest=weights.sha256(Path(folder, weights.MODEL)),
        model=model,
        scheduler=Scheduler(model, config.windows_per_batch or (4 if where.startswith("cuda") else 1)),
        tokenizer=load_tokenizer(locate(tokenizer, "tokenizer"), where) if tokenizer else None,
        generator=load_generator(locate(generator, "generator"), where) if generator else None,
    )
    _warm_up(loaded)
    return loaded


def _warm_up(loaded: Loaded) -> None:
    """One step of one clip: the first request must not pay for lazy initialisation, and weights that give NaN
    must never take traffic. Raises XNeMoError for those."""
    import torch

    model, scheduler, config = loaded.model, loaded.scheduler, loaded.model.config
    blank = np.zeros((config.image_size, config.image_size, 3), np.uint8)
    face = np.zeros((config.motion_encoder.image_size, config.motion_encoder.image_size, 3), np.uint8)
    reference = encode_portrait(model, Portrait(np.zeros(4), blank, face, (1, 1)))
    motion = encode_faces(model, [np.stack([face, face])], still_rts(2), 25.0)
    request = scheduler.prepare("warm-up", reference, motion_tokens(model, motion), noise(model, 2, 0), 1, 2.0)
    scheduler.join(request)
    while not request.finished:
        scheduler.advance()
    for _ in decode(model, request.latents):
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
