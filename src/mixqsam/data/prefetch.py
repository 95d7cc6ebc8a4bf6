"""Decode images ahead of whoever works on them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from mixqsam.data.samples import Sample
from mixqsam.errors import ImageError

_WORKERS = 2
# Decoded images that wait: each takes 3 bytes a pixel.
_AHEAD = 4

K = TypeVar("K")


def opened(samples: Sequence[tuple[K, Sample]]) -> Iterator[tuple[K, Sample, Image.Image | ImageError]]:
    """Samples with their images, in their order, or with the error that an image cannot be read.

    Threads decode the next few while the caller works; memory holds those and no more.
    """
    waiting: deque[tuple[K, Sample, Future[Image.Image]]] = deque()
    rest = iter(samples)
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            while True:
                while len(waiting) < _AHEAD and (following := next(rest, None)) is not None:
                    waiting.append((*following, pool.submit(following[1].open)))
                if not waiting:
                    return
                key, sample, image = waiting.popleft()
                try:
                    yield key, sample, image.result()
                except ImageError as error:
                    yield key, sample, error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
