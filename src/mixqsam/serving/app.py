"""The page's application: answers requests with JSON and pictures. One worker with a bounded queue runs the models."""

import asyncio
import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mixqsam.errors import InputError, MixqsamError
from mixqsam.serving.timeouts import SendTimeout
from mixqsam.serving.workspace import Workspace, compare_masks, mask_png, parse_choice, parse_prompt
from mixqsam.web.page import REPORT_STYLE
from mixqsam.web.page import STATIC as PAGE_FILES

T = TypeVar("T")
_STATIC = Path(__file__).with_name("static")
# What the page shares with reports, and with the page of exported models.
_SHARED = {
    "/report.css": (REPORT_STYLE, "text/css"),
    "/controls.css": (PAGE_FILES / "controls.css", "text/css"),
    "/canvas.js": (PAGE_FILES / "canvas.js", "text/javascript"),
}
# The page sends this header; browsers do not let other sites send it.
_PAGE_HEADER = "x-mixqsam"
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Worker:
    """One thread for one kind of work, with a bounded queue."""

    def __init__(self, waiting: int) -> None:
        self._waiting, self._queued = waiting, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mixqsam")

    async def run(self, work: Callable[[], T]) -> T:
        """Queue the work and return its result.

        Raises:
            HTTPException: 503, the queue is full.
        """
        if self._queued > self._waiting:
            raise HTTPException(503, "The server is busy; try again in a few seconds.", {"retry-after": "3"})
        self._queued += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._queued -= 1

    def close(self) -> None:
        """Finish the running work, and cancel the queue."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def make_app(workspace: Workspace, *, hosts: list[str]) -> Starlette:
    """Make the application.

    Args:
        workspace: models and images.
        hosts: allowed host names; others are refused, so that web sites cannot reach the server under their own names.
    """
    page = Page(workspace)
    routes = [
        Route("/", page.home),
        *(Route(address, page.shared) for address in _SHARED),
        Route("/api/state", page.state),
        Route("/api/images/{name:str}", page.picture),
        Route("/api/images", page.upload, methods=["POST"]),
        Route("/api/segment", page.segment, methods=["POST"]),
        Route("/api/allocate", page.allocate, methods=["POST"]),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    return Starlette(
        routes=routes,
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
                "samples": self._workspace.samples(),
                "limits": {"upload": limits.upload, "side": limits.side},
            }
        )

    async def picture(self, request: Request) -> Response:
        """An image, as a thumbnail or at the resolution of the page."""
        name, small = request.path_params["name"], "small" in request.query_params
        content = await self._worker.run(lambda: self._workspace.picture(name, side=160 if small else None))
        return Response(content, media_type="image/jpeg", headers=_HEADERS)

    async def upload(self, request: Request) -> Response:
        """Add an uploaded image."""
        content = await self._read_body(request, maximum=self._workspace.limits.upload)
        return _json_response(await self._worker.run(lambda: self._workspace.add_image(content)))

    async def segment(self, request: Request) -> Response:
        """Masks of one or two models for one prompt, and their difference."""
        value = await self._read_json(request)
        models, image = _parse_names(value.get("models"), maximum=2), _parse_names([value.get("image")], maximum=1)[0]
        choice = parse_choice(value.get("mask", 0))

        def work() -> dict[str, Any]:
            picture = self._workspace.image(image)
            prompts = parse_prompt(
                value, width=picture.width, height=picture.height, maximum=self._workspace.limits.prompts
            )
            segmentations = [self._workspace.segment(model, image, prompts, choice=choice) for model in models]
            results = [
                {
                    "model": model,
                    "mask": "data:image/png;base64," + base64.b64encode(mask_png(segmentation.mask)).decode(),
                    "pixels": int(segmentation.mask.sum()),
                    "predicted_iou": segmentation.predicted_iou,
                    "encode_seconds": segmentation.encode_seconds,
                    "encoded_now": segmentation.encoded_now,
                    "prompt_seconds": segmentation.prompt_seconds,
                }
                for model, segmentation in zip(models, segmentations, strict=True)
            ]
            return {"results": results, "difference": compare_masks(segmentations[0].mask, segmentations[-1].mask)}

        return _json_response(await self._worker.run(work))

    async def allocate(self, request: Request) -> Response:
        """Bits of a model within another budget; without a budget, the ranges of size and BitOps."""
        value = await self._read_json(request)
        (model,) = _parse_names([value.get("model")], maximum=1)

        def work() -> dict[str, Any]:
            explorer = self._workspace.explorer(model)
            if "size" not in value:
                return {"size": vars(explorer.size), "bitops": vars(explorer.bitops)}
            try:
                size, bitops = float(value["size"]), float(value["bitops"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError("Give the budget as a size in bytes and a number of BitOps.") from error
            return explorer.solve(size=size, bitops=bitops, tied=bool(value.get("tied")))

        return _json_response(await self._solver.run(work))

    async def _read_json(self, request: Request) -> dict[str, Any]:
        content = await self._read_body(request, maximum=self._workspace.limits.request)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError("The request is not JSON.") from error
        if not isinstance(value, dict):
            raise InputError("The request is not a JSON object.")
        return value

    async def _read_body(self, request: Request, *, maximum: int) -> bytes:
        """Read a request's body: it must come from our page, be small enough, and arrive in time."""
        if _PAGE_HEADER not in request.headers:
            raise HTTPException(
                403, f"The header {_PAGE_HEADER}: 1 is missing; it protects the page from other web sites."
            )
        too_large = HTTPException(413, f"The request is too large; at most {maximum / 1e6:g} MB can be sent.")
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > maximum:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._workspace.limits.seconds):
                async for part in request.stream():
                    parts.append(part)
                    if sum(map(len, parts)) > maximum:
                        raise too_large
        except TimeoutError as error:
            raise HTTPException(408, "The request took too long to arrive.", {"connection": "close"}) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The client disconnected.") from error
        return b"".join(parts)


def _parse_names(values: Any, *, maximum: int) -> list[str]:
    if (
        not isinstance(values, list)
        or not 0 < len(values) <= maximum
        or not all(isinstance(name, str) for name in values)
    ):
        raise InputError(f"Expected one to {maximum} names.")
    return list(values)


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
