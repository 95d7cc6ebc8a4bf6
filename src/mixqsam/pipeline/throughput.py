"""How fast everything in an image is segmented: the time of one batch of points, and what follows for an image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mixqsam.evaluation.latency import Latency
from mixqsam.prediction import Predictor
from mixqsam.sam.automatic import measure_stability, split_grid
from mixqsam.sam.automatic_options import Automatic

# Which masks the filters leave depends on the model and the image, and random weights leave none. So that all models do
# the same work, one mask in this number is drawn.
_DRAWN_OF = 4


@dataclass(frozen=True)
class Throughput:
    """How fast a model segments everything.

    Attributes:
        points: that are prompted at once, with three masks each.
        batch: median seconds of these points: decoder, filters, and a quarter of the masks at the image's resolution.
        points_per_second: points of a batch by its seconds.
        image: seconds of an image, estimated: the encoder, and all points of the grid. Duplicates
            are removed in addition.
    """

    points: int
    batch: float
    points_per_second: float
    image: float


class PointBatch:
    """The first points of an image's grid, as `segment_everything` prompts them at once.

    Args:
        image: the image.
        options: the grid and the filters.
    """

    def __init__(self, image: Image.Image, options: Automatic) -> None:
        self._options = options
        self._points = split_grid(image.height, image.width, options=options)[0]

    def find(self, predictor: Predictor) -> object:
        """Find the masks of these points with a predictor that has the image, and draw a quarter of them."""
        found = predictor.propose(self._points)
        places = np.arange(found.scores.size).reshape(found.scores.shape)
        return measure_stability(found, places >= 0), found.draw(places % _DRAWN_OF == 0)

    def throughput(self, latency: Latency) -> Throughput | None:
        """Work out the throughput from measured times; None where the batch was not timed."""
        if latency.batch is None:
            return None
        rate = len(self._points) / latency.batch
        return Throughput(len(self._points), latency.batch, rate, latency.encoder + self._options.side**2 / rate)
