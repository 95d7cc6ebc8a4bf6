"""The photographs of the demonstration: those that scikit-image and scikit-learn ship with their packages."""

from importlib import resources
from pathlib import Path

import numpy as np

from mixqsam.data.images import open_image
from mixqsam.data.samples import Sample
from mixqsam.errors import ImageError
from mixqsam.prompts import Prompts, point_grid

# (package, file, boxes around things to see: x1, y1, x2, y2)
Photograph = tuple[str, str, tuple[tuple[int, int, int, int], ...]]

CALIBRATION: tuple[Photograph, ...] = (
    ("skimage.data", "astronaut.png", ((25, 15, 365, 511), (358, 10, 458, 300))),
    ("skimage.data", "coffee.png", ((172, 17, 422, 308), (75, 37, 480, 388))),
    ("skimage.data", "motorcycle_right.png", ((50, 78, 625, 450),)),
    ("sklearn.datasets.images", "china.jpg", ((66, 28, 352, 390),)),
)
EVALUATION: tuple[Photograph, ...] = (
    ("sklearn.datasets.images", "flower.jpg", ((168, 84, 446, 362),)),
    ("skimage.data", "camera.png", ((0, 60, 325, 511),)),
    ("skimage.data", "chelsea.png", ((133, 84, 209, 147), (293, 108, 341, 165), (230, 223, 290, 265))),
    ("skimage.data", "rocket.jpg", ((306, 126, 339, 412),)),
)


def demo_samples(photographs: tuple[Photograph, ...], *, grid: int = 0) -> list[Sample]:
    """Make samples of the demonstration's photographs with their boxes; with `grid`, also with grid × grid points.

    Raises:
        ImageError: the packages with the photographs are not installed.
    """
    samples = []
    for package, name, boxes in photographs:
        path = _find(package, name)
        image = open_image(path)
        prompts = [Prompts(boxes=np.array(boxes, dtype=np.float64))]
        if grid:
            prompts.append(point_grid(width=image.width, height=image.height, side=grid))
        samples += [Sample(path, image.width, image.height, image_prompts) for image_prompts in prompts]
    return samples


def _find(package: str, name: str) -> Path:
    try:
        path = Path(str(resources.files(package) / name))
    except ModuleNotFoundError as error:
        raise ImageError(
            f"The demonstration's photographs come with scikit-image and scikit-learn ({error.name} is missing); "
            "install them with `pip install 'mixqsam[demo]'`."
        ) from error
    if not path.is_file():
        raise ImageError(f"{path} is missing from the installed package {package.split('.', maxsplit=1)[0]}.")
    return path
