"""The session of a command: progress on the terminal, and silence in all processes but the first."""

from pathlib import Path

from mixqsam.cli.command import spoken
from mixqsam.cli.console import ProgressBars, err, out
from mixqsam.pipeline import session
from mixqsam.pipeline.session import Session


def open_session(
    cache: Path | None = None, device: str = "cpu", *, processes: int | None = None, is_group: bool = False
) -> Session:
    """The session of a command; `is_group` where it may be one of several processes that torchrun launched."""
    opened = session.open_session(
        cache=cache, device=device, progress=ProgressBars(), processes=processes, is_group=is_group, command=spoken()
    )
    if opened.engine.rank:
        # Rank 0 speaks for all.
        out.quiet = err.quiet = True
    return opened
