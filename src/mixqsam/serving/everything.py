"""Everything in an image, found group by group of points, so that other visitors are served in between."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.exceptions import HTTPException

from mixqsam.errors import MixqsamError
from mixqsam.prompts import Prompts
from mixqsam.sam.automatic import Automatic, Masks, join_masks, split_grid
from mixqsam.serving.masks import describe_everything
from mixqsam.serving.worker import Worker
from mixqsam.serving.workspace import Workspace

# Each group takes well below a second on a free machine.
_POINTS_AT_ONCE = 8


class Everything:
    """Finds all masks of an image by one model.

    Args:
        workspace: has the model and the image.
        worker: the worker whose thread uses the workspace's models.
        model: its name.
        image: its name.
        options: the grid of points, and how sure a mask has to be.
    """

    def __init__(self, workspace: Workspace, worker: Worker, *, model: str, image: str, options: Automatic) -> None:
        self._workspace, self._worker = workspace, worker
        self._model, self._image, self._options = model, image, options

    async def begin(self) -> AsyncIterator[str]:
        """Find the masks of the first group, and return what finds the others: lines of JSON.

        Lines are `{"done": …, "total": …}` in points; the last one has the masks, or `error`.

        Raises:
            InputError: the model or the image is unknown.
            HTTPException: 503, the server is busy.
        """
        picture = await self._worker.run(lambda: self._workspace.gallery.image(self._image))
        groups = split_grid(picture.height, picture.width, options=self._options, at_once=_POINTS_AT_ONCE)
        return self._go_on(groups, await self._find(groups[0]))

    async def _find(self, points: Prompts) -> Masks:
        return await self._worker.run(
            lambda: self._workspace.find_masks(self._model, self._image, points, self._options)
        )

    async def _go_on(self, groups: list[Prompts], first: Masks) -> AsyncIterator[str]:
        found, done, total = [first], len(groups[0]), sum(map(len, groups))
        try:
            for points in groups[1:]:
                yield _line({"done": done, "total": total})
                found.append(await self._find(points))
                done += len(points)
            maximum = self._workspace.limits.masks
            masks = await self._worker.run(
                lambda: describe_everything(join_masks(found, self._options), maximum=maximum)
            )
            yield _line(masks)
        except HTTPException as error:
            yield _line({"error": error.detail})
        except MixqsamError as error:
            yield _line({"error": str(error)})


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"
