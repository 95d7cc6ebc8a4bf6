"""Sessions of commands: only the first process prints progress and results."""

from pathlib import Path

from mixqsam.cli.bars import ProgressBars
from mixqsam.cli.command import format_command
from mixqsam.cli.console import err, out
from mixqsam.pipeline import session
from mixqsam.pipeline.session import Session


def open_session(
    cache: Path | None = None, device: str = "cpu", *, processes: int | None = None, is_group: bool = False
) -> Session:
    """Open the session of a command; `is_group` if it may be one of several processes that torchrun launched."""
    opened = session.open_session(
        cache=cache,
        device=device,
        progress=ProgressBars(),
        processes=processes,
        is_group=is_group,
        command=format_command(),
    )
    if opened.engine.rank:
        # Only rank 0 prints.
        out.quiet = err.quiet = True
    return opened
