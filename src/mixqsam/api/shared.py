"""Convert arguments of the interface to the values that the pipeline takes."""

from pathlib import Path
from typing import Any

from mixqsam.files import write_json
from mixqsam.pipeline.options import Data, Evaluation
from mixqsam.pipeline.session import Session, open_session
from mixqsam.progress import Progress

# The command in `run.json` of a call from Python.
_COMMAND = "(called from Python)"


def start_session(
    cache: Path | str | None = None,
    progress: Progress | None = None,
    *,
    device: str = "cpu",
    processes: int | None = None,
    is_group: bool = False,
) -> Session:
    """Start the session of a call."""
    return open_session(
        cache=cache, device=device, progress=progress, processes=processes, is_group=is_group, command=_COMMAND
    )


def as_data(images: Data | Path | str) -> Data:
    """Make `Data` of images; a folder alone gets a grid of points as prompts."""
    return images if isinstance(images, Data) else Data(Path(images))


def as_evaluation(images: Evaluation | Data | Path | str | None) -> Evaluation:
    """Make `Evaluation` of images; None stands for images that do not calibrate."""
    if images is None or isinstance(images, Evaluation):
        return images or Evaluation()
    return Evaluation(as_data(images))


def write_output(output: Path | str | None, result: Any) -> None:
    """Write a result as JSON, if the caller names a file."""
    if output is not None:
        write_json(Path(output), result)
