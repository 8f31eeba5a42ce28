"""Reusing motions: continue one, or blend moments of several (paper: appendix D)."""

from collections.abc import Mapping

from pipelines.serve.config import InterpolateOptions, OutpaintOptions
from pipelines.serve.loaded import Loaded
from xnemo.errors import XNeMoError
from xnemo.tokens.interpolate import Key, interpolate
from xnemo.tokens.motion_file import Motion, load_motion
from xnemo.tokens.outpaint import outpaint_motion


def continued(loaded: Loaded, file: bytes, options: OutpaintOptions) -> Motion:
    """The motion in the file (.safetensors), then what the generator makes of it, up to `options.seconds`."""
    if loaded.tokenizer is None or loaded.generator is None:
        raise XNeMoError("this service holds no motion generator: start it with tokenizer=… and generator=…")
    prefix = load_motion(file, model=loaded.digest)
    return outpaint_motion(
        loaded.tokenizer, loaded.generator, prefix, round(options.seconds * prefix.fps), options.seed
    )


def blended(files: Mapping[str, bytes], options: InterpolateOptions) -> Motion:
    """A motion through the moments `options.keys`; `files`: motion id → .safetensors."""
    keys = [Key(load_motion(files[key.motion]), key.seconds) for key in options.keys]
    return interpolate(keys, max(2, round(options.seconds * keys[0].motion.fps)), curve=options.curve)
