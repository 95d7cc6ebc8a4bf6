"""What mkdocs asks of us: the page of the command line is written from the command line itself."""

import html
import os
import subprocess
import sys
from typing import Any

_PLACE = "<!-- the command line -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the page that asks for it."""
    return markdown.replace(_PLACE, _reference()) if _PLACE in markdown else markdown


def _reference() -> str:
    """What `--help-all` says of every command, as Markdown; without the title, which the page has."""
    command = [sys.executable, "-m", "typer", "mixqsam.cli.main", "utils", "docs", "--name", "mixqsam"]
    everything = {**os.environ, "MIXQSAM_HELP_ALL": "1"}
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=everything).stdout  # noqa: S603
    text = text.replace('<span style="font-weight: bold">', "**").replace("</span>", "**")
    return html.unescape(text.split("\n", 1)[1])
