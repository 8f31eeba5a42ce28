"""The shipped deployments are what Serve and the service understand; engines come with the work that waits."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from pipelines.serve import api
from pipelines.serve.config import ServeConfig
from xnemo_platform.errors import PlatformError

SHIPPED = sorted((Path(__file__).parents[3] / "infra" / "serve").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_deployments_are_valid(path: Path) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    [application] = schema.applications
    assert application.import_path == "pipelines.serve.api:build"
    config = ServeConfig.model_validate(application.args)
    assert config.require_key
    application_of_serve = api.build(application.args)
    names = {"ingress", "engine", "media"}
    assert {deployment.name for deployment in application.deployments} <= names
    assert application_of_serve._bound_deployment.name == "ingress"


def test_a_wrong_argument_is_one_sentence() -> None:
    with pytest.raises(PlatformError, match="windows_per_batch"):
        api.build({"windows_per_batch": 0})


@pytest.mark.parametrize(
    ("backlog", "in_hand", "wanted"),
    [({}, {}, 1), ({"a": 0.0}, {"a": 0.0}, 1), ({"a": 1.0}, {"a": 1.0}, 1), ({"a": 2.5}, {"a": 1.0}, 3),
     ({"a": 2.0, "b": 1.5}, {"a": 1.0, "b": 0.5}, 3), ({"a": 99.0}, {"a": 1.0}, 4)],
)  # fmt: skip
def test_engines_come_with_the_work_that_waits(backlog: Any, in_hand: Any, wanted: int) -> None:
    context = SimpleNamespace(aggregated_metrics={"backlog": backlog, "in_hand": in_hand},
                              capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=4)  # fmt: skip
    assert api.by_backlog(context)[0] == wanted


def test_only_engines_load_the_networks_libraries() -> None:
    modules = "pipelines.serve.api, pipelines.serve.media, pipelines.serve.routes"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
