"""Models behind names: a folder of safetensors goes up as an MLflow model version, an alias finds it again.

An alias is resolved once per load, to a version that never changes. The folder is copied to this machine and
checked against the digests that were recorded when it was published; while MLflow is down, the version that was
resolved last still serves.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import settings
from xnemo_platform.tracking import Tracker, experiment_id, mlflow_client

NAME = re.compile(r"\w[\w.-]{0,99}")
DIGEST_TAG = "sha256"
EXPERIMENT = "models"  # runs of folders that no training made
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedModel:
    """A model version on this machine, its files checked."""

    name: str
    alias: str
    version: str
    folder: Path
    run_id: str | None


def publish(
    folder: str | Path, name: str, alias: str, *, run_id: str | None = None, tags: dict[str, str] | None = None
) -> str:
    """Upload the folder's files, register them as the next version of `name`, and point `alias` at it.

    `run_id` is the run that made the model; without one a run is made to hold the files. Publishing the very
    files the alias already points to changes nothing. Returns the version.
    """
    folder, digest = Path(folder), _folder_digest(Path(folder))
    with _mlflow("publish the model") as client:
        if (known := _version_at(client, name, alias)) and known.tags.get(DIGEST_TAG) == digest:
            return str(known.version)
        run_id = run_id or _make_run(client, name)
        place = f"model-{digest[:12]}"
        client.log_artifacts(run_id, str(folder), place)
        _ensure_model(client, name)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        made = client.create_model_version(name, source, run_id, tags={**(tags or {}), DIGEST_TAG: digest})
        client.set_registered_model_alias(name, alias, made.version)
        return str(made.version)


def resolve(name: str, alias: str) -> ResolvedModel:
    """The version behind `alias`, as a folder of this machine whose digests hold.

    Raises `PlatformError` if there is no such model, its files are damaged, or MLflow is away and this alias was
    never resolved here.
    """
    for word in (name, alias):  # both become file names
        if not NAME.fullmatch(word):
            raise PlatformError(f"models:/{name}@{alias}: names are letters, digits, dots, dashes and underscores.")
    cache = settings().home / "model-cache" / name
    memory = cache / f"{alias}.json"
    try:
        with _mlflow(f"find models:/{name}@{alias}") as client:
            found = _version_at(client, name, alias)
            if found is None:
                raise PlatformError(
                    f"models:/{name}@{alias}: no such model or alias in MLflow; "
                    f"`xnemo model register <folder> --name {name} --alias {alias}` makes it."
                )
            facts = {"version": str(found.version), "run_id": found.run_id, "digest": found.tags.get(DIGEST_TAG, "")}
            folder = cache / facts["version"]
            if not _matches(folder, facts["digest"]):
                _download(found.run_id, found.source, folder, facts["digest"])
    except _AwayError as error:
        if not memory.exists():
            raise PlatformError(f"{error}; models:/{name}@{alias} was never used on this machine before.") from None
        facts = json.loads(memory.read_text())
        folder = cache / facts["version"]
        log.warning("%s; using version %s, which this alias meant last time", error, facts["version"])
        if not _matches(folder, facts["digest"]):
            raise PlatformError(f"{folder} is damaged and MLflow is away; try again when it is back.") from None
    temporary = memory.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(facts))
    temporary.replace(memory)
    return ResolvedModel(name, alias, facts["version"], folder, facts["run_id"])


def version_behind(name: str, alias: str) -> str | None:
    """The version that an alias means now, None if there is no such alias. Raises PlatformError while MLflow is
    away."""
    with _mlflow(f"find models:/{name}@{alias}") as client:
        found = _version_at(client, name, alias)
        return None if found is None else str(found.version)


def approve(model: ResolvedModel) -> None:
    """Remember a version that proved to work behind its alias, for `approved`."""
    path = _approval(model.name, model.alias)
    temporary = path.with_suffix(f".{os.getpid()}")
    facts = {"version": model.version, "run_id": model.run_id, "digest": _folder_digest(model.folder)}
    temporary.write_text(json.dumps(facts))
    temporary.replace(path)


def approved(name: str, alias: str) -> ResolvedModel | None:
    """The version that worked last behind this alias on this machine, if its files are still whole."""
    try:
        facts = json.loads(_approval(name, alias).read_text())
    except (OSError, ValueError):
        return None
    folder = _approval(name, alias).parent / facts["version"]
    if not _matches(folder, facts["digest"]):
        return None
    return ResolvedModel(name, alias, facts["version"], folder, facts["run_id"])


def _approval(name: str, alias: str) -> Path:
    return settings().home / "model-cache" / name / f"{alias}.approved.json"


def aliases() -> list[dict[str, str]]:
    """Every alias of every registered model: {"name", "alias", "version"}."""
    with _mlflow("list the models") as client:
        return [
            {"name": model.name, "alias": alias, "version": str(version)}
            for model in client.search_registered_models()
            for alias, version in sorted(model.aliases.items())
        ]


class _AwayError(PlatformError):
    """MLflow does not answer."""


@contextlib.contextmanager
def _mlflow(purpose: str) -> Iterator[Any]:
    """A client; what it raises becomes one sentence. Waiting too long and failing to connect is `_AwayError`."""
    uri = settings().tracking_uri
    try:
        yield mlflow_client(uri)
    except PlatformError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise _AwayError(f"MLflow at {uri} could not {purpose} ({reason})") from error


def _version_at(client: Any, name: str, alias: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _make_run(client: Any, name: str) -> str:
    places = settings()
    tracker = Tracker(uri=places.tracking_uri, experiment=EXPERIMENT, artifact_root=places.artifact_root)
    run = client.create_run(experiment_id(client, tracker), run_name=name)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _download(run_id: str, source: str, folder: Path, digest: str) -> None:
    """Fetch into a temporary folder beside `folder`, check, and only then give it the name."""
    import mlflow

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as temporary:
        uri = settings().tracking_uri
        got = Path(mlflow.artifacts.download_artifacts(source, dst_path=temporary, tracking_uri=uri))
        if not _matches(got, digest):
            raise PlatformError(f"{source} does not match the digest it was published with; publish it again.")
        shutil.rmtree(folder, ignore_errors=True)
        got.rename(folder)


def _matches(folder: Path, digest: str) -> bool:
    return folder.is_dir() and bool(digest) and _folder_digest(folder) == digest


def _folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise PlatformError(f"{folder}: there is no model here to publish.")
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder)}\0{content}\n".encode())
    return total.hexdigest()
