"""The web pages (web/), which need nothing from elsewhere, and the samples that the first offers to try."""

from functools import partial
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse

from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import Problem

PARTS = ("page.css", "page.js", "api.js", "camera.js", "motions.js", "docs.js")
PAGES = {"/": "index.html", "/docs": "docs.html"}
KINDS = {"portraits": {".png", ".jpg", ".jpeg", ".webp"}, "driving": {".mp4", ".webm", ".mov"}}
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def install(app: FastAPI, config: ServeConfig) -> None:
    """Add the page at `/`, the description of the interface at `/docs`, and the samples below `/samples`."""
    web = files("pipelines.serve").joinpath("web")
    for path, name in PAGES.items():
        html = web.joinpath(name).read_text(encoding="utf-8")
        app.add_api_route(path, partial(_page, html), include_in_schema=False)
    for name in PARTS:
        kind, text = "text/css" if name.endswith(".css") else "text/javascript", web.joinpath(name).read_text("utf-8")
        app.add_api_route(f"/{name}", partial(_part, text, kind), include_in_schema=False)

    @app.get("/samples", include_in_schema=False)
    def samples() -> dict[str, list[str]]:
        return {kind: [path.name for path in _listed(config, kind)] for kind in KINDS}

    @app.get("/samples/{kind}/{name}", include_in_schema=False)
    def sample(kind: str, name: str) -> FileResponse:
        for path in _listed(config, kind):
            if path.name == name:
                return FileResponse(path, headers={"Cache-Control": "max-age=3600"})
        raise Problem(404, "there is no such sample.")


def _page(html: str) -> Response:
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})


def _part(text: str, kind: str) -> Response:
    return Response(text, media_type=kind, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"})


def _listed(config: ServeConfig, kind: str) -> list[Path]:
    """Sample files of a kind; only these can be asked for, so no name leads elsewhere."""
    if config.samples is None or kind not in KINDS:
        return []
    folder = Path(config.samples, kind)
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(path for path in found if path.suffix.lower() in KINDS[kind] and path.is_file())[:24]
