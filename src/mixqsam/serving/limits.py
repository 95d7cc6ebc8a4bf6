"""What one visitor may ask of the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the server.

    Attributes:
        upload: bytes of an image file.
        request: bytes of any other request.
        side: pixels; larger images are shrunk to it.
        images: uploaded ones that are kept; the oldest goes.
        encoded: images that are kept encoded, over all models.
        prompts: points of a prompt.
        waiting: requests that may wait for a model; the next one is told that the server is busy.
        connections: open at once.
        seconds: that a client may take to send its request.
    """

    upload: int = 20_000_000
    request: int = 100_000
    side: int = 1600
    images: int = 24
    encoded: int = 32
    prompts: int = 64
    waiting: int = 8
    connections: int = 256
    seconds: float = 15.0
