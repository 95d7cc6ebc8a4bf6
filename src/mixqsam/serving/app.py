"""The page's application: answers requests with JSON and pictures. One worker with a bounded queue runs the models."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mixqsam.errors import MixqsamError
from mixqsam.pipeline.trial import find_obstacle
from mixqsam.serving.everything import Everything
from mixqsam.serving.masks import describe_segmentations
from mixqsam.serving.requests import (
    parse_automatic,
    parse_budget,
    parse_choice,
    parse_name,
    parse_names,
    parse_prompt,
    read_body,
    read_json,
)
from mixqsam.serving.timeouts import SendTimeout
from mixqsam.serving.trials import Trials
from mixqsam.serving.worker import Worker
from mixqsam.serving.workspace import Workspace
from mixqsam.web.page import REPORT_STYLE
from mixqsam.web.page import STATIC as PAGE_FILES

_STATIC = Path(__file__).with_name("static")
# What the page shares with reports, and with the page of exported models.
_SHARED = {
    "/report.css": (REPORT_STYLE, "text/css"),
    "/controls.css": (PAGE_FILES / "controls.css", "text/css"),
    "/canvas.js": (PAGE_FILES / "canvas.js", "text/javascript"),
}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class _Files(StaticFiles):
    """The page's files, with the headers of all answers: modules of two versions would not fit each other."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers.update(_HEADERS)
        return response


def make_app(workspace: Workspace, *, hosts: list[str]) -> Starlette:
    """Make the application.

    Args:
        workspace: models and images.
        hosts: allowed host names; others are refused, so that web sites cannot reach the server under their own names.
    """
    page = Page(workspace)

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        page.stop()

    routes = [
        Route("/", page.home),
        *(Route(address, page.shared) for address in _SHARED),
        Route("/api/state", page.state),
        Route("/api/images/{name:str}", page.picture),
        Route("/api/images", page.upload, methods=["POST"]),
        Route("/api/segment", page.segment, methods=["POST"]),
        Route("/api/everything", page.everything, methods=["POST"]),
        Route("/api/allocate", page.allocate, methods=["POST"]),
        Route("/api/tries", page.start_trial, methods=["POST"]),
        Route("/api/tries/{number:int}", page.trial),
        Mount("/static", _Files(directory=_STATIC)),
    ]
    return Starlette(
        routes=routes,
        lifespan=run,
        middleware=[
            Middleware(SendTimeout, seconds=workspace.limits.seconds),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        ],
        exception_handlers={
            HTTPException: _answer_http_error,
            MixqsamError: _answer_input_error,
            Exception: _answer_fault,
        },
    )


class Page:
    """The answers to the page's requests."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._worker = Worker(workspace.limits.waiting)
        # Solving needs no model; with its own thread it does not delay masks.
        self._solver = Worker(workspace.limits.waiting)
        self._trials = Trials(workspace, solver=self._solver, predicting=self._worker)

    def stop(self) -> None:
        """Stop what goes on in the background, for which the process would wait."""
        self._trials.stop()

    async def home(self, request: Request) -> Response:
        """The page itself."""
        del request
        return Response((_STATIC / "index.html").read_bytes(), media_type="text/html", headers=_HEADERS)

    async def shared(self, request: Request) -> Response:
        """A file that the page shares with others."""
        path, kind = _SHARED[request.url.path]
        return Response(path.read_bytes(), media_type=kind, headers=_HEADERS)

    async def state(self, request: Request) -> Response:
        """Models, sample images, limits."""
        del request
        limits = self._workspace.limits
        return _json_response(
            {
                "models": self._workspace.models(),
                "samples": self._workspace.gallery.samples(),
                "limits": {"upload": limits.upload, "side": limits.side, "grid": limits.grid},
            }
        )

    async def picture(self, request: Request) -> Response:
        """An image, as a thumbnail or at the resolution of the page."""
        name, small = request.path_params["name"], "small" in request.query_params
        content = await self._worker.run(lambda: self._workspace.gallery.picture(name, side=160 if small else None))
        return Response(content, media_type="image/jpeg", headers=_HEADERS)

    async def upload(self, request: Request) -> Response:
        """Add an uploaded image."""
        limits = self._workspace.limits
        content = await read_body(request, maximum=limits.upload, seconds=limits.seconds)
        return _json_response(await self._worker.run(lambda: self._workspace.gallery.add(content)))

    async def segment(self, request: Request) -> Response:
        """Masks of one or two models for one prompt, and their difference."""
        value = await self._read_json(request)
        models, image = parse_names(value.get("models"), maximum=2), parse_name(value, "image")
        choice = parse_choice(value.get("mask", 0))

        def work() -> dict[str, Any]:
            picture = self._workspace.gallery.image(image)
            prompts = parse_prompt(
                value, width=picture.width, height=picture.height, maximum=self._workspace.limits.prompts
            )
            segmentations = [self._workspace.segment(model, image, prompts, choice=choice) for model in models]
            return describe_segmentations(models, segmentations)

        return _json_response(await self._worker.run(work))

    async def everything(self, request: Request) -> Response:
        """All masks of an image by one model, after lines that say how far it is."""
        value = await self._read_json(request)
        model, image = parse_name(value, "model"), parse_name(value, "image")
        options = parse_automatic(value, maximum=self._workspace.limits.grid)
        everything = Everything(self._workspace, self._worker, model=model, image=image, options=options)
        return StreamingResponse(await everything.begin(), media_type="application/x-ndjson", headers=_HEADERS)

    async def allocate(self, request: Request) -> Response:
        """Bits of a model within another budget; without a budget, the ranges of size and BitOps."""
        value = await self._read_json(request)
        model = parse_name(value, "model")
        budget = parse_budget(value) if "size" in value else None

        def work() -> dict[str, Any]:
            explorer = self._workspace.explorer(model)
            if budget is not None:
                return explorer.solve(size=budget.size, bitops=budget.bitops, tied=budget.tied)
            obstacle = find_obstacle(self._workspace.directory(model))
            return {"size": vars(explorer.size), "bitops": vars(explorer.bitops), "obstacle": obstacle}

        return _json_response(await self._solver.run(work))

    async def start_trial(self, request: Request) -> Response:
        """Start to make the model of another budget."""
        value = await self._read_json(request)
        model = parse_name(value, "model")
        trial = await self._trials.start(model, parse_budget(value))
        return _json_response(self._trials.describe(trial.number))

    async def trial(self, request: Request) -> Response:
        """How far a model is that is being made."""
        return _json_response(self._trials.describe(request.path_params["number"]))

    async def _read_json(self, request: Request) -> dict[str, Any]:
        limits = self._workspace.limits
        return await read_json(request, maximum=limits.request, seconds=limits.seconds)


def _json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(value, status_code=status, headers={**_HEADERS, **(headers or {})})


async def _answer_http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    return _json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _answer_input_error(request: Request, error: Exception) -> Response:
    del request
    return _json_response({"error": str(error)}, 400)


async def _answer_fault(request: Request, error: Exception) -> Response:
    del request
    return _json_response({"error": f"Internal error ({type(error).__name__}); please report it."}, 500)
