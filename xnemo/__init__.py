"""X-NeMo (ICLR 2025): animate one portrait with the head motion and expression of a driving video.

    model = xnemo.load("xnemo/bundled")               # or xnemo.load_official("pretrained_weights/")
    clip = xnemo.animate(model, portrait="p.png", driving="d.mp4")
    clip.save("out.mp4")

Shapes throughout: B batch, F frames, L tokens, C channels, H W pixels. Images are RGB.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xnemo import animate as animate
    from xnemo.official import export_official as export_official
    from xnemo.official import load_official as load_official
    from xnemo.weights import load_to_run

    load = load_to_run
    from xnemo.weights import save as save

_EXPORTS = {
    "load": ("weights", "load_to_run"),
    "save": ("weights", "save"),
    "load_official": ("official", "load_official"),
    "export_official": ("official", "export_official"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import xnemo` alone stays light."""
    if name == "animate":  # a module that can be called: xnemo.animate(...) and xnemo.animate.sample(...)
        return importlib.import_module("xnemo.animate")
    if name in _EXPORTS:
        module, own_name = _EXPORTS[name]
        return getattr(importlib.import_module(f"xnemo.{module}"), own_name)
    raise AttributeError(f"module 'xnemo' has no attribute {name!r}")
