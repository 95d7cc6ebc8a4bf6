"""Images of the page: those that come with it, and uploads. Not thread-safe."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mixqsam.data.images import decode_image, open_image
from mixqsam.errors import ImageError
from mixqsam.serving.limits import Limits
from mixqsam.serving.recent import LruCache


class Gallery:
    """Images by name.

    Args:
        samples: images that visitors may choose.
        limits: sizes of images and caches.
    """

    def __init__(self, samples: Mapping[str, Path], *, limits: Limits) -> None:
        self._samples, self._side = dict(samples), limits.side
        self._uploads: LruCache[Image.Image] = LruCache(limits.images)
        self._opened: LruCache[Image.Image] = LruCache(4)
        self._count = 0

    def samples(self) -> list[str]:
        """Names of the images that come with the page."""
        return list(self._samples)

    def add(self, content: bytes) -> dict[str, Any]:
        """Add an uploaded image.

        Raises:
            ImageError: the content is not an image, or is too large.
        """
        image = self._shrink(decode_image(io.BytesIO(content), name="The upload"))
        self._count += 1
        name = f"upload-{self._count}"
        self._uploads.put(name, image)
        return {"image": name, "width": image.width, "height": image.height}

    def image(self, name: str) -> Image.Image:
        """Get an image at the resolution of the page.

        Raises:
            ImageError: the image is unknown, or was removed.
        """
        image = self._uploads.get(name) or self._opened.get(name)
        if image is None:
            path = self._samples.get(name)
            if path is None:
                raise ImageError(f"The image {name!r} is not on the server; upload it again.")
            image = self._shrink(open_image(path))
            self._opened.put(name, image)
        return image

    def picture(self, name: str, *, side: int | None = None) -> bytes:
        """Encode an image as JPEG, resized to `side` if given."""
        image = self.image(name)
        if side is not None:
            image = image.copy()
            image.thumbnail((side, side))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=90)
        return stream.getvalue()

    def _shrink(self, image: Image.Image) -> Image.Image:
        image.thumbnail((self._side, self._side), Image.Resampling.LANCZOS)
        return image
