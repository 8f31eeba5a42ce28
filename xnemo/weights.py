"""Models on disk: a folder with `config.json`, `model.safetensors` and `digests.json`, nothing that could run code.

Loading builds the networks without initial values and hands them the file's tensors, so no second copy exists.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo

CONFIG, MODEL, DIGESTS = "config.json", "model.safetensors", "digests.json"
TABLE = ".pe"  # position tables: computed, never trained, so those of a file are not used


@dataclass(frozen=True)
class Report:
    """How the tensors of a source fit a network: every name that does not."""

    source: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        few, rest = self.misshapen[:8], len(self.misshapen) - 8
        groups = {
            f"{len(self.missing)} tensors missing": grouped(self.missing),
            f"{len(self.unexpected)} unexpected tensors": grouped(self.unexpected),
            f"{len(self.misshapen)} tensors of another shape": [*few, *([f"and {rest} more"] if rest > 0 else [])],
        }
        parts = [f"{what}: {', '.join(names)}" for what, names in groups.items() if names]
        return f"{self.source}: {'; '.join(parts) or 'every tensor fits'}"


def grouped(names: Iterable[str]) -> list[str]:
    """Names gathered by the module they belong to, as `module.* (count)`; a lone name stands as it is."""
    names = list(names)
    modules = [".".join(name.split(".")[:4]) for name in names]
    counts = Counter(modules)
    lone = {module: name for module, name in zip(modules, names, strict=True)}
    return [lone[module] if count == 1 else f"{module}.* ({count})" for module, count in counts.items()]


def compare(network: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> Report:
    """The report on `tensors` for a network's state dict; position tables are left out on both sides."""
    own = {name for name in network if not name.endswith(TABLE)}
    given = {name for name in tensors if not name.endswith(TABLE)}
    shapes = {name: (tuple(tensors[name].shape), tuple(network[name].shape)) for name in sorted(own & given)}
    misshapen = tuple(f"{name} {found} for {ours}" for name, (found, ours) in shapes.items() if found != ours)
    return Report(source, tuple(sorted(own - given)), tuple(sorted(given - own)), misshapen)


@contextmanager
def without_values() -> Iterator[None]:
    """Networks built inside get parameters without memory; their buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        yield


def hand_over(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make `tensors`, which must fit, the network's own without a copy; its position tables stay its own."""
    tables = {name: t for name, t in network.state_dict().items() if name.endswith(TABLE)}
    network.load_state_dict({**tensors, **tables}, assign=True)


def ready(model: XNeMo, device: str | torch.device, dtype: torch.dtype | None) -> XNeMo:
    """The loaded model for inference; its computed tables get the precision of the part they serve."""
    for part in model.children():
        part.to(dtype=dtype or next((p.dtype for p in part.parameters()), None))
    return model.to(device).eval()


def cast_to(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor in `dtype`; counters and other integers stay what they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def save(model: XNeMo, folder: str | Path) -> Path:
    """Write the model; an existing one in `folder` is replaced only once the new files are complete.

    Tensors keep their dtype. Returns the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
    config = model.config.model_dump_json(indent=2)
    with replaced(folder / MODEL) as new_model, replaced(folder / CONFIG) as new_config:
        save_file(tensors, new_model, metadata={"format": "pt"})
        new_config.write_text(config)
        digests = {MODEL: sha256(new_model), CONFIG: sha256(new_config)}
        with replaced(folder / DIGESTS) as new_digests:
            new_digests.write_text(json.dumps(digests, indent=2))
    return folder


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_to_run(name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> XNeMo:
    """`load` as `xnemo.load`: without a `dtype`, as stored on a GPU, and float32 on a CPU, which computes ten times
    slower in half precision."""
    return load(name, device, torch.float32 if dtype is None and torch.device(device).type == "cpu" else dtype)


def load(name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> XNeMo:
    """The model in the folder `name`, or in the Hugging Face repository of that name, ready for inference.

    dtype: of the weights; None: as stored. Raises XNeMoError if a file is absent, does not match its digest, or does
    not fit its own configuration.
    """
    folder = locate(name, (CONFIG, MODEL, DIGESTS))
    check_digests(folder)
    config = read_config(folder)
    with without_values():
        model = XNeMo(config)
    tensors = read_safetensors(folder / MODEL, device, dtype)
    if report := compare(model.state_dict(), tensors, str(folder / MODEL)):
        raise XNeMoError(f"{report}; save the model again with this version")
    hand_over(model, tensors)
    return ready(model, device, dtype)


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in `folder`. Raises XNeMoError for a file that is none, or of another version."""
    try:
        return ModelConfig.model_validate_json((folder / CONFIG).read_text())
    except OSError as error:
        raise XNeMoError(f"{folder / CONFIG} cannot be read ({error.strerror}): check the path") from None
    except ValidationError as error:
        raise XNeMoError(f"{folder / CONFIG}: {reason(error)}; was it written by another version?") from None


def model_digest(folder: Path) -> str:
    """The digest by which motion files name the model in `folder`."""
    try:
        return str(json.loads((folder / DIGESTS).read_text())[MODEL])
    except (OSError, ValueError, KeyError, TypeError):
        raise XNeMoError(f"{folder / DIGESTS} is absent or unreadable: save the model again with xnemo.save") from None


def reason(error: Exception) -> str:
    """The first line of an error; of a configuration's, the key and what is wrong with it."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return " ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return str(error).strip().split("\n")[0] or type(error).__name__


def check_digests(folder: Path) -> None:
    try:
        digests = json.loads((folder / DIGESTS).read_text())
        recorded = {CONFIG: digests[CONFIG], MODEL: digests[MODEL]}
    except (OSError, ValueError, KeyError, TypeError):
        raise XNeMoError(f"{folder / DIGESTS} is absent or unreadable: save the model again with xnemo.save") from None
    for file, digest in recorded.items():
        if not (folder / file).is_file():
            raise XNeMoError(f"{folder / file} is missing: copy the whole folder again")
        if sha256(folder / file) != digest:
            raise XNeMoError(f"{folder / file} is damaged (its sha256 is not the recorded one): copy it again")


def read_safetensors(
    path: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The file's tensors, mapped rather than read where no cast is needed."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: cast_to(file.get_tensor(name), dtype) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise XNeMoError(f"{path} is not a readable safetensors file ({error}): copy or download it again") from None


def locate(name: str | Path, files: Iterable[str]) -> Path:
    """The folder `name` if there is one, else a download of `files` (patterns) from that Hugging Face repository."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "~", "/")):
        raise XNeMoError(f"there is no folder {folder}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files)))
    except Exception as error:
        message = f"{name} is neither a folder here nor a repository that can be fetched: {reason(error)}"
        raise XNeMoError(message) from None
