"""The photographs of the demonstration: those that scikit-image and scikit-learn ship with their packages."""

from importlib import resources
from pathlib import Path

from mixqsam.errors import ImageError

CALIBRATION = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "motorcycle_right.png"),
    ("sklearn.datasets.images", "china.jpg"),
)
EVALUATION = (
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "rocket.jpg"),
    ("skimage.data", "camera.png"),
    ("sklearn.datasets.images", "flower.jpg"),
)


def demo_images(files: tuple[tuple[str, str], ...]) -> list[Path]:
    """Paths of the demonstration's photographs.

    Raises:
        ImageError: the packages that ship them are not installed.
    """
    paths = []
    for package, name in files:
        try:
            path = Path(str(resources.files(package) / name))
        except ModuleNotFoundError as error:
            raise ImageError(
                f"The demonstration's photographs come with scikit-image and scikit-learn ({error.name} is missing); "
                "install them with `pip install 'mixqsam[demo]'`."
            ) from error
        if not path.is_file():
            raise ImageError(f"{path} is missing from the installed package {package.split('.')[0]}.")
        paths.append(path)
    return paths
