"""What the functions of the interface share: from what a caller may give to what jobs take."""

from pathlib import Path
from typing import Any

from mixqsam.files import write_json
from mixqsam.pipeline.options import Data, Evaluation
from mixqsam.pipeline.session import Session, open_session
from mixqsam.progress import Progress

# What `run.json` says of the command, where there was none.
_COMMAND = "(called from Python)"


def session_of(
    cache: Path | str | None = None,
    progress: Progress | None = None,
    *,
    device: str = "cpu",
    processes: int | None = None,
    is_group: bool = False,
) -> Session:
    """The session of a call."""
    return open_session(
        cache=cache, device=device, progress=progress, processes=processes, is_group=is_group, command=_COMMAND
    )


def data_of(images: Data | Path | str) -> Data:
    """Images and prompts; a folder alone is prompted with a grid of points."""
    return images if isinstance(images, Data) else Data(Path(images))


def evaluation_of(images: Evaluation | Data | Path | str | None) -> Evaluation:
    """On what models are compared; None for images that the calibration leaves over."""
    if images is None or isinstance(images, Evaluation):
        return images or Evaluation()
    return Evaluation(data_of(images))


def write_scores(output: Path | str | None, scores: Any) -> None:
    """Write figures as JSON, where the caller names a file."""
    if output is not None:
        write_json(Path(output), scores)
