"""The HTTP interface (OpenAPI at /docs). It writes jobs into the store and reads what became of them; engines do the
work, wherever they run."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from pipelines.serve import animations, page, problems, reuse
from pipelines.serve.config import ServeConfig
from pipelines.serve.desk import Caller, Desk
from pipelines.serve.guard import Guard
from pipelines.serve.problems import Problem


def create(config: ServeConfig) -> FastAPI:
    """The app. It needs the folder, the storage and the store of `config`, no engine."""
    desk = Desk(config)
    app = FastAPI(title="X-NeMo", version="1", description="Animate a portrait with a driving video.",
                  docs_url=None, redoc_url=None, responses={"4XX": problems.SHOWN})  # fmt: skip
    problems.install(app)
    app.add_middleware(Guard, desk=desk)
    app.include_router(animations.routes(desk))
    app.include_router(reuse.routes(desk))
    _about(app, desk)
    page.install(app, config)
    return app


def _about(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models", tags=["service"])
    def models(_: Annotated[Caller, Depends(desk.caller)]) -> dict[str, Any]:
        """What the engines hold; a version that was refused, and why."""
        return {"models": [{"engine": name, **card} for name, card in desk.store.workers().items()]}

    @app.get("/healthz", tags=["service"])
    def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["service"])
    def ready() -> dict[str, str]:
        """An engine has warmed up and takes work; 503 until then."""
        if not any(worker["state"] == "ready" for worker in desk.store.workers().values()):
            raise Problem(503, "no engine is ready yet.", {"Retry-After": "2"})
        return {"status": "ready"}
