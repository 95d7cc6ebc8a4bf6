"""Limits for the visitors of the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        upload: maximum bytes of an image file.
        request: maximum bytes of any other request.
        side: maximum width and height in pixels; larger images are resized.
        images: number of uploaded images in memory; the oldest is removed.
        encoded: number of encoded images in memory, over all models.
        prompts: maximum points of a prompt.
        grid: maximum points per side of the grid where everything is segmented.
        masks: maximum masks of an image where everything is segmented; the surest stay.
        tried: number of models in memory that were made to be tried; the oldest is removed.
        waiting: number of requests that may wait for a model; further ones get an error.
        connections: maximum open connections.
        seconds: maximum time that a client needs to send its request.
    """

    upload: int = 20_000_000
    request: int = 100_000
    side: int = 1600
    images: int = 24
    encoded: int = 32
    prompts: int = 64
    grid: int = 16
    masks: int = 100
    tried: int = 4
    waiting: int = 8
    connections: int = 256
    seconds: float = 15.0
