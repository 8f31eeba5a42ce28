"""The service on Ray Serve: an ingress that speaks HTTP, engines that hold the networks, a job store between them, and
media replicas that do the engines' work on files."""

import logging
import math
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from pipelines.models import locate
from pipelines.serve.config import ServeConfig
from pipelines.serve.media import Media, RemoteMedia
from pipelines.serve.routes import create
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import settings
from xnemo_platform.trainer import start_ray

NAME = "xnemo"
READY_S = 300.0
ASK_S = 60.0
ERROR = re.compile(r"^[\w.]*Error: ")
log = logging.getLogger(__name__)


class EngineReplica:
    """One engine per replica. It takes its work from the job store, not from calls."""

    def __init__(self, config: ServeConfig, media: Any) -> None:
        from pipelines.serve.engine import Engine  # the other replicas, and Serve's controller, do without torch

        logging.getLogger("pipelines").setLevel(logging.INFO)
        self.engine = Engine(config, RemoteMedia(media))
        self.engine.start()  # Serve counts the replica as running only after this: a warm-up render is part of it

    def check_health(self) -> None:
        if not self.engine.healthy():
            raise RuntimeError("a thread of the engine has died")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `by_backlog` scales by: Serve itself sees no calls here."""
        return {"backlog": self.engine.backlog(), "in_hand": self.engine.in_hand()}

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.stop()


class IngressReplica:
    """The HTTP interface; the handle only makes Serve start the engine with it."""

    def __init__(self, config: ServeConfig, engine: Any) -> None:
        self.config, self.engine = config, engine

    def __serve_build_asgi_app__(self) -> Any:
        return create(self.config)

    def port(self) -> int:
        """The port that the service was started on."""
        return self.config.port


def app(config: ServeConfig) -> Application:
    """The Serve application, for `serve.run`."""
    config = config.model_copy(update={"folder": str(Path(config.folder).expanduser().resolve())})
    env = {"runtime_env": {"env_vars": settings().env()}}
    media = serve.deployment(Media, name="media", ray_actor_options={"num_cpus": config.media_cpus} | env,
                             max_ongoing_requests=config.media_workers, health_check_period_s=5)  # fmt: skip
    resources = {"num_cpus": config.cpus, "num_gpus": config.gpus} | env
    engine = serve.deployment(EngineReplica, name="engine", ray_actor_options=resources, max_ongoing_requests=8,
                              graceful_shutdown_timeout_s=60, health_check_period_s=5,
                              max_constructor_retry_count=2)  # fmt: skip
    ingress = serve.deployment(serve.ingress()(IngressReplica), name="ingress", max_ongoing_requests=100,
                               ray_actor_options={"num_cpus": 0.1})  # fmt: skip
    bound: Application = ingress.bind(config, engine.bind(config, media.bind(config)))
    return bound


def build(args: dict[str, Any]) -> Application:
    """The application for `serve deploy` (infra/serve/*.yaml): `args` are keys of ServeConfig."""
    try:
        return app(ServeConfig.model_validate(args))
    except ValidationError as error:
        first = error.errors()[0]
        raise PlatformError(f"args: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def by_backlog(context: Any) -> tuple[int, dict[str, Any]]:
    """Autoscaling policy: as many engines as the waiting and running jobs fill (infra/serve)."""
    stats = context.aggregated_metrics or {}
    backlog = max(stats.get("backlog", {}).values(), default=0.0)  # each reports the jobs that wait, and its own
    others = sum(stats.get("in_hand", {}).values()) - max(stats.get("in_hand", {}).values(), default=0.0)
    wanted = math.ceil(backlog + others - 1e-6)
    lowest, highest = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(lowest, min(highest, wanted)), {}


def start(config: ServeConfig) -> str:
    """Run the service on the Ray cluster of this process (a local one is started if there is none); returns its URL
    once it is ready. A service that runs there already is replaced and keeps its port. Raises PlatformError for a
    busy port, a missing model, or a model that does not come up; nothing is left running then."""
    from pipelines.serve import samples

    locate(config.model)  # the sentence is clearer here than out of a replica
    joined = ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))
    port = None if joined else _port(config.host, config.port)
    start_ray(settings().cpus)
    port = (_running_port() if joined else port) or _port(config.host, config.port)
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    offered = config.samples or str(samples.draw(Path(config.folder).expanduser().resolve() / "samples"))
    config = config.model_copy(update={"port": port, "samples": offered})
    serve.start(http_options={"host": config.host, "port": port})
    try:
        serve.run(app(config), name=NAME, route_prefix="/")
        _wait(config)
        _answers(f"http://{host}:{port}", port)
    except RuntimeError as error:
        cause = error if isinstance(error, PlatformError) else _cause() or error
        stop()
        raise PlatformError(f"the service did not come up: {cause}") from error
    if host != config.host and not config.require_key:
        log.warning("the service is open to whoever reaches port %s: require_key=true asks for keys", port)
    return f"http://{host}:{port}"


def stop() -> None:
    """Take the service down; unfinished jobs stay in the queue for its next start."""
    serve.shutdown()
    end = time.monotonic() + ASK_S  # a controller that is still going would take the next service's proxies with it
    while time.monotonic() < end and any(
        actor["namespace"] == "serve" for actor in ray.util.list_named_actors(all_namespaces=True)
    ):
        time.sleep(0.1)


def _running_port() -> int | None:
    """The port of this service where it runs on this cluster already; its HTTP options cannot be changed then."""
    if NAME not in serve.status().applications:
        return None
    try:
        return int(serve.get_app_handle(NAME).port.remote().result(timeout_s=ASK_S))
    except Exception:  # it is there but does not answer: it is about to be replaced
        return None


def _port(host: str, port: int) -> int:
    """The port to bind; 0 finds a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PlatformError(f"port {port} on {host} cannot be used ({error.strerror}): choose another with port=…, "
                                "or port=0 for a free one.") from None  # fmt: skip
        found: int = probe.getsockname()[1]
        return found


def _wait(config: ServeConfig) -> None:
    from xnemo_platform.jobstore import JobStore

    store, end = JobStore(config.store_url), time.monotonic() + READY_S
    while not any(worker["state"] == "ready" for worker in store.workers().values()):
        if time.monotonic() > end:
            raise PlatformError(f"no engine was ready after {READY_S:.0f} s; see the Serve log of the engine.")
        time.sleep(0.1)
    store.close()


def _answers(url: str, port: int) -> None:
    """Whether the proxy listens where we say; Serve may run on this cluster for others, on a port of their choice."""
    import requests

    end = time.monotonic() + ASK_S
    while time.monotonic() < end:
        with suppress(requests.RequestException):
            if requests.get(f"{url}/healthz", timeout=ASK_S).ok:
                return
        time.sleep(0.2)
    raise PlatformError(f"Serve runs on this cluster already and not on port {port}: give its port with port=…")


def _cause() -> str:
    """The error that a replica died of, out of the trace that Serve shows."""
    for application in serve.status().applications.values():
        for deployment in application.deployments.values():
            lines = [line.strip() for line in deployment.message.splitlines()]
            errors = [line for line in lines if ERROR.match(line)]
            if errors:
                return ERROR.sub("", errors[-1])
    return ""
