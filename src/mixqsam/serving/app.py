"""The page's server: requests in, JSON and pictures out; all work goes through one worker with a bounded queue."""

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
from mixqsam.serving.patience import Timely
from mixqsam.serving.studio import Studio, agreement, mask_png, parse_prompt

T = TypeVar("T")
_STATIC = Path(__file__).with_name("static")
_STYLE = Path(__file__).parents[1] / "reporting/templates/page.css"
# Browsers send it with every request of the page's, and with none of another site's.
_OWN = "x-mixqsam"
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Worker:
    """One thread for one kind of work. Who finds the queue full is sent away."""

    def __init__(self, waiting: int) -> None:
        self._waiting, self._queued = waiting, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mixqsam")

    async def run(self, work: Callable[[], T]) -> T:
        """Do it when its turn comes.

        Raises:
            HTTPException: 503, too many are waiting.
        """
        if self._queued > self._waiting:
            raise HTTPException(503, "The server is busy; try again in a few seconds.", {"retry-after": "3"})
        self._queued += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._queued -= 1

    def close(self) -> None:
        """Finish what runs, and start nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def make_app(studio: Studio, *, hosts: list[str]) -> Starlette:
    """The application.

    Args:
        studio: models and images.
        hosts: names that the server may be called by; others are refused, so that no web site can reach it under a
            name of its own.
    """
    page = Page(studio)
    routes = [
        Route("/", page.home),
        Route("/report.css", page.style),
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
            Middleware(Timely, seconds=studio.limits.seconds),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        ],
        exception_handlers={HTTPException: _refused, MixqsamError: _mistaken, Exception: _failed},
    )


class Page:
    """The answers to the page's requests."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._worker = Worker(studio.limits.waiting)
        # Solving looks at no model, and must not keep anybody from a mask.
        self._solver = Worker(studio.limits.waiting)

    async def home(self, request: Request) -> Response:
        """The page itself."""
        del request
        return Response((_STATIC / "index.html").read_bytes(), media_type="text/html", headers=_HEADERS)

    async def style(self, request: Request) -> Response:
        """What the page shares with reports."""
        del request
        return Response(_STYLE.read_bytes(), media_type="text/css", headers=_HEADERS)

    async def state(self, request: Request) -> Response:
        """Models, sample images, limits."""
        del request
        limits = self._studio.limits
        return _json(
            {
                "models": self._studio.models(),
                "samples": self._studio.samples(),
                "limits": {"upload": limits.upload, "side": limits.side},
            }
        )

    async def picture(self, request: Request) -> Response:
        """An image, small or as it is worked on."""
        name, small = request.path_params["name"], "small" in request.query_params
        content = await self._worker.run(lambda: self._studio.picture(name, side=160 if small else None))
        return Response(content, media_type="image/jpeg", headers=_HEADERS)

    async def upload(self, request: Request) -> Response:
        """Take an image."""
        content = await self._body(request, most=self._studio.limits.upload)
        return _json(await self._worker.run(lambda: self._studio.add_image(content)))

    async def segment(self, request: Request) -> Response:
        """Masks of one or two models for one prompt, and how they differ."""
        value = await self._value(request)
        models, image = _strings(value.get("models"), most=2), _strings([value.get("image")], most=1)[0]

        def work() -> dict[str, Any]:
            picture = self._studio.image(image)
            prompts = parse_prompt(value, width=picture.width, height=picture.height, most=self._studio.limits.prompts)
            found = [self._studio.segment(model, image, prompts) for model in models]
            results = [
                {
                    "model": model,
                    "mask": "data:image/png;base64," + base64.b64encode(mask_png(one.mask)).decode(),
                    "pixels": int(one.mask.sum()),
                    "predicted_iou": one.predicted_iou,
                    "encode_seconds": one.encode_seconds,
                    "encoded_now": one.encoded_now,
                    "prompt_seconds": one.prompt_seconds,
                }
                for model, one in zip(models, found, strict=True)
            ]
            return {"results": results, "difference": agreement(found[0].mask, found[-1].mask)}

        return _json(await self._worker.run(work))

    async def allocate(self, request: Request) -> Response:
        """Other bits for a model within other budgets; without budgets, between which values they make sense."""
        value = await self._value(request)
        (model,) = _strings([value.get("model")], most=1)

        def work() -> dict[str, Any]:
            explorer = self._studio.explorer(model)
            if "size" not in value:
                return {"size": vars(explorer.size), "bitops": vars(explorer.bitops)}
            try:
                size, bitops = float(value["size"]), float(value["bitops"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError("A budget is a size in bytes and a number of BitOps.") from error
            return explorer.solve(size=size, bitops=bitops, tied=bool(value.get("tied")))

        return _json(await self._solver.run(work))

    async def _value(self, request: Request) -> dict[str, Any]:
        content = await self._body(request, most=self._studio.limits.request)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError("The request is not JSON.") from error
        if not isinstance(value, dict):
            raise InputError("The request is not a JSON object.")
        return value

    async def _body(self, request: Request, *, most: int) -> bytes:
        """A request's body, if it comes from our page, is small enough, and arrives in time."""
        if _OWN not in request.headers:
            raise HTTPException(403, f"This is for mixqsam's own page; others send the header {_OWN}: 1.")
        too_large = HTTPException(413, f"This is too large; at most {most / 1e6:g} MB can be sent.")
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > most:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._studio.limits.seconds):
                async for part in request.stream():
                    parts.append(part)
                    if sum(map(len, parts)) > most:
                        raise too_large
        except TimeoutError as error:
            raise HTTPException(408, "The request took too long to arrive.", {"connection": "close"}) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The client went away.") from error
        return b"".join(parts)


def _strings(values: Any, *, most: int) -> list[str]:
    if not isinstance(values, list) or not 0 < len(values) <= most or not all(isinstance(one, str) for one in values):
        raise InputError(f"Expected one to {most} names.")
    return list(values)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(value, status_code=status, headers={**_HEADERS, **(headers or {})})


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    return _json({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _mistaken(request: Request, error: Exception) -> Response:
    del request
    return _json({"error": str(error)}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    del request
    return _json({"error": f"Something unforeseen ({type(error).__name__}); please report it."}, 500)
