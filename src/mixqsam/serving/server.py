"""Start the server and stop it at Ctrl-C."""

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvicorn

from mixqsam.artifact.store import is_quantized
from mixqsam.data.demo import EVALUATION, demo_samples
from mixqsam.data.images import list_images
from mixqsam.errors import ImageError, OutputError
from mixqsam.options.names import DEMO_FOLDER
from mixqsam.sam.load import EMBEDDED
from mixqsam.serving.app import make_app
from mixqsam.serving.limits import Limits
from mixqsam.serving.timeouts import HeadTimeoutProtocol
from mixqsam.serving.workspace import Workspace, collect_models

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    models: Mapping[str, str],
    samples: Mapping[str, Path],
    *,
    host: str,
    port: int,
    ready: Callable[[str], None],
    limits: Limits | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        models: name → source.
        samples: name → image.
        host: address to listen at; other machines reach every address but loopback.
        port: port to listen at; 0 for any free one.
        ready: receives the page's address.
        limits: limits for visitors.

    Raises:
        MixqsamError: a model cannot be loaded.
        OutputError: the server cannot listen at the address.
    """
    limits = limits or Limits()
    workspace = Workspace(models, samples, limits=limits)
    workspace.check_models()
    with _listen(host, port) as listener:
        actual_port = listener.getsockname()[1]
        hosts = [*LOOPBACK[:2], "[::1]"] if host in LOOPBACK else ["*"]
        config = uvicorn.Config(
            make_app(workspace, hosts=hosts),
            # Disconnected clients need no message; visitors find errors in the response.
            log_level="critical",
            http=HeadTimeoutProtocol,
            limit_concurrency=limits.connections,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            server_header=False,
        )
        url_host = f"[{host}]" if ":" in host else host
        ready(f"http://{url_host}:{actual_port}/")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt as stopped:
            # Ctrl-C is how a visitor closes the page; SIGTERM raises a subclass.
            if type(stopped) is not KeyboardInterrupt:
                raise


def serve_models(
    sources: Sequence[str],
    *,
    images: Path | None,
    host: str,
    port: int,
    ready: Callable[[str, Sequence[str]], None],
) -> None:
    """Serve models, and the float model of the first, until Ctrl-C.

    Args:
        sources: float models, quantized directories, exported directories; none for `default_models`.
        images: folder of images that visitors may choose; None for the demonstration's photographs.
        host: see `serve`.
        port: see `serve`.
        ready: receives the page's address and the models' names.

    Raises:
        MixqsamError: a model cannot be loaded, or the folder has no images.
        OutputError: the server cannot listen at the address.
    """
    models = collect_models(sources or default_models())
    serve(models, _samples(images), host=host, port=port, ready=lambda address: ready(address, list(models)))


def default_models() -> list[str]:
    """The demonstration's model from the working directory; without it the embedded model."""
    demonstration = Path(DEMO_FOLDER) / "quantized"
    return [str(demonstration) if is_quantized(demonstration) else EMBEDDED]


# Maximum number of thumbnails on the page.
_MAX_SAMPLES = 24


def _samples(folder: Path | None) -> dict[str, Path]:
    """Images of a folder, or the demonstration's photographs if they are installed."""
    if folder is not None:
        return {str(path.relative_to(folder)): path for path in list_images(folder)[:_MAX_SAMPLES]}
    try:
        return {sample.path.name: sample.path for sample in demo_samples(EVALUATION)}
    except ImageError:
        return {}


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "choose another --port" if error.errno == errno.EADDRINUSE else "choose another --host or --port"
        raise OutputError(f"Cannot listen at {host}, port {port}: {error.strerror or error}; {hint}.") from error
