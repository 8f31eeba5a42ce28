"""Configuration: a pydantic model, filled from YAML and then from `key.sub=value`.

What a config leaves unsaid keeps its default; what it does not know is an error that names the nearest valid
key. `fingerprint` and `diff` let a resumed run prove that it is the same run.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from xnemo_platform.errors import PlatformError

C = TypeVar("C", bound=BaseModel)


class Config(BaseModel):
    """Base of the platform's own configs: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text because the dot is missing; people mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_config(cls: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Defaults of `cls`, then the YAML file, then each `key.sub=value` in order.

    Raises `PlatformError`, one sentence naming the file (or the override) and the key.
    """
    data = _read(path) if path else {}
    for text in overrides:
        _override(data, text)
    return build(cls, data, where=str(path) if path else "configuration")


def build(cls: type[C], data: dict[str, Any], where: str = "configuration") -> C:
    """Validate plain data into `cls`. Raises `PlatformError` like `load_config`."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise PlatformError(_explain(cls, error, where)) from None


def _read(path: str | Path) -> dict[str, Any]:
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise PlatformError(f"{path}: no such config file; check the path after --config.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(f"{path}: the config file cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise PlatformError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PlatformError(f"{path}: the top level must be `key: value` lines, not a {type(data).__name__}.")
    return data


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise PlatformError(f"override {text!r}: write it as key=value, for example steps=100.")
    *parents, last = key.strip().split(".")
    for depth, parent in enumerate(parents):
        below = data.setdefault(parent, {})
        if not isinstance(below, dict):
            name = ".".join(parents[: depth + 1])
            raise PlatformError(f"override {text!r}: {name} is the value {below!r} and has no keys below it.")
        data = below
    try:
        data[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        raise PlatformError(f"override {text!r}: {value!r} is not a valid YAML value; quote it.") from None


def _explain(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    # An unknown key is usually the cause of a missing one, so it is reported first.
    found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = found[0]
    key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
    if first["type"] == "extra_forbidden":
        known = _known_keys(cls, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}."
        return f"{where}: unknown key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{where}: key {key!r} is required and has no default; add it."
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    given = "" if first["type"] == "value_error" and not first["loc"] else f" (it is {first['input']!r})"
    return f"{where}: key {key!r}: {reason}{given}."


def _known_keys(cls: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the model that lies at `location` below `cls`, through optionals, lists and unions."""
    level = [cls]
    for part in location:
        below = [
            m
            for model in level
            if part in model.model_fields
            for m in _models_in(model.model_fields[str(part)].annotation)
        ]
        level = below or level  # an index, or the name pydantic gives a union's branch: same level
    return sorted({name for model in level for name in model.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def fingerprint(config: BaseModel, ignore: Sequence[str] = ()) -> str:
    """sha256 of the config's canonical JSON; `ignore` names dotted keys that may change (`loop.workers`)."""
    flat = {key: value for key, value in flatten(config).items() if key not in ignore}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def diff(old: BaseModel | dict[str, Any], new: BaseModel | dict[str, Any], ignore: Sequence[str] = ()) -> list[str]:
    """What changed between two configs, as lines `key: old → new`; empty when nothing did."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key, '(unset)')} → {after.get(key, '(unset)')}"
        for key in sorted(before | after)
        if key not in ignore and before.get(key, "(unset)") != after.get(key, "(unset)")
    ]


def flatten(config: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → plain JSON value; lists stay whole. What MLflow shows as parameters."""
    data = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
