"""Where things live: one set of settings, from `xnemo.toml` and the environment, every place absolute.

Precedence: environment variable `XNEMO_<KEY>` > `xnemo.toml` (in the working folder, or where
`XNEMO_CONFIG` points) > default. Ray changes the working folder of its workers, so a relative path would
point elsewhere there: everything is made absolute once, here, on the machine where the command was typed,
and `Settings.env()` hands it to the workers.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from xnemo_platform.confidential import secret_in
from xnemo_platform.errors import PlatformError


class Settings(BaseModel):
    """Places and sizes of one installation. Paths and URIs are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    """Folder of everything this installation writes by default (`XNEMO_HOME`, default `./data`)."""
    tracking_uri: str
    """MLflow tracking URI; default `sqlite:///<home>/mlflow.db`."""
    artifact_root: str
    """Where MLflow runs of the embedded default keep their artifacts; default `<home>/mlflow-artifacts`."""
    storage: str
    """URI under which data sets, checkpoints and models are written; default `<home>`."""
    ray_address: str | None
    """Job server of a Ray cluster, such as `http://head:8265`; none means a local cluster is started."""
    cpus: int
    """Logical CPUs of a local cluster; more than there are cores, so that readers and trainers coexist."""

    def env(self) -> dict[str, str]:
        """The same settings as environment variables, for child processes and Ray workers."""
        return {f"XNEMO_{key.upper()}": str(value) for key, value in self if value is not None}


def settings() -> Settings:
    """Read the settings. Raises `PlatformError` on an unknown key or a wrong type."""
    values = _from_file() | _from_environment()
    home = Path(str(values.get("home", "data"))).expanduser().resolve()
    defaults: dict[str, Any] = {
        "tracking_uri": f"sqlite:///{home / 'mlflow.db'}",
        "artifact_root": str(home / "mlflow-artifacts"),
        "storage": str(home),
        "ray_address": None,
        "cpus": max(6, os.cpu_count() or 1),
    }
    merged = defaults | values | {"home": home}
    merged["storage"] = _absolute(str(merged["storage"]))
    merged["artifact_root"] = _absolute(str(merged["artifact_root"]))
    if str(merged["tracking_uri"]).startswith("file:"):
        raise PlatformError("tracking_uri: MLflow no longer supports file: stores; use sqlite:///<path>/mlflow.db.")
    for key in ("tracking_uri", "storage", "artifact_root", "ray_address"):
        if kind := secret_in(str(merged[key])):
            raise PlatformError(
                f"{key} holds {kind}, and every worker's environment would show it; take it out of the address and "
                "give it to the nodes (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, AWS_…) as secrets."
            )
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PlatformError(f"setting {key!r}: {first['msg']}; mend it in xnemo.toml or XNEMO_{key.upper()}.") from None


def explicit() -> dict[str, str]:
    """What was said in file and environment, as variables for a job on another machine.

    Defaults stay at home: they are places of this machine, and the nodes have their own.
    """
    said = (_from_file() | _from_environment()).keys() - {"ray_address", "cpus"}
    return {name: value for name, value in settings().env().items() if name.removeprefix("XNEMO_").lower() in said}


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def _from_file() -> dict[str, Any]:
    path = Path(os.environ.get("XNEMO_CONFIG", "xnemo.toml"))
    if not path.exists():
        if "XNEMO_CONFIG" in os.environ:
            raise PlatformError(f"XNEMO_CONFIG names {path}, which does not exist; create it or unset the variable.")
        return {}
    try:
        data = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise PlatformError(f"{path}: not valid TOML ({error}).") from None
    for key in data:
        _known(key, f"{path}")
    return data


def _from_environment() -> dict[str, Any]:
    return {
        name: os.environ[f"XNEMO_{name.upper()}"]
        for name in Settings.model_fields
        if os.environ.get(f"XNEMO_{name.upper()}")
    }


def _known(key: str, where: str) -> None:
    if key not in Settings.model_fields:
        near = difflib.get_close_matches(key, Settings.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(Settings.model_fields)}."
        raise PlatformError(f"{where}: unknown setting {key!r}; {hint}")
