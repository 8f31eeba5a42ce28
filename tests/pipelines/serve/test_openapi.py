"""What schemathesis makes of the OpenAPI file, as it says and against what it says, is answered without a server error
and tells nothing of where things lie."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from pipelines.serve.config import ServeConfig
from pipelines.serve.routes import create
from tests.pipelines.serve.test_hostile import LEAK

pytestmark = pytest.mark.slow
REQUESTS = 1000


@pytest.fixture(scope="module")
def schema(config: ServeConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    app = create(config.model_copy(update={"folder": str(tmp_path_factory.mktemp("openapi"))}))
    with TestClient(app, raise_server_exceptions=False):
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


def test_a_thousand_requests_made_from_the_openapi_file_make_no_server_error(schema: Any) -> None:
    every = [result.ok() for result in schema.get_all_operations()]
    asking = [operation for operation in every if [*operation.iter_parameters(), *operation.body]]
    each, seen = -(-REQUESTS // (2 * len(asking))), Counter[int]()

    def send(case: Any) -> None:
        answer = case.call()
        seen[answer.status_code] += 1
        where = (case.method, case.path, answer.status_code, answer.text[:300])
        assert answer.status_code < 500 or case.path == "/readyz", where  # no engine is here: it says 503
        if answer.status_code >= 400:
            assert not LEAK.search(answer.content), where

    for operation in every:
        for mode in GenerationMode if operation in asking else [GenerationMode.POSITIVE]:
            some = settings(max_examples=each, phases=[Phase.generate], database=None, derandomize=True,
                            suppress_health_check=list(HealthCheck))  # fmt: skip
            some(given(case=operation.as_strategy(generation_mode=mode))(send))()
    assert seen.total() >= REQUESTS
    assert {200, 404, 422} <= seen.keys()
